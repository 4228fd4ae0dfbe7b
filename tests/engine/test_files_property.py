"""`Container.files` does what pathlib does: the same words said to a container and to a directory of this machine."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lamina import Container, Engine
from support.running import forget
from support.small_images import small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]

NAMES = ("a", "b", "c")
paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
# relative, and never further up than the directory that everything is in
targets = st.one_of(paths, st.just("../a"), st.just("nosuch"), st.just("."))
texts = st.text(max_size=5)
ways = st.sampled_from(["r", "w", "a", "x", "r+", "w+"])
steps = st.one_of(
    st.tuples(st.just("write_text"), paths, texts),
    st.tuples(st.just("write_bytes"), paths, st.binary(max_size=5)),
    st.tuples(st.just("read_bytes"), paths),
    st.tuples(st.just("open"), paths, ways, texts),
    st.tuples(st.just("mkdir"), paths, st.sampled_from([0o755, 0o700, 0o500]), st.booleans(), st.booleans()),
    st.tuples(st.just("rmdir"), paths),
    st.tuples(st.just("unlink"), paths, st.booleans()),
    st.tuples(st.just("rename"), paths, paths),
    st.tuples(st.just("replace"), paths, paths),
    st.tuples(st.just("symlink_to"), paths, targets),
    st.tuples(st.just("hardlink_to"), paths, paths),
    st.tuples(st.just("readlink"), paths),
    st.tuples(st.just("touch"), paths, st.booleans()),
    st.tuples(st.just("chmod"), paths, st.sampled_from([0o644, 0o600, 0o755])),
    st.tuples(st.just("looks"), paths),
    st.tuples(st.just("iterdir"), paths),
)
LOOKS = ("exists", "is_file", "is_dir", "is_symlink", "is_fifo", "is_socket")


def said(top: Any, step: tuple[Any, ...]) -> Any:
    """What comes of one step below *top*: a result that can be compared, or the error's class and number."""
    verb, path, *rest = step
    file = top / path
    try:
        if verb in ("rename", "replace", "hardlink_to"):
            moved = getattr(file, verb)(top / rest[0])
            return moved is None or str(moved.relative_to(top))
        if verb == "mkdir":
            return file.mkdir(rest[0], parents=rest[1], exist_ok=rest[2])
        if verb == "touch":
            return file.touch(0o644, exist_ok=rest[0])
        if verb == "open":
            with file.open(rest[0], encoding="utf-8") as opened:
                found = opened.read() if opened.readable() else None
                return found, opened.write(rest[1]) if opened.writable() else None
        if verb == "write_text":
            return file.write_text(rest[0], encoding="utf-8")
        if verb == "looks":
            return [getattr(file, look)() for look in LOOKS]
        if verb == "iterdir":
            return sorted(entry.name for entry in file.iterdir())
        result = getattr(file, verb)(*rest)
        return str(result) if verb == "readlink" else result
    except OSError as error:
        return type(error), error.errno
    except UnicodeDecodeError as error:
        return type(error), error.start


def tree(top: Any) -> dict[str, Any]:
    """Everything below *top*: kind and permissions, content or target, and which names are the same file."""
    found: dict[str, Any] = {}
    inodes: dict[int, str] = {}
    for place, directories, others in walked(top):
        for name in sorted(directories + others):
            path = place / name
            status = path.lstat()
            shown = str(path.relative_to(top))
            content = str(path.readlink()) if path.is_symlink() else None
            if stat.S_ISREG(status.st_mode):
                content = path.read_bytes()
            found[shown] = (oct(status.st_mode), content, inodes.setdefault(status.st_ino, shown))
    return found


def walked(top: Any) -> Iterator[tuple[Any, list[str], list[str]]]:
    if isinstance(top, Path):  # Path.walk came with Python 3.12
        for place, directories, others in os.walk(top):
            links = [name for name in directories if Path(place, name).is_symlink()]
            yield Path(place), [name for name in directories if name not in links], [*others, *links]
        return
    yield from top.walk()


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Container]]:
    root = tmp_path_factory.mktemp("store") / "lamina"
    small_image(root, env=["PATH=/bin:/usr/bin"])
    engine = Engine(root)
    found = {name: engine.create("tiny", ["sleep", "600"], name=name) for name in ("running", "created")}
    found["running"].start()
    yield found
    for name in found:
        forget(engine, name)


def compared(box: Container, todo: list[tuple[Any, ...]]) -> None:
    outer = Path(tempfile.mkdtemp())
    here = outer / "work"  # "../a" is nobody's either
    here.mkdir()
    there = box.files / "work" / os.urandom(4).hex() / "work"
    there.mkdir(parents=True)
    old = os.umask(0o022)
    try:
        for number, step in enumerate(todo):
            assert said(there, step) == said(here, step), (number, step)
        assert tree(there) == tree(here)
    finally:
        os.umask(old)
        shutil.rmtree(outer)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, max_size=12))
def test_of_a_container_that_runs(boxes: dict[str, Container], todo: list[tuple[Any, ...]]) -> None:
    compared(boxes["running"], todo)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, max_size=8))
def test_of_one_that_does_not(boxes: dict[str, Container], todo: list[tuple[Any, ...]]) -> None:
    compared(boxes["created"], todo)
