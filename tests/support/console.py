"""The other end of --console-socket: takes one terminal, as conmon and containerd's shim do."""

from __future__ import annotations

import array
import os
import select
import socket
import time
from pathlib import Path


class ConsoleSocket:
    """A unix socket that receives a descriptor. `path` is for the command line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._listener.settimeout(100)
        self.name = b""

    def take(self) -> int:
        """The descriptor that was sent; what came with it is `name`."""
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(100)
            self.name, ancillary, _, _ = connection.recvmsg(4096, 64)
        numbers = array.array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
        assert len(numbers) == 1
        return int(numbers[0])

    def close(self) -> None:
        """No more."""
        self._listener.close()


def read_until(master: int, text: bytes, patience: float = 100.0) -> bytes:
    """What a terminal shows until *text* is among it, or it is at its end."""
    said, end = b"", time.monotonic() + patience
    while text not in said:
        if not select.select([master], [], [], max(0.0, end - time.monotonic()))[0]:
            raise AssertionError(f"the terminal showed {said!r}")
        try:
            data = os.read(master, 4096)
        except OSError:
            break
        if not data:
            break
        said += data
    return said
