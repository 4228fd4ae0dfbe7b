"""`Container.files`: files of a container in the words of pathlib."""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from lamina import Container, Engine
from lamina.engine.files import ContainerPath
from lamina.errors import Conflict, InvalidInput, LaminaError, NotFound, Unsupported
from support.held import held_descriptors
from support.leaks import Leaks
from support.running import forget
from support.small_images import small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Container]]:
    """One container that runs and one that has ended, both with a volume at /v."""
    root = tmp_path_factory.mktemp("store") / "lamina"
    small_image(root, env=["PATH=/bin:/usr/bin"])
    engine = Engine(root)
    names = ("running", "stopped")
    found = {
        name: engine.create("tiny", ["sleep", "600"], name=name, volumes=[f"{name}:/v"]) for name in names
    }
    for container in found.values():
        container.start()
    found["stopped"].stop(timeout=0)
    yield found
    for name in names:
        forget(engine, name)


@pytest.fixture(params=["running", "stopped"])
def files(shared: dict[str, Container], request: pytest.FixtureRequest) -> ContainerPath:
    """An empty directory of its own, of a container that runs or not."""
    place = shared[request.param].files / "tests" / os.urandom(4).hex()
    place.mkdir(parents=True)
    return place


def test_reading_and_writing(files: ContainerPath) -> None:
    file = files / "motd"
    assert file.write_text("grüße\n") == 6
    assert file.read_text() == "grüße\n"
    assert file.read_bytes() == "grüße\n".encode()
    assert file.write_bytes(b"short") == 5
    assert file.read_text() == "short"
    assert file.stat().st_size == 5
    (files / "empty").write_bytes(b"")
    assert (files / "empty").read_bytes() == b""
    large = os.urandom(3 << 20)
    (files / "large").write_bytes(large)
    assert (files / "large").read_bytes() == large
    with pytest.raises(TypeError):
        file.write_text(b"bytes")  # type: ignore[arg-type]


def test_what_it_makes_is_roots_whatever_the_umask(files: ContainerPath) -> None:
    old = os.umask(0o077)
    try:
        (files / "file").write_text("x")
        (files / "dir").mkdir()
        (files / "touched").touch()
        (files / "closed").mkdir(0o700)
        (files / "open").mkdir(0o777)
    finally:
        os.umask(old)
    found = {path.name: path.stat() for path in files.iterdir()}
    assert {name: stat.S_IMODE(status.st_mode) for name, status in found.items()} == {
        "file": 0o644, "dir": 0o755, "touched": 0o644, "closed": 0o700, "open": 0o755,
    }  # fmt: skip
    assert {(status.st_uid, status.st_gid) for status in found.values()} == {(0, 0)}


def test_writing_keeps_what_a_file_is(files: ContainerPath) -> None:
    """Permissions, other names, and who has it open: it is the same file."""
    file = files / "file"
    file.write_text("old")
    file.chmod(0o600)
    (files / "again").hardlink_to(file)
    (files / "link").symlink_to("file")
    before = file.stat()
    (files / "link").write_text("new")
    after = file.stat()
    assert (files / "again").read_text() == "new"
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)


@pytest.mark.parametrize(
    "mode", ["r", "w", "a", "x", "r+", "w+", "a+", "rb", "wb", "ab", "xb", "rb+", "br+", "w+b", "ab+"]
)
@pytest.mark.parametrize("there", [True, False])
def test_the_modes_of_open(files: ContainerPath, tmp_path: Path, mode: str, there: bool) -> None:
    """What open() does with a file here."""

    def tried(path: Any) -> Any:
        if there:
            path.write_bytes(b"one\ntwo\n")
        try:
            with path.open(mode) as file:
                found = [type(file), file.mode, file.tell(), file.readable(), file.writable()]
                if file.readable():
                    found.append(file.read())
                    file.seek(0, os.SEEK_END)
                if file.writable():
                    found.append(file.write(b"three" if "b" in mode else "three"))
            return [*found, path.read_bytes()]
        except OSError as error:
            return type(error), error.errno, error.filename == str(path)

    assert tried(files / "file") == tried(tmp_path / "file")


