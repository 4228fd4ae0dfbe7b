"""`lamina cp` out of containers, as docker's cp puts things; and what a hostile container tries with it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.errors import Conflict, LaminaError, NotFound
from support.leaks import Leaks
from support.running import forget, running
from support.small_images import small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]

MAKE = """
mkdir -p /d/sub /d/empty; echo one > /d/one; echo two > /d/sub/two; ln -s one /d/link; ln /d/one /d/again
ln -s /d /to-d; echo secret > /secret; ln -s /secret /to-secret; chmod 4755 /d/sub/two; chown 7:8 /d/one
ln -s / /d/root
"""


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks) -> Engine:
    small_image(store_root, env=["PATH=/bin:/usr/bin"])
    return Engine(store_root)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty directory to copy to."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.fixture(params=["running", "stopped"])
def box(engine: Engine, request: pytest.FixtureRequest) -> Iterator[Container]:
    """A container with files, that runs or has ended."""
    if request.param == "running":
        with running(engine, "sleep", "600") as found:
            assert found.exec(["sh", "-ec", MAKE]).returncode == 0
            yield found
        return
    assert engine.run("tiny", ["sh", "-ec", MAKE], name="box").returncode == 0
    yield engine.container("box")
    forget(engine)


def tree(top: Path) -> dict[str, str]:
    """Every path below *top*, with its content, "/" for directories, "-> target" for links."""
    found = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        else:
            found[name] = "/" if path.is_dir() else path.read_text()
    return found


D = {
    "again": "one\n", "empty": "/", "link": "-> one", "one": "one\n", "root": "-> /", "sub": "/", "sub/two": "two\n",
}  # fmt: skip


def test_a_directory_goes_into_one_that_is_there(box: Container, place: Path) -> None:
    box.copy_out("/d", str(place))
    assert tree(place) == {"d": "/", **{f"d/{name}": what for name, what in D.items()}}
    assert (place / "d/one").stat().st_ino == (place / "d/again").stat().st_ino


def test_a_directory_becomes_one_that_is_not_there(box: Container, place: Path) -> None:
    for source in ("/d", "d", "/d/", "/d/.", "/to-d/", "/to-d/.", "/d/root/d/../d"):
        target = place / source.replace("/", "_")
        copied = box.copy_out(source, str(target))
        assert tree(target) == D, source
        assert copied.size == 8
    assert not [name for name in os.listdir(place) if name.startswith(".lamina")]


def test_the_content_alone_is_merged(box: Container, place: Path) -> None:
    (place / "sub").mkdir()
    (place / "sub/mine").write_text("mine")
    (place / "one").write_text("old")
    box.copy_out("/d/.", str(place))
    assert tree(place) == {**D, "sub/mine": "mine"}


def test_files_and_links(box: Container, place: Path) -> None:
    box.copy_out("/d/one", str(place))
    box.copy_out("/d/one", str(place / "other"))
    box.copy_out("/to-secret", str(place / "link"))
    box.copy_out("/to-secret", str(place / "followed"), follow=True)
    box.copy_out("/to-secret", str(place), follow=True)
    assert tree(place) == {
        "one": "one\n", "other": "one\n", "link": "-> /secret", "followed": "secret\n", "to-secret": "secret\n",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "target", "error"),
    [
        ("/nosuch", "x", NotFound),
        ("/d/one/", "x", LaminaError),
        ("/d/one", "nosuch/x", NotFound),
        ("/d/one", "nosuch/", NotFound),
        ("/d/one", "file/", Conflict),
        ("/d", "file", Conflict),
        ("/d/one", "fifo", Conflict),
        ("/d/.", "taken", Conflict),
    ],
)
def test_what_has_no_place(
    box: Container, place: Path, source: str, target: str, error: type[Exception]
) -> None:
    (place / "file").write_text("mine")
    (place / "taken/one").mkdir(parents=True)
    os.mkfifo(place / "fifo")
    with pytest.raises(error):
        box.copy_out(source, os.path.join(place, target))
    assert (place / "file").read_text() == "mine"
    assert sorted(os.listdir(place)) == ["fifo", "file", "taken"]


def test_copies_are_the_callers_unless_asked_for(box: Container, place: Path) -> None:
    box.copy_out("/d", str(place / "plain"))
    box.copy_out("/d", str(place / "kept"), archive=True)
    plain, kept = (place / "plain/one").stat(), (place / "kept/one").stat()
    assert (plain.st_uid, plain.st_gid, kept.st_uid, kept.st_gid) == (0, 0, 7, 8)
    modes = [(place / name / "sub/two").stat().st_mode & 0o7777 for name in ("plain", "kept")]
    assert modes == [0o755, 0o4755]


def test_an_archive_on_standard_output(box: Container, engine: Engine) -> None:
    argv = [sys.executable, "-m", "lamina", "--root", os.fsdecode(engine.store.path), "cp", "box:/d", "-"]
    done = subprocess.run(argv, capture_output=True, check=True, timeout=200)
    assert done.stderr == b""
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        members = {member.name: member for member in archive}
    assert set(members) == {"d", *(f"d/{name}" for name in D)}
    assert (members["d/again"].uid, members["d/again"].gid, members["d/one"].linkname) == (7, 8, "d/again")


def test_the_command_line(box: Container, engine: Engine, place: Path) -> None:
    def cp(*words: str) -> tuple[int, str]:
        argv = [sys.executable, "-m", "lamina", "--root", os.fsdecode(engine.store.path), "cp", *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=200, cwd=place)
        return done.returncode, done.stderr

    assert cp("box:/d/one", ".") == (0, "")  # nobody looks at it
    assert cp("-q", "box:/d/one", "a:b") != (0, "")  # a container's, as docker reads it
    assert cp("-q", "box:/d/one", "./a:b") == (0, "")
    assert tree(place) == {"one": "one\n", "a:b": "one\n"}
    for words in (("box:/d", "box:/e"), ("./one", "other"), ("./nosuch", "box:/e"), ("./one", "box:/e/f")):
        status, said = cp(*words)
        assert status and said.startswith("lamina: "), words
    assert '"archive-path"' in Path(os.fsdecode(engine.store.events), "log").read_text()


def test_volumes_of_one_that_does_not_run(engine: Engine, place: Path) -> None:
    """Also by a link into one, and not what was in memory."""
    script = "echo x > /v/x; echo y > /gone/y; ln -s /v/x /link; touch /seen"
    made = engine.run("tiny", ["sh", "-c", script], name="box", volumes=["data:/v"], tmpfs=["/gone"])
    assert made.returncode == 0
    try:
        box = engine.container("box")
        box.copy_out("/v/x", str(place))
        box.copy_out("/link", str(place / "followed"), follow=True)
        box.copy_out("/etc/hostname", str(place))
        assert (place / "hostname").read_text().strip() == box.id[:12]
        assert tree(place) == {"x": "x\n", "followed": "x\n", "hostname": f"{box.id[:12]}\n"}
        with pytest.raises(NotFound):
            box.copy_out("/gone/y", str(place))
    finally:
        forget(engine)


def test_a_source_of_a_volume_that_is_gone(engine: Engine, place: Path) -> None:
    (place / "source").mkdir()
    made = engine.run("tiny", ["true"], name="box", volumes=[f"{place}/source:/v"])
    assert made.returncode == 0
    (place / "source").rmdir()
    try:
        with pytest.raises(NotFound, match="not there any more"):
            engine.container("box").copy_out("/etc/passwd", str(place))
    finally:
        forget(engine)


def test_names_that_are_marks_in_layers(box: Container, place: Path) -> None:
    """What would delete the caller's files if it were taken for a layer's whiteout is a file like any other."""
    if box.state == "running":
        assert (
            box.exec(["sh", "-ec", "mkdir /w; echo a > /w/.wh.mine; echo b > /w/.wh..wh..opq"]).returncode
            == 0
        )
    else:
        source = place / "w"
        source.mkdir()
        (source / ".wh.mine").write_text("a\n")
        (source / ".wh..wh..opq").write_text("b\n")
        box.copy_in(source, "/w")
        (source / ".wh.mine").unlink()
        (source / ".wh..wh..opq").unlink()
        source.rmdir()
    (place / "w").mkdir()
    (place / "w/mine").write_text("mine")
    box.copy_out("/w", str(place))
    assert tree(place / "w") == {"mine": "mine", ".wh.mine": "a\n", ".wh..wh..opq": "b\n"}


def test_an_archive_to_a_file_object(box: Container) -> None:
    written = io.BytesIO()
    assert box.copy_out("/d", written).size == len(written.getvalue())
    written.seek(0)
    with tarfile.open(fileobj=written) as archive:
        assert {member.name for member in archive} == {"d", *(f"d/{name}" for name in D)}


def test_one_over_the_host_that_does_not_run(engine: Engine, place: Path) -> None:
    """It shows what it changed, on each file system of this machine, and the rest as it is; and no store."""
    (place / "gone").write_text("x")
    script = 'echo mine >/etc/lamina-made; echo mine >"$1/made"; rm -f "$1/gone"'
    assert engine.run("host", ["sh", "-c", script, "sh", str(place)], name="box").returncode == 0
    try:
        box = engine.container("box")
        for path in ("/etc/lamina-made", f"{place}/made", "/etc/passwd"):
            box.copy_out(path, str(place / "copy"))
            expected = Path(path).read_text() if path == "/etc/passwd" else "mine\n"
            assert (place / "copy").read_text() == expected, path
        with pytest.raises(NotFound):
            box.copy_out(f"{place}/gone", str(place / "copy"))
        box.copy_out(os.fsdecode(engine.store.path), str(place / "store"))
        assert list((place / "store").iterdir()) == []
        box.copy_in(place / "gone", f"{place}/in")
        assert box.start() == []
        assert (box.wait(), not (place / "in").exists()) == (0, True)
        box.copy_out(f"{place}/in", str(place / "copy"))
        assert (place / "copy").read_text() == "x"
        assert not os.path.exists("/etc/lamina-made")
    finally:
        forget(engine)


# -- attacks


def test_symlinks_to_the_host_lead_into_the_container(box: Container, place: Path) -> None:
    """A link to /etc/passwd, and ways up, mean the container's files."""
    outside = place / "outside"
    outside.write_text("of the host")
    assert box.copy_out("/d/root/secret", str(place / "a")).size == 7
    for path in (f"/d/root{outside}", f"/../../../..{outside}", f"/d/root/../..{outside}"):
        with pytest.raises(NotFound):
            box.copy_out(path, str(place / "b"), follow=True)


