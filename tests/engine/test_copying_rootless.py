"""`lamina cp` without root: files of subordinate ids that their owner alone may read come out, as the caller's; what
goes in is the container's root's.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator

import pytest

from support.rootless import Rootless
from support.small_images import import_tiny

pytestmark = [pytest.mark.userns, pytest.mark.root, pytest.mark.peer("busybox", "newuidmap")]

MAKE = "mkdir -p /d/shut /t; echo of seven > /d/shut/f; chown -R 7:8 /d; chmod 0400 /d/shut/f; chmod 0500 /d /d/shut"


@pytest.fixture(params=["running", "stopped"])
def user(rootless: Rootless, request: pytest.FixtureRequest) -> Iterator[Rootless]:
    """Somebody with a container `box` of files of the user 7, that runs or has ended."""
    import_tiny(rootless)
    if request.param == "running":
        made = rootless.lamina("run", "-d", "--name", "box", "tiny", "sleep", "600")
        assert made.returncode == 0, made.stderr
        made = rootless.lamina("exec", "box", "sh", "-ec", MAKE)
    else:
        made = rootless.lamina("run", "--name", "box", "tiny", "sh", "-ec", MAKE)
    assert made.returncode == 0, made.stderr
    yield rootless
    assert rootless.lamina("rm", "-f", "box").returncode == 0


def test_what_only_its_owner_may_read(user: Rootless) -> None:
    place = user.mkdir("place")
    for target in (place, place / "new"):
        done = user.lamina("cp", "-q", "box:/d", target)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    for copy in ("d", "new"):
        status = (place / copy / "shut/f").stat()
        assert (status.st_uid, status.st_mode & 0o777) == (user.uid, 0o400)
        assert (place / copy / "shut/f").read_text() == "of seven\n"
        assert (place / copy).stat().st_mode & 0o777 == 0o500
    done = user.lamina("cp", "-q", "box:/d", place)  # where there is one already that may not be written to
    assert done.returncode and "Permission denied" in done.stderr
    (place / "d").chmod(0o700)
    (place / "d/shut").chmod(0o700)
    (place / "d/shut/f").write_text("old")
    done = user.lamina("cp", "-q", "box:/d", place)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert (place / "d/shut/f").read_text() == "of seven\n"
    assert sorted(os.listdir(place)) == ["d", "new"]


def test_the_archive_has_the_ids_of_the_container(user: Rootless) -> None:
    done = user.lamina("cp", "box:/d", "-", text=False)
    assert done.returncode == 0, done.stderr
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        found = {member.name: (member.uid, member.gid) for member in archive}
    assert found == {"d": (7, 8), "d/shut": (7, 8), "d/shut/f": (7, 8)}


def test_owners_cannot_be_kept(user: Rootless) -> None:
    done = user.lamina("cp", "-a", "box:/d", user.mkdir("place"))
    assert done.returncode and "only root" in done.stderr
    assert os.listdir(user.tmp / "place") == []


def test_into_what_only_its_owner_may_write_to(user: Rootless) -> None:
    """As the container's root; also to where a file of another name was, and into a volume."""
    source = user.mkdir("source")
    (source / "f").write_text("new\n")
    (source / "f").chmod(0o4640)
    (source / "l").symlink_to("f")
    user.give(source)
    for target in ("box:/d/shut/in", "box:/t/in"):
        done = user.lamina("cp", "-q", source, target)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    done = user.lamina("cp", "-q", source / "f", "box:/d/shut/f")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    found: dict[str, tuple[int, int, str]] = {}
    for place in ("box:/d", "box:/t"):
        done = user.lamina("cp", place, "-", text=False)
        assert done.returncode == 0, done.stderr
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            found |= {member.name: (member.uid, member.gid, f"{member.mode:o}") for member in archive}
    assert found["d/shut/in/f"] == found["t/in/f"] == (0, 0, "640")
    assert found["d/shut/in"][:2] == found["d/shut/in/l"][:2] == (0, 0)
    assert found["d/shut/f"] == (0, 0, "640")
    assert found["d/shut"] == (7, 8, "500")


def test_owners_in_the_container(user: Rootless) -> None:
    """Those of an archive are the container's; an id that it does not have is an error, and leaves nothing."""

    def archive(uid: int) -> bytes:
        written = io.BytesIO()
        with tarfile.open(fileobj=written, mode="w") as made:
            member = tarfile.TarInfo("f")
            member.uid, member.gid, member.size = uid, 8, 4
            made.addfile(member, io.BytesIO(b"new\n"))
        return written.getvalue()

    done = user.lamina("cp", "-q", "-", "box:/d/shut", input=archive(7), text=False)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    done = user.lamina("cp", "-q", "-", "box:/d", input=archive(900_000), text=False)
    assert done.returncode == 125
    assert b"no ids 900000:8" in done.stderr
    done = user.lamina("cp", "box:/d", "-", text=False)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as found:
        assert {member.name: (member.uid, member.gid) for member in found} == {
            "d": (7, 8), "d/shut": (7, 8), "d/shut/f": (7, 8),
        }  # fmt: skip


def test_errors_come_from_the_other_side(user: Rootless) -> None:
    for words in (
        ("/etc/passwd", "box:/nosuch/x"),
        ("/etc/passwd", "box:/etc/passwd/"),
        (user.mkdir("readable"), "box:/etc/passwd"),
    ):
        done = user.lamina("cp", *words)
        assert done.returncode == 125
        assert done.stderr.startswith("lamina: copy to /"), done.stderr


def test_what_cannot_be_read_here_is_named(user: Rootless) -> None:
    source = user.mkdir("source/below")
    (source / "shut").write_text("of root")
    (source / "shut").chmod(0)
    done = user.lamina("cp", user.tmp / "source", "box:/tmp")
    assert done.returncode == 125
    assert done.stderr.startswith(f"lamina: copy {user.tmp}/source/below/shut: Permission denied"), (
        done.stderr
    )
