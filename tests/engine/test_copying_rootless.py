"""`lamina cp` without root: files of subordinate ids that their owner alone may read come out, as the caller's."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.image_archives import tree_tar
from support.rootless import Rootless
from support.small_images import busybox_tree

pytestmark = [pytest.mark.userns, pytest.mark.root, pytest.mark.peer("busybox", "newuidmap")]

MAKE = "mkdir -p /d/shut; echo of seven > /d/shut/f; chown -R 7:8 /d; chmod 0400 /d/shut/f; chmod 0500 /d /d/shut"


@pytest.fixture(params=["running", "stopped"])
def user(rootless: Rootless, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Rootless]:
    """Somebody with a container `box` of files of the user 7, that runs or has ended."""
    (tmp_path / "tree").mkdir()
    busybox_tree(tmp_path / "tree")
    files = rootless.tmp / "files.tar"
    files.write_bytes(tree_tar(tmp_path / "tree"))
    rootless.give(files)
    assert rootless.lamina("import", files, "tiny").returncode == 0
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