def test_cve_2018_15664_symlink_exchange_race(engine: Engine, place: Path) -> None:
    """A directory and a link to "/" change places all the time: only the container's own file is ever copied."""
    (place / "host").mkdir()
    (place / "host/file").write_text("of the host")
    inner, script = f"{place}/host", """
        mkdir -p $1; echo of the container > $1/file; mkdir -p /s/x /real; echo of the container > /real/file
        ln -s / /link; mkdir -p /real$1; echo of the container > /real$1/file; touch /ready
        while :; do mv /real /stash 2>/dev/null; mv /link /real; mv /real /link; mv /stash /real; done
    """  # fmt: skip
    with running(engine, "sh", "-c", script, "sh", inner) as box:
        while box.exec(["test", "-e", "/ready"]).returncode:
            pass
        found = 0
        for turn in range(60):
            target = place / f"copy{turn}"
            try:
                box.copy_out(f"/real{inner}/file", str(target))
            except NotFound:
                continue
            assert target.read_text() == "of the container\n"
            found += 1
        assert found


def test_exchanged_below_a_directory_that_is_copied(engine: Engine, place: Path) -> None:
    """What was listed as a directory is a link to the host's files when it is opened."""
    (place / "host").mkdir()
    (place / "host/file").write_text("of the host")
    script = """
        mkdir -p /t/x /stash; echo of the container > /t/x/file; ln -s $1 /stash/x; touch /ready
        while :; do mv /t/x /y; mv /stash/x /t/x; mv /t/x /stash/x; mv /y /t/x; done
    """
    with running(engine, "sh", "-c", script, "sh", f"{place}/host") as box:
        while box.exec(["test", "-e", "/ready"]).returncode:
            pass
        for turn in range(40):
            target = place / f"copy{turn}"
            box.copy_out("/t", str(target))
            found = tree(target)
            assert set(found.values()) <= {"/", "of the container\n", f"-> {place}/host"}


