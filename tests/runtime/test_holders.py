"""Who holds on to a file system, of processes whose threads are not all alike."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.linux.constants import AT_FDCWD, CLONE_NEWNET, CLONE_NEWNS, STATX_MNT_ID
from lamina.linux.files import statx
from lamina.linux.mount import mount
from lamina.linux.namespaces import setns, unshare
from lamina.linux.numbers import number
from lamina.runtime.holders import Old, look, mapped
from lamina.runtime.holders import said as said_of
from support.lives import until
from support.namespaces import in_mount_namespace

pytestmark = pytest.mark.root


def socket_of_another_network(place: Path) -> None:
    unshare(CLONE_NEWNET)
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    end.bind(os.fspath(place / "name"))
    end.detach()


def socket_of_a_network_that_was_left(place: Path) -> None:
    """No thread is in it any more: nobody has it in a list."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    socket_of_another_network(place)
    setns(before, CLONE_NEWNET)
    os.close(before)


def socket_under_another_name(place: Path) -> None:
    """As it is done so that nobody connects too early."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    end.bind(os.fspath(place / "new"))
    os.rename(place / "new", place / "name")
    end.detach()


def mapped_for_writing(place: Path) -> None:
    with open(place / "name", "w+b") as file:
        file.truncate(4096)
        shared, libc = mmap.MAP_SHARED, ctypes.CDLL(None)  # Python's keeps the descriptor
        libc.mmap(None, 4096, mmap.PROT_READ | mmap.PROT_WRITE, shared, file.fileno(), 0)


def mounts_of_its_own(place: Path) -> None:
    unshare(CLONE_NEWNS)


def written(place: Path) -> None:
    os.open(place / "name", os.O_WRONLY | os.O_CREAT)


def process(place: Path, what: Callable[[Path], None], ready: int, *, alone: bool) -> None:
    """One of whose threads has done *what*, and waits; *alone*: the first one has ended."""
    done = threading.Event()

    def work() -> None:
        what(place)
        os.write(ready, b"x")
        done.wait()

    threading.Thread(target=work, daemon=True).start()
    if alone:
        ctypes.CDLL(None).syscall(number("exit"), 0)
    done.wait()


def held(tmp_path: Path, what: Callable[[Path], None], *, alone: bool) -> list[tuple[str, str]]:
    """What is said of a process that has done *what* in a file system of its own. In mounts of our own."""
    place = tmp_path / "there"
    place.mkdir()
    mount("tmpfs", place, "tmpfs")
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            process(place, what, writer, alone=alone)
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 1) == b"x"
    if alone:
        until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z")
    device = place.stat().st_dev
    mounts = frozenset([statx(AT_FDCWD, place, 0, STATX_MNT_ID).mnt_id])
    old = Old(frozenset([(os.major(device), os.minor(device))]), mounts, frozenset())
    root = os.open("/", os.O_PATH)
    try:
        found = [*look([pid], os.getpid(), root, old).holders, *mapped([pid], old)]
        return [(one.why, one.path) for one in found]
    finally:
        os.close(root)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("alone", [False, True], ids=["beside the first", "alone"])
@pytest.mark.parametrize(
    ("what", "why", "where"),
    [
        (socket_of_another_network, "a socket bound to", "name"),
        (socket_of_a_network_that_was_left, "a socket bound to", "name"),
        (socket_under_another_name, "a socket bound to", "new"),
        (mapped_for_writing, "mapped for writing", "name"),
        (mounts_of_its_own, "a mount namespace of its own, with the same root", ""),
        (written, "a file open for writing as descriptor", "name"),
    ],
)
def test_any_thread_may_hold_it(
    tmp_path: Path, what: Callable[[Path], None], why: str, where: str, alone: bool
) -> None:
    ((said, path),) = in_mount_namespace(lambda: held(tmp_path, what, alone=alone))
    assert said.startswith(why)
    assert path == (said_of(f"{tmp_path}/there/{where}".encode()) if where else "")


def socket_with_a_name_like_an_abstract_one(place: Path) -> None:
    os.chdir(place)
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    end.bind("@name")
    os.chdir("/")
    end.detach()


def test_a_name_that_looks_like_an_abstract_one(tmp_path: Path) -> None:
    ((said, path),) = in_mount_namespace(
        lambda: held(tmp_path, socket_with_a_name_like_an_abstract_one, alone=False)
    )
    assert (said, path) == ("a socket bound to", "@name")


def sockets_that_lead_nobody_there(place: Path) -> None:
    """In a network namespace that was left, and in the one where the thread is."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    elsewhere = place.parent / "elsewhere"
    elsewhere.mkdir()
    for number_ in range(2):
        if number_ == 0:
            unshare(CLONE_NEWNET)
        for name in ("", f"\0{place}/name", place / f"removed{number_}", elsewhere / f"{number_}"):
            end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            if name:
                end.bind(os.fspath(name))
            end.detach()
        (place / f"removed{number_}").unlink()
        for end in (socket.socket(socket.AF_INET), *socket.socketpair()):
            end.detach()
        if number_ == 0:
            setns(before, CLONE_NEWNET)
    os.close(before)


@pytest.mark.parametrize("alone", [False, True], ids=["beside the first", "alone"])
def test_sockets_that_hold_nothing(tmp_path: Path, alone: bool) -> None:
    assert in_mount_namespace(lambda: held(tmp_path, sockets_that_lead_nobody_there, alone=alone)) == []
