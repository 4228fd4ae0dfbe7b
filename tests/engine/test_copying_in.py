"""`lamina cp` into containers, as docker's cp puts things."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.errors import Conflict, Corrupt, InvalidInput, KernelError, LaminaError, NotFound, Unsupported
from support.leaks import Leaks
from support.running import forget, running
from support.small_images import small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]

MAKE = """
mkdir -p /d/sub /v/w; echo old > /d/one; ln -s /d /to-d; ln -s d/one /to-one; ln -s /d/new /to-new; mkfifo /fifo
ln -s ../../d /d/sub/up; chmod 1777 /d; mkdir /d/dir
"""


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks) -> Engine:
    small_image(store_root, env=["PATH=/bin:/usr/bin"])
    return Engine(store_root)


@pytest.fixture(params=["running", "paused", "stopped"])
def box(engine: Engine, request: pytest.FixtureRequest) -> Iterator[Container]:
    """A container with files, that runs, is paused or has ended."""
    found = engine.create("tiny", ["sh", "-ec", f"{MAKE} touch /ready; exec sleep 600"], name="box")
    try:
        found.start()
        while found.exec(["test", "-e", "/ready"]).returncode:
            pass
        if request.param == "paused":
            found.pause()
        elif request.param == "stopped":
            found.stop(timeout=0)
        yield found
    finally:
        found.remove(force=True)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with something to copy: `file`, and the directory `tree`."""
    place = tmp_path / "place"
    (place / "tree/below").mkdir(parents=True)
    (place / "file").write_text("new")
    (place / "tree/one").write_text("1")
    (place / "tree/below/two").write_text("22")
    os.link(place / "tree/one", place / "tree/below/again")
    (place / "tree/link").symlink_to("one")
    (place / "link").symlink_to("file")
    (place / "to-tree").symlink_to("tree")
    os.mkfifo(place / "tree/fifo")
    for path in ("tree/one", "tree/below", "file"):
        os.chown(place / path, 7, 8)
    for path, mode in (("tree/one", 0o4755), ("tree/below", 0o750), ("file", 0o640)):
        (place / path).chmod(mode)
    os.utime(place / "tree/below", ns=(5, 5_000_000_000))
    os.utime(place / "tree/one", ns=(5, 6_000_000_000))
    return place


TREE = {
    "below": "/", "below/again": "1", "below/two": "22", "fifo": "|", "link": "-> one", "one": "1",
}  # fmt: skip


def seen(box: Container, path: str) -> dict[str, str]:
    """What is at *path* of the container now: contents, "/" for directories, "-> target", "|" for fifos."""
    written = io.BytesIO()
    box.copy_out(path, written)
    written.seek(0)
    found = {}
    with tarfile.open(fileobj=written) as archive:
        for member in archive:
            name = member.name.partition("/")[2]
            if member.isdir():
                what = "/"
            elif member.issym():
                what = f"-> {member.linkname}"
            elif member.isfifo():
                what = "|"
            else:
                file = archive.extractfile(member)
                assert file is not None
                what = file.read().decode()
            if name:
                found[name] = what
    return found


def text(box: Container, path: str) -> str:
    return box_file(box, path)[1].decode()


def box_file(box: Container, path: str) -> tuple[tarfile.TarInfo, bytes]:
    written = io.BytesIO()
    box.copy_out(path, written)
    written.seek(0)
    with tarfile.open(fileobj=written) as archive:
        member = archive.next()
        assert member is not None
        file = archive.extractfile(member) if member.isfile() else None
        return member, file.read() if file is not None else b""