def test_other_arguments_of_open(files: ContainerPath) -> None:
    file = files / "file"
    with file.open("w", encoding="latin-1", newline="\r\n") as text:
        text.write("ü\n")
    assert file.read_bytes() == b"\xfc\r\n"
    assert file.read_text("latin-1") == "ü\n"
    assert file.read_text("latin-1", newline="") == "ü\r\n"
    with pytest.raises(UnicodeDecodeError):
        file.read_text()
    assert file.read_text(errors="replace").startswith("\ufffd")
    with file.open("rb", buffering=0) as raw:
        assert isinstance(raw, io.FileIO)
        assert raw.name == str(file)
    for mode in ("", "rw", "rbt", "rr", "z", "b"):
        with pytest.raises(ValueError, match="mode"):
            file.open(mode)
    with pytest.raises(ValueError, match="unbuffered"):
        file.open("r", 0)
    with pytest.raises(ValueError, match="binary"):
        file.open("rb", encoding="utf-8")


def test_the_path_itself(shared: dict[str, Container]) -> None:
    box = shared["running"]
    path = box.files / "etc" / "conf.d" / "a.tar.gz"
    assert str(path) == path.as_posix() == "/etc/conf.d/a.tar.gz"
    assert (path.name, path.stem, path.suffix, path.suffixes) == ("a.tar.gz", "a.tar", ".gz", [".tar", ".gz"])
    assert path.parts == ("/", "etc", "conf.d", "a.tar.gz")
    assert [str(parent) for parent in path.parents] == ["/etc/conf.d", "/etc", "/"]
    assert path.parent / "/var" == box.files / "var" == box.files.joinpath("var")
    assert path.with_name("b") == path.with_suffix("").with_stem("b").with_name("b")
    assert path.relative_to("/etc") == path.relative_to(box.files / "etc") == PurePosixPath("conf.d/a.tar.gz")
    assert path.is_relative_to("/etc")
    assert not path.is_relative_to("/var")
    assert path.match("*.gz")
    assert repr(path) == "<ContainerPath running:/etc/conf.d/a.tar.gz>"
    assert path.container is box
    assert path in {box.files / "etc/conf.d/a.tar.gz"}
    assert path != shared["stopped"].files / "etc/conf.d/a.tar.gz"
    assert path != Path("/etc/conf.d/a.tar.gz")
    assert sorted([box.files / "b", box.files / "a"])[0].name == "a"
    with pytest.raises(ValueError, match="subpath"):
        path.relative_to("/var")
    with pytest.raises(TypeError):
        os.fspath(path)  # type: ignore[call-overload]  # it is no path of this system
    with pytest.raises(InvalidInput):
        box.files / "a\0b"


def test_paths_have_an_order(shared: dict[str, Container]) -> None:
    box = shared["running"]
    one, two, below = box.files / "a", box.files / "b", box.files / "a/x"
    assert sorted([two, below, one]) == [one, below, two]
    assert one < below <= two >= two > one
    assert (one.anchor, one.root, one.is_absolute(), bytes(below)) == ("/", "/", True, b"/a/x")
    with pytest.raises(TypeError):
        one < "/b"  # type: ignore[operator]  # noqa: B015


