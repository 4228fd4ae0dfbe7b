"""Who holds on to a file system, of processes that are odd about their namespaces."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from lamina.linux.constants import AT_FDCWD, CLONE_NEWNET, STATX_MNT_ID
from lamina.linux.files import statx
from lamina.linux.mount import mount
from lamina.linux.namespaces import unshare
from lamina.runtime.holders import Old, look
from support.namespaces import in_mount_namespace

pytestmark = pytest.mark.root


def bound_by_a_thread(place: Path, ready: int) -> None:
    """A socket with a name at *place*, of a network namespace in which no other thread is."""
    done = threading.Event()

    def bind() -> None:
        unshare(CLONE_NEWNET)
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        end.bind(os.fspath(place))
        os.write(ready, b"x")
        done.wait()

    threading.Thread(target=bind, daemon=True).start()
    done.wait()


def test_a_socket_is_in_the_network_namespace_of_whoever_made_it(tmp_path: Path) -> None:
    def inner() -> list[tuple[str, str]]:
        place = tmp_path / "there"
        place.mkdir()
        mount("tmpfs", place, "tmpfs")
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                bound_by_a_thread(place / "socket", writer)
            finally:
                os._exit(1)
        os.close(writer)
        assert os.read(reader, 1) == b"x"
        old = frozenset([statx(AT_FDCWD, place, 0, STATX_MNT_ID).mnt_id])
        root = os.open("/", os.O_PATH)
        try:
            found = look([pid], pid, root, Old(frozenset(), old, frozenset()))
            return [(one.why, one.path) for one in found.holders]
        finally:
            os.close(root)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    assert in_mount_namespace(inner) == [("a socket bound to", f"{tmp_path}/there/socket")]