def test_where_a_file_goes(box: Container, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    for number, (source, target, found) in enumerate(
        [
            ("file", "/d", "/d/file"),
            ("file", "/d/", "/d/file"),
            ("file", "d/.", "/d/file"),
            ("file", "/d/one", "/d/one"),
            ("file", "/d/other", "/d/other"),
            ("file", "/to-d", "/d/file"),
            ("file", "/to-d/one", "/d/one"),
            ("file", "/to-one", "/d/one"),
            ("file", "/to-new", "/d/new"),
            ("file", "/d/sub/up/../../../../d/one", "/d/one"),
            ("file", "/", "/file"),
            ("file", "", "/file"),
            ("./file", "/proc/../d", "/d/file"),
            ("file", "/fifo", "/fifo"),
        ]
    ):
        content = f"new {number}"
        (place / "file").write_text(content)
        assert box.copy_in(source, target).size == len(content), target
        member, there = box_file(box, found)
        assert (there.decode(), member.uid, member.gid, member.mode) == (content, 0, 0, 0o640), target
    assert not [name for name in seen(box, "/d") if ".lamina" in name]
    assert box_file(box, "/to-one")[0].issym()


def test_where_a_directory_goes(box: Container, place: Path) -> None:
    for source, target, found in (
        ("tree", "/d", "/d/tree"),
        ("tree/", "/d/sub/", "/d/sub/tree"),
        ("tree", "/fresh", "/fresh"),
        ("tree", "/fresh2/", "/fresh2"),
        ("tree/.", "/fresh3", "/fresh3"),
        ("to-tree/", "/d", "/d/to-tree"),
        ("tree", "/to-new", "/d/new"),
        ("tree/below/..", "/fresh4", "/fresh4"),
    ):
        box.copy_in(f"{place}/{source}", target)
        assert seen(box, found) == TREE, target
        status, _ = box_file(box, f"{found}/below")
        assert (status.uid, status.mode, status.mtime) == (0, 0o750, 5), target
        status, _ = box_file(box, f"{found}/one")
        assert (status.uid, status.mode, status.mtime) == (0, 0o755, 6), target


def test_the_content_alone_is_merged(box: Container, place: Path) -> None:
    for name in (".", ""):
        box.copy_in(f"{place}/tree/{name}", "/d/.") if name else box.copy_in(f"{place}/tree/.", "/d")
        found = seen(box, "/d")
        assert found == {**TREE, "sub": "/", "sub/up": "-> ../../d", "dir": "/"}
    assert box_file(box, "/d")[0].mode == 0o1777
    (place / "tree/dir").mkdir(0o700)
    box.copy_in(f"{place}/tree/.", "/d")
    assert box_file(box, "/d/dir")[0].mode == 0o755  # what is there keeps its permissions


NO_PLACE: list[tuple[str, str, type[Exception]]] = [
    ("nosuch", "/d", NotFound),
    ("file/", "/d", InvalidInput),
    ("file/.", "/d", InvalidInput),
    ("file", "/nosuch/x", NotFound),
    ("file", "/nosuch/", NotFound),
    ("file", "/d/one/", Conflict),
    ("file", "/d/one/x", NotFound),
    ("tree", "/d/one", Conflict),
    ("file", "/dev/null", Conflict),
    ("file", "/dev/pts/ptmx", Conflict),
    ("tree", "/nosuch/x", NotFound),
    ("file", "/proc/x", Unsupported),
    ("file", "/sys/x", LaminaError),
    ("tree", "/sys/fs/cgroup", LaminaError),
    ("file", "/d/x\0y", InvalidInput),
    ("taken/.", "/d", Conflict),
    ("taken2/.", "/d", Conflict),
]


def test_what_has_no_place(box: Container, place: Path) -> None:
    (place / "taken").mkdir()
    (place / "taken/dir").write_text("a file where a directory is")
    (place / "taken2/one").mkdir(parents=True)
    before = seen(box, "/d")
    for source, target, error in NO_PLACE:
        if box.state == "exited" and target.startswith(("/proc", "/sys", "/dev")):
            continue  # they are there while it runs
        with pytest.raises(error):
            box.copy_in(f"{place}/{source}", target)
    assert seen(box, "/d") == before


def test_owners_and_rights_are_kept_if_asked_for(box: Container, place: Path) -> None:
    os.setxattr(place / "file", "user.note", b"kept")
    os.setxattr(place / "file", "trusted.overlay.opaque", b"y")
    box.copy_in(place / "tree", "/kept", archive=True)
    box.copy_in(place / "file", "/kept/file", archive=True)
    status, _ = box_file(box, "/kept/one")
    assert (status.uid, status.gid, status.mode) == (7, 8, 0o4755)
    status, _ = box_file(box, "/kept/below")
    assert (status.uid, status.gid, status.mode) == (7, 8, 0o750)
    attributes = box_file(box, "/kept/file")[0].pax_headers
    assert attributes.get("SCHILY.xattr.user.note") == "kept"
    assert not [name for name in attributes if "overlay" in name]


def test_links_are_copied_or_followed(box: Container, place: Path) -> None:
    box.copy_in(place / "link", "/d")
    box.copy_in(place / "link", "/d/followed", follow=True)
    box.copy_in(place / "to-tree", "/d", follow=True)
    found = seen(box, "/d")
    assert (found["link"], found["followed"], found["to-tree/one"]) == ("-> file", "new", "1")


def test_what_runs_sees_it_and_a_start_does(engine: Engine, place: Path) -> None:
    """Of a container that was only created as well, in its volumes too, whose mount points are not there yet."""
    box = engine.create(
        "tiny", ["sh", "-c", "cat /d/file /v/w/file /v/file; id -u"], name="box", volumes=["x:/v/w"]
    )
    try:
        box.copy_in(place, "/d")
        box.copy_in(place / "file", "/v/w/file")
        box.copy_in(place / "file", "/v")
        volume = Path(os.fsdecode(engine.store.path), "volumes/x/_data")
        assert os.listdir(volume) == ["file"]
        box.start()
        assert box.wait() == 0
        assert b"".join(entry.data for entry in box.logs()) == b"newnewnew0\n"
    finally:
        forget(engine)


def test_while_it_runs_files_are_replaced_at_once(engine: Engine, place: Path) -> None:
    """Whoever has the old file open keeps it; a hard link of it stays what it was."""
    with running(engine, "sh", "-c", "echo old > /f; ln /f /g; exec 3< /f; touch /ready; sleep 600") as box:
        while box.exec(["test", "-e", "/ready"]).returncode:
            pass
        box.copy_in(place / "file", "/f")
        done = box.exec(["sh", "-c", "cat /f /g /proc/1/fd/3"], capture_output=True, text=True)
        assert done.stdout == "newold\nold\n"


def test_an_archive_from_anywhere(box: Container, place: Path, tmp_path: Path) -> None:
    def archive() -> bytes:
        written = io.BytesIO()
        with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as archive:
            archive.add(place / "tree", "a/b/tree")
        return written.getvalue()

    def opened(content: bytes) -> int:
        (tmp_path / "archive.tar").write_bytes(content)
        return os.open(tmp_path / "archive.tar", os.O_RDONLY)

    plain, squeezed = archive(), gzip.compress(archive())
    for number, content in enumerate((plain, squeezed)):
        assert box.copy_in(io.BytesIO(content), "/d").size == 3
        descriptor = opened(content)
        box.copy_in(descriptor, "/d/dir")
        os.close(descriptor)
        found = seen(box, "/d")
        assert {name: found[f"a/b/tree/{name}"] for name in TREE} == TREE, number
        assert {name: found[f"dir/a/b/tree/{name}"] for name in TREE} == TREE
        status, _ = box_file(box, "/d/a/b/tree/one")
        assert (status.uid, status.gid, status.mode) == (7, 8, 0o4755)
    for target, error in (("/d/one", Conflict), ("/d/nosuch", NotFound)):
        with pytest.raises(error):
            box.copy_in(io.BytesIO(plain), target)
    with pytest.raises(Corrupt):
        box.copy_in(io.BytesIO(plain[: plain.index(b"22\0")]), "/d")
    with pytest.raises(InvalidInput):
        box.copy_in(io.BytesIO(b"no archive at all" * 100), "/d")


def test_an_archive_through_a_link_of_the_destination(box: Container) -> None:
    """As the merged /usr has them: what an archive has below bin goes where the link leads; a directory does not."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        member = tarfile.TarInfo("to-d/two")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"2"))
    box.copy_in(io.BytesIO(written.getvalue()), "/")
    assert text(box, "/d/two") == "2"
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        member = tarfile.TarInfo("to-d")
        member.type = tarfile.DIRTYPE
        archive.addfile(member)
    with pytest.raises(Conflict):
        box.copy_in(io.BytesIO(written.getvalue()), "/")


def test_the_reading_of_a_file_object_fails(box: Container) -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise ZeroDivisionError("not of ours")

    with pytest.raises(ZeroDivisionError):
        box.copy_in(Broken(), "/d")  # type: ignore[arg-type]


def test_progress_is_told(box: Container, place: Path) -> None:
    told: list[int] = []
    (place / "large").write_bytes(os.urandom(3 << 20))
    box.copy_in(place / "large", "/d", progress=told.append)
    assert told == sorted(told)
    assert told[-1] > 3 << 20
    told.clear()
    threads: set[str] = set()

    def tell(size: int) -> None:
        told.append(size)
        threads.update(thread.name for thread in threading.enumerate())

    box.copy_out("/d/large", place / "back", progress=tell)
    assert told[-1] > 3 << 20
    assert "lamina-copy" in threads  # a name that is none does not begin at all, since Python 3.14
    assert (place / "back").stat().st_size == 3 << 20


def test_read_only_places(engine: Engine, place: Path) -> None:
    volumes = [f"{place}/tree:/ro:ro", "rw:/rw"]
    created = engine.create("tiny", ["sleep", "600"], name="box", volumes=volumes, read_only=True)
    try:
        for state in ("created", "running"):
            assert created.state == state
            for target in ("/x", "/ro/x", "/etc/hosts"):
                with pytest.raises(Conflict, match=r"read-only|mounted"):
                    created.copy_in(place / "file", target)
            created.copy_in(place / "file", "/rw")
            assert text(created, "/rw/file") == "new"
            created.start()
    finally:
        forget(engine)
    assert sorted(os.listdir(place / "tree")) == ["below", "fifo", "link", "one"]


def test_a_full_disk_leaves_no_half_file(engine: Engine, place: Path) -> None:
    (place / "large").write_bytes(os.urandom(1 << 20))
    with running(engine, "sleep", "600", options=("--tmpfs", "/t:size=512k")) as box:
        box.copy_in(place / "file", "/t")
        with pytest.raises(KernelError, match="space") as caught:
            box.copy_in(place / "large", "/t/file")
        assert caught.value.remedy
        assert seen(box, "/t") == {"file": "new"}
        assert text(box, "/t/file") == "new"


def test_a_container_that_is_in_use_and_does_not_run(engine: Engine, place: Path) -> None:
    """Two copies into it take turns; a start waits for one, or says so."""
    assert engine.run("tiny", ["true"], name="box").returncode == 0
    try:
        box = engine.container("box")
        reading, writing = os.pipe()
        import threading

        thread = threading.Thread(target=lambda: box.copy_in(reading, "/tmp"))
        thread.start()
        os.write(writing, tar_of("a", b"1"))
        engine.container("box").copy_in  # noqa: B018
        os.close(writing)
        thread.join(200)
        assert not thread.is_alive()
        box.copy_in(place / "file", "/tmp")
        assert seen(box, "/tmp") == {"a": "1", "file": "new"}
        os.close(reading)
    finally:
        forget(engine)


def tar_of(name: str, content: bytes) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return written.getvalue()


def test_it_ends_meanwhile(engine: Engine) -> None:
    with running(engine, "sleep", "600") as box:

        def pieces() -> Iterator[bytes]:
            yield tar_of("a", bytes(1 << 20))[: 1 << 20]  # more than a pipe holds: it is being unpacked
            box.kill()
            box.wait()
            yield bytes(1 << 20)

        class Source(io.RawIOBase):
            def __init__(self) -> None:
                self.pieces = pieces()

            def read(self, size: int = -1) -> bytes:
                return next(self.pieces, b"")

        with pytest.raises(Conflict, match="ended meanwhile"):
            box.copy_in(Source(), "/tmp")  # type: ignore[arg-type]


def test_one_over_the_host(engine: Engine, place: Path) -> None:
    """Files go into its layer, not onto this system, whether it runs or not."""
    with running(engine, "sleep", "600", image="host") as box:
        box.copy_in(place / "file", str(place / "inside"))
        assert text(box, str(place / "inside")) == "new"
        assert not (place / "inside").exists()
    assert engine.run("host", ["true"], name="box").returncode == 0
    try:
        engine.container("box").copy_in(place / "file", str(place / "inside"))
        assert not (place / "inside").exists()
        assert engine.container("box").changes()[-1].path == os.fsencode(place / "inside")
    finally:
        forget(engine)


def test_the_command_line(box: Container, engine: Engine, place: Path) -> None:
    def cp(*words: str, input: bytes = b"") -> tuple[int, str]:
        argv = [sys.executable, "-m", "lamina", "--root", os.fsdecode(engine.store.path), "cp", *words]
        done = subprocess.run(argv, input=input, capture_output=True, timeout=200, cwd=place)
        assert done.stdout == b""
        return done.returncode, done.stderr.decode()

    assert cp("file", "box:/d") == (0, "")  # nobody looks at it
    assert cp("-q", "-L", "link", "box:/d/followed") == (0, "")
    assert cp("-a", "-q", "tree", "box:/d") == (0, "")
    assert cp("-q", "-", "box:/d", input=tar_of("./x", b"x")) == (0, "")
    found = seen(box, "/d")
    assert (found["file"], found["followed"], found["tree/one"], found["x"]) == ("new", "new", "1", "x")
    assert box_file(box, "/d/tree/one")[0].uid == 7
    for words in (("nosuch", "box:/d"), ("-", "box:/d/one"), ("file", "nosuch:/d"), ("/dev/null", "box:/d")):
        status, told = cp(*words, input=tar_of("x", b"x"))
        assert (status, told.startswith("lamina: ")) == (125, True), words
    assert '"extract-to-dir"' in Path(os.fsdecode(engine.store.events), "log").read_text()
