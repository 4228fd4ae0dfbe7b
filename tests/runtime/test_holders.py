"""Who holds on to a file system, of processes whose threads are not all alike."""

from __future__ import annotations

import ctypes
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
from lamina.linux.namespaces import unshare
from lamina.linux.numbers import number
from lamina.runtime.holders import Old, look
from lamina.runtime.holders import said as said_of
from support.lives import until
from support.namespaces import in_mount_namespace

pytestmark = pytest.mark.root


def socket_of_another_network(place: Path) -> None:
    unshare(CLONE_NEWNET)
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    end.bind(os.fspath(place / "name"))
    end.detach()


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


@pytest.mark.parametrize("alone", [False, True], ids=["beside the first", "alone"])
@pytest.mark.parametrize(
    ("what", "why", "where"),
    [
        (socket_of_another_network, "a socket bound to", "name"),
        (mounts_of_its_own, "a mount namespace of its own, with the same root", ""),
        (written, "a file open for writing as descriptor", "name"),
    ],
)
def test_any_thread_may_hold_it(
    tmp_path: Path, what: Callable[[Path], None], why: str, where: str, alone: bool
) -> None:
    def inner() -> list[tuple[str, str]]:
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
            return [(one.why, one.path) for one in look([pid], os.getpid(), root, old).holders]
        finally:
            os.close(root)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    ((said, path),) = in_mount_namespace(inner)
    assert said.startswith(why)
    assert path == (said_of(f"{tmp_path}/there/{where}".encode()) if where else "")