def test_where_links_lead(files: ContainerPath, tmp_path: Path) -> None:
    """As pathlib has it, which is asked about the same tree; but "/" is the container's."""
    for place in (files, tmp_path):
        (place / "dir/sub").mkdir(parents=True)
        (place / "dir/file").write_text("x")
        (place / "link").symlink_to("dir/sub")
        (place / "up").symlink_to("link/../file")
        (place / "dangling").symlink_to("nowhere/at/all")
        (place / "loop").symlink_to("loop")
    for name in (
        "dir/file",
        "link",
        "link/..",
        "up",
        "dangling",
        "dangling/more",
        "no/../such",
        "./dir/.",
        ".",
    ):
        expected = (tmp_path / name).resolve().relative_to(tmp_path.resolve())
        assert (files / name).resolve() == files.resolve() / str(expected), name
    for name in ("dangling", "no-such"):
        with pytest.raises(FileNotFoundError):
            (files / name).resolve(strict=True)
    with pytest.raises(OSError) as looped:
        (files / "loop").resolve()
    assert looped.value.errno == errno.ELOOP
    (files / "out").symlink_to("/../../../etc/image")
    assert str((files / "out").resolve(strict=True)) == "/etc/image"
    assert (files / "dir/file").samefile(files / "up") and (files / "dir/file").samefile("../up")
    assert not (files / "dir/file").samefile(files / "out")
    with pytest.raises(FileNotFoundError):
        (files / "dir/file").samefile(files / "no-such")


def test_what_is_what(files: ContainerPath) -> None:
    (files / "dir").mkdir()
    (files / "file").touch()
    for name, target in (("to-dir", "dir"), ("to-file", "file"), ("nowhere", "nosuch"), ("loop", "loop")):
        (files / name).symlink_to(target)
    kinds = {
        path.name: "".join(
            letter
            for letter, answer in (
                ("e", path.exists()), ("l", path.exists(follow_symlinks=False)), ("f", path.is_file()),
                ("d", path.is_dir()), ("s", path.is_symlink()), ("p", path.is_fifo()), ("c", path.is_char_device()),
                ("b", path.is_block_device()), ("k", path.is_socket()),
            )
            if answer
        )
        for path in [*files.iterdir(), files / "nosuch", files / "file/below"]
    }  # fmt: skip
    assert kinds == {
        "dir": "eld", "file": "elf", "to-dir": "elds", "to-file": "elfs", "nowhere": "ls", "loop": "ls", "nosuch": "",
        "below": "",
    }  # fmt: skip
    assert (files / "to-dir").readlink() == PurePosixPath("dir")
    assert (files / "to-dir").lstat().st_mode != (files / "to-dir").stat().st_mode
    with pytest.raises(OSError) as caught:
        (files / "file").readlink()
    assert caught.value.errno == errno.EINVAL


def test_making_and_removing(files: ContainerPath) -> None:
    deep = files / "a/b/c"
    with pytest.raises(FileNotFoundError) as caught:
        deep.mkdir()
    assert caught.value.filename == str(deep)
    deep.mkdir(parents=True)
    deep.mkdir(exist_ok=True)
    with pytest.raises(FileExistsError):
        deep.mkdir()
    file = deep / "file"
    file.touch()
    with pytest.raises(FileExistsError):
        file.touch(exist_ok=False)
    with pytest.raises(FileExistsError):
        file.mkdir(exist_ok=True)
    with pytest.raises(OSError, match="not empty"):
        deep.rmdir()
    with pytest.raises(IsADirectoryError):
        deep.read_bytes()
    with pytest.raises(NotADirectoryError):
        (file / "x").read_bytes()
    moved = file.rename("other")
    assert (str(moved), file.exists()) == (f"{deep}/other", False)
    assert moved.replace(files / "top").read_bytes() == b""
    (files / "top").unlink()
    with pytest.raises(FileNotFoundError):
        (files / "top").unlink()
    (files / "top").unlink(missing_ok=True)
    deep.rmdir()
    assert [path.name for path in (files / "a").iterdir()] == ["b"]


def test_times_and_permissions(files: ContainerPath) -> None:
    file = files / "file"
    file.touch(0o600)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o4751)
    assert stat.S_IMODE(file.stat().st_mode) == 0o4751
    before = file.stat().st_mtime_ns
    file.touch()
    assert file.stat().st_mtime_ns >= before


