"""Any container on any host: applied, the host is what the container showed; undone or interrupted, what it was."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.engine.apply.hands import Hands
from lamina.engine.apply.operations import history, recover
from support.hosts import Machine, differences, hidden, picture

pytestmark = pytest.mark.root

EXAMPLES = max(20, settings().max_examples // 10)  # each mounts and forks a few times

names = st.sampled_from(["a", "b", "c d", "é", "\udcff", "a-b", "n" * 60])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
contents = st.sampled_from([b"", b"x", b"text\n" * 40, bytes(9000), b"\0" * 5000 + b"end"])
modes = st.sampled_from([0o644, 0o600, 0o755, 0o4755, 0o2711, 0o1777, 0o000])
owners = st.sampled_from([0, 1, 1000, 65534])
times = st.sampled_from([0, 1_000_000_001, 2_000_000_000_123_456_789])

Operation = tuple[Any, ...]


def append(path: str, content: bytes) -> None:
    if os.path.isfile(path):  # a fifo would wait for a reader
        with open(path, "ab") as file:
            file.write(content)


def write(path: str, content: bytes, mode: int) -> None:
    if os.path.lexists(path) and not os.path.isfile(path):
        return
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    Path(path).write_bytes(content)
    os.chmod(path, mode)


def remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def again(path: str) -> None:
    remove(path)
    os.mkdir(path)


def set_acl(path: str) -> None:
    os.setxattr(path, "system.posix_acl_access", ACL)


def set_attribute(path: str, name: str, content: bytes) -> None:
    os.setxattr(path, name, content, follow_symlinks=False)


DOING: dict[str, Callable[..., object]] = {
    "write": write,
    "append": append,
    "mkdir": lambda path, mode: os.makedirs(path, mode),
    "remove": remove,
    "again": again,
    "rename": os.rename,
    "move": lambda path, to: shutil.move(path, to),
    "link": lambda path, to: os.link(path, to, follow_symlinks=False),
    "symlink": lambda path, target: os.symlink(target, path),
    "fifo": lambda path, mode: os.mkfifo(path, mode),
    "device": lambda path: os.mknod(path, 0o20640, os.makedev(1, 7)),
    "chmod": os.chmod,
    "chown": lambda path, uid, gid: os.lchown(path, uid, gid),
    "times": lambda path, ns: os.utime(path, ns=(ns, ns), follow_symlinks=False),
    "xattr": set_attribute,
    "acl": set_acl,
}
# user::rw- user:1000:rwx group::r-- mask::rwx other::---
ACL = bytes.fromhex(
    "0200000001000600ffffffff02000700e803000004000400ffffffff10000700ffffffff20000000ffffffff"
)

attributes = st.sampled_from(["user.note", "trusted.note", "security.note"])
everything = st.one_of(
    st.tuples(st.just("write"), paths, contents, modes),
    st.tuples(st.just("append"), paths, contents),
    st.tuples(st.just("mkdir"), paths, modes),
    st.tuples(st.just("remove"), paths),
    st.tuples(st.just("again"), paths),
    st.tuples(st.just("rename"), paths, paths),
    st.tuples(st.just("move"), paths, paths),
    st.tuples(st.just("link"), paths, paths),
    st.tuples(st.just("symlink"), paths, paths),
    st.tuples(st.just("fifo"), paths, modes),
    st.tuples(st.just("device"), paths),
    st.tuples(st.just("chmod"), paths, modes),
    st.tuples(st.just("chown"), paths, owners, owners),
    st.tuples(st.just("times"), paths, times),
    st.tuples(st.just("xattr"), paths, attributes, contents.map(lambda c: c[:50])),
    st.tuples(st.just("acl"), paths),
)
# a link between two files of the host is its own affair: see test_hard_links_of_the_host
of_host = everything.filter(lambda operation: operation[0] != "link")


def do(operations: list[Operation]) -> None:
    for name, *arguments in operations:
        with contextlib.suppress(OSError, shutil.Error):
            DOING[name](*arguments)


class Dying(Hands):
    def __init__(self, number: int) -> None:
        self.number = number

    def before(self, call: str, subject: bytes) -> None:
        self.number -= 1
        if self.number < 0:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(work: Callable[..., object], number: int) -> bool:
    """Run *work* in a child that is killed before its n-th write; whether it was."""
    pid = os.fork()
    if pid == 0:
        try:
            work(hands=Dying(number))
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def built(place: Path, host: list[Operation], container: list[Operation]) -> Machine:
    machine = Machine(place)
    here = os.getcwd()
    os.chdir(machine.root)
    try:
        do(host)
    finally:
        os.chdir(here)
    machine.run(do, container)
    return machine


@given(host=st.lists(of_host, max_size=12), container=st.lists(everything, max_size=12))
@settings(max_examples=EXAMPLES)
def test_applied_it_is_what_was_shown_and_undone_what_it_was(
    host: list[Operation], container: list[Operation]
) -> None:
    with tempfile.TemporaryDirectory() as place:
        machine = built(Path(place), host, container)
        before, merged = picture(machine.root), machine.wanted()
        applied = machine.apply()
        assert differences(picture(machine.root), merged) == {}
        assert [c for c in machine.changes() if not c.incidental] == []
        if applied.number:
            machine.undo()
        assert differences(picture(machine.root), before) == {}
        assert hidden(machine.root) == []


def test_a_directory_from_the_future_keeps_its_time(tmp_path: Path) -> None:
    future = 4_000_000_000_000_000_000
    machine = built(
        tmp_path, [("write", "a/a", b"", 0o644), ("times", "a", future)], [("write", "a/a", b"x", 0o644)]
    )
    machine.apply()
    assert (machine.root / "a").stat().st_mtime_ns == future


@given(
    host=st.lists(of_host, max_size=8),
    container=st.lists(everything, min_size=1, max_size=10),
    first=st.integers(0, 120),
    second=st.integers(0, 60),
)
@settings(max_examples=EXAMPLES)
def test_killed_anywhere_it_is_the_one_or_the_other(
    host: list[Operation], container: list[Operation], first: int, second: int
) -> None:
    with tempfile.TemporaryDirectory() as place:
        machine = built(Path(place), host, container)
        before, merged = picture(machine.root), machine.wanted()
        killed(machine.apply, first)
        while killed(lambda hands: recover(machine.journal, hands=hands), second):
            second += 7
        states = [past.state for past in history(machine.journal)]
        assert differences(picture(machine.root), merged if states == ["applied"] else before) == {}
        if states != ["applied"]:
            machine.apply()
            assert differences(picture(machine.root), merged) == {}
        if [past.state for past in history(machine.journal)][-1:] == ["applied"]:
            while killed(machine.undo, second) and recover(machine.journal) is None:
                second += 7
        assert differences(picture(machine.root), before) == {}


@given(
    host=st.lists(of_host, max_size=10),
    container=st.lists(everything, min_size=1, max_size=10),
    chosen=st.lists(paths, min_size=1, max_size=3),
)
@settings(max_examples=EXAMPLES)
def test_a_part_and_then_the_rest_is_the_whole(
    host: list[Operation], container: list[Operation], chosen: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as place:
        machine = built(Path(place), host, container)
        before, merged = picture(machine.root), machine.wanted()
        applies = 0
        for path in chosen:
            with contextlib.suppress(LookupError, ValueError):
                applies += bool(machine.apply("/" + path).number)
        applies += bool(machine.apply().number)
        found = differences(picture(machine.root), merged)
        # links between what came at different times are not made afterwards, nor times of directories restored
        assert {
            path
            for path, (a, b) in found.items()
            if a is None or b is None or a[:4] != b[:4] or a[5:8] != b[5:8]
        } == set()
        for _ in range(applies):
            machine.undo()
        assert differences(picture(machine.root), before) == {}