def test_device_nodes_are_left_out(engine: Engine, place: Path) -> None:
    make = "mkdir /d; mknod /d/disk b 8 0; mknod /d/zero c 1 5; mkfifo /d/fifo; echo x > /d/x"
    with running(engine, "sleep", "600") as box:
        assert box.exec(["sh", "-ec", make], privileged=True).returncode == 0
        assert box.copy_out("/d", str(place), archive=True).left_out == 2
        with pytest.raises(LaminaError):
            box.copy_out("/d/disk", str(place / "disk"))
    assert sorted(os.listdir(place / "d")) == ["fifo", "x"]
    assert not (place / "disk").exists()


def test_links_at_the_destination_are_replaced(box: Container, place: Path) -> None:
    """A hard or symbolic link that waits where a copy goes: what it is a link to stays as it was."""
    outside = place / "outside"
    outside.write_text("mine")
    target = place / "target"
    target.mkdir()
    (target / "one").symlink_to(outside)
    os.link(outside, target / "again")
    box.copy_out("/d/.", str(target))
    assert outside.read_text() == "mine"
    assert tree(target) == D


def test_magic_links_of_proc_are_not_followed(engine: Engine, place: Path) -> None:
    with running(engine, "sleep", "600") as box:
        for path in ("/proc/1/root/etc", "/proc/1/cwd/", "/proc/1/exe"):
            with pytest.raises(LaminaError):
                box.copy_out(path, str(place / "x"), follow=True)
    assert not os.listdir(place)