def test_walk_and_glob(files: ContainerPath) -> None:
    for name in ("a/b/one.txt", "a/two.txt", "c/three.md", "c/.hidden.txt"):
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        (files / name).touch()
    (files / "to-a").symlink_to("a")
    found = {str(top.relative_to(files)): (sorted(down), sorted(rest)) for top, down, rest in files.walk()}
    assert found == {
        ".": (["a", "c"], ["to-a"]), "a": (["b"], ["two.txt"]), "a/b": ([], ["one.txt"]),
        "c": ([], [".hidden.txt", "three.md"]),
    }  # fmt: skip
    assert [top.name for top, _, _ in files.walk(top_down=False)][-1] == files.name
    followed = {str(top.relative_to(files)) for top, _, _ in files.walk(follow_symlinks=True)}
    assert followed == {".", "a", "a/b", "c", "to-a", "to-a/b"}
    failed: list[OSError] = []
    assert not list((files / "nosuch").walk(on_error=failed.append))
    assert [error.errno for error in failed] == [errno.ENOENT]

    def matched(pattern: str) -> set[str]:
        return {str(path.relative_to(files)) for path in files.glob(pattern)}

    assert matched("*.txt") == set()
    assert matched("*/*.txt") == {"a/two.txt", "c/.hidden.txt", "to-a/two.txt"}
    assert matched("**/*.txt") == {"a/two.txt", "a/b/one.txt", "c/.hidden.txt"}
    assert {path.name for path in files.rglob("t*.??")} == {"three.md"}
    assert matched("a/b") == {"a/b"}
    for pattern in ("", "/etc/*"):
        with pytest.raises(InvalidInput):
            list(files.glob(pattern))


def test_volumes_are_there(shared: dict[str, Container]) -> None:
    for name, box in shared.items():
        (box.files / "v" / "x").write_text(name)
        volume = Path(os.fsdecode(box.store.path), "volumes", name, "_data/x")
        assert volume.read_text() == name
        assert (box.files / "etc/hostname").read_text().strip() == box.id[:12]


def test_nothing_but_files_is_opened(shared: dict[str, Container]) -> None:
    """A fifo would block, a device would act."""
    files = shared["running"].files
    assert shared["running"].exec(["mkfifo", "/fifo"]).returncode == 0
    for path in (files / "fifo", files / "dev/null", files / "dev/tty", files / "dev/ptmx"):
        for mode in ("rb", "wb", "ab"):
            with pytest.raises((Conflict, FileNotFoundError)):
                path.open(mode)
        with pytest.raises(FileExistsError):
            path.open("xb")
    assert "Name:" in (files / "proc/1/status").read_text()


def test_the_kernels_files_are_not_written_to(shared: dict[str, Container]) -> None:
    files = shared["running"].files
    for act in (
        lambda: (files / "proc/1/comm").write_text("x"),
        lambda: (files / "proc/1/oom_score_adj").open("r+"),
        lambda: (files / "proc/x").mkdir(),
        lambda: (files / "sys/x").touch(),
        lambda: (files / "sys/fs/cgroup/x").mkdir(),
        lambda: (files / "dev/pts/0").symlink_to("x"),
        lambda: (files / "proc/1/status").unlink(),
        lambda: (files / "proc/1/status").chmod(0o777),
    ):
        with pytest.raises((Unsupported, OSError)):
            act()
    assert (files / "proc/1/comm").read_text() == "sleep\n"


def test_read_only_places(shared: dict[str, Container], tmp_path: Path) -> None:
    engine = Engine(os.fsdecode(shared["running"].store.path))
    box = engine.create(
        "tiny", ["sleep", "600"], name="closed", read_only=True, volumes=[f"{tmp_path}:/ro:ro"]
    )
    try:
        for _ in ("created", "running"):
            for path in (box.files / "x", box.files / "ro/x"):
                with pytest.raises(OSError) as caught:
                    path.write_text("x")
                assert caught.value.errno == errno.EROFS
            box.start()
    finally:
        forget(engine, "closed")
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_written_holds_what_does_not_run(shared: dict[str, Container]) -> None:
    box = shared["stopped"]
    with (box.files / "tmp/held").open("wb") as file:
        file.write(b"part")
        assert box.store is not None
        errors: list[BaseException] = []

        def also() -> None:
            try:
                (box.files / "tmp/other").write_text("x")
            except BaseException as error:
                errors.append(error)

        waiting = threading.Thread(target=also)
        waiting.start()
        assert not (box.files / "tmp/other").exists()  # looking is not kept waiting
    waiting.join(200)
    assert not waiting.is_alive() and not errors
    assert (box.files / "tmp/held").read_bytes() == b"part"
    assert (box.files / "tmp/other").read_text() == "x"


def test_what_is_written_is_there_after_a_start(shared: dict[str, Container]) -> None:
    box = shared["stopped"]
    (box.files / "written").write_text("while it was stopped")
    box.start()
    try:
        done = box.exec(["cat", "/written"], capture_output=True, text=True)
        assert done.stdout == "while it was stopped"
        (box.files / "written").write_text("while it runs")
    finally:
        box.stop(timeout=0)
    assert (box.files / "written").read_text() == "while it runs"


def test_a_container_that_is_gone(shared: dict[str, Container], untouched_host: Leaks) -> None:
    engine = Engine(os.fsdecode(shared["running"].store.path))
    box = engine.create("tiny", ["true"], name="gone")
    file = box.files / "etc/passwd"
    assert file.exists()
    box.remove()
    with pytest.raises(NotFound):
        file.exists()


def test_one_over_the_host(shared: dict[str, Container], tmp_path: Path) -> None:
    engine = Engine(os.fsdecode(shared["running"].store.path))
    box = engine.create("host", ["sleep", "600"], name="over")
    try:
        assert (box.files / "etc/passwd").read_text() == Path("/etc/passwd").read_text()
        box.start()
        inside = box.files / str(tmp_path) / "inside"
        inside.write_text("new")
        assert inside.read_text() == "new"
        assert os.listdir(tmp_path) == []
    finally:
        forget(engine, "over")


def test_nothing_is_left_open(shared: dict[str, Container]) -> None:
    for box in shared.values():
        path = box.files / "tmp/leaks"
        path.write_text("x")
        before = held_descriptors()
        for act in (path.read_text, path.stat, path.is_dir, lambda p=path: list(p.parent.iterdir())):
            act()
        for wrong in (path / "x", path.parent):
            with pytest.raises((OSError, LaminaError)):
                wrong.open("wb")
        assert held_descriptors() == before


def test_owners_in_a_user_namespace_of_roots(shared: dict[str, Container], tmp_path: Path) -> None:
    """They are the container's, whether it runs or not, in its volumes too; its root may do what its root may."""
    engine = Engine(os.fsdecode(shared["running"].store.path))
    base = 700_000
    options: Any = {"uidmap": [f"0:{base}:2000"], "volumes": [f"{tmp_path}:/roots", "mapped:/v"]}
    box = engine.create("tiny", ["sleep", "600"], name="mapped", **options)
    try:
        for state in ("created", "running", "exited"):
            assert box.state == state
            for place in ("tmp", "v"):
                file = box.files / place / state
                file.write_text(state)
                assert (file.stat().st_uid, file.stat().st_gid) == (0, 0)
                assert file.read_text() == state
                (file.parent / f"{state}-dir/below").mkdir(parents=True)
            assert (box.files / "etc/passwd").stat().st_uid == 0
            assert (box.files / "roots").stat().st_uid == 65534
            with pytest.raises(PermissionError):
                (box.files / "roots/x").touch()
            if state == "created":
                box.start()
            elif state == "running":
                made = box.exec(["sh", "-c", "stat -c %u /tmp/* /v/*; id -u"], capture_output=True, text=True)
                assert set(made.stdout.split()) == {"0"}, made.stderr
                box.stop(timeout=0)
    finally:
        forget(engine, "mapped")
    assert os.listdir(tmp_path) == []
