"""An agent that answers for a seccomp filter (seccomp_unotify(2))."""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import struct
import threading
from pathlib import Path
from typing import Any

from lamina.linux.constants import SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND

NOTIF = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif: id, pid, flags, then seccomp_data
ANSWER = struct.Struct("=QqiI")  # struct seccomp_notif_resp: id, val, error, flags
CONTINUE = 1


class Agent:
    """Takes *listeners* at *path* and answers every question with *answer*(number) -> (value, errno, flags)."""

    def __init__(self, path: Path, answer: Any, listeners: int = 1) -> None:
        self.answer = answer
        self.asked: list[int] = []
        self.document: dict[str, Any] = {}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(str(path))
        self.socket.listen(1)
        self.socket.settimeout(100)
        self.threads = [threading.Thread(target=self.work) for _ in range(listeners)]
        for thread in self.threads:
            thread.start()

    def work(self) -> None:
        connection, _ = self.socket.accept()
        text, descriptors, _, _ = socket.recv_fds(connection, 65536, 1)
        while more := connection.recv(65536):
            text += more
        self.document = json.loads(text)
        connection.close()
        listener = descriptors[0]
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        while (
            not dict(poll.poll())[listener] & select.POLLHUP
        ):  # which says that nobody has the filter any more
            question = bytearray(80)
            try:
                fcntl.ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, question)
            except OSError:
                continue  # ENOENT: a signal came to whoever asked, who will ask again, or is gone
            identity, _, _, call, *_ = NOTIF.unpack_from(question)
            self.asked.append(call)
            value, errno, flags = self.answer(call)
            try:
                fcntl.ioctl(
                    listener, SECCOMP_IOCTL_NOTIF_SEND, bytearray(ANSWER.pack(identity, value, -errno, flags))
                )
            except OSError:
                continue
        os.close(listener)

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self.threads:
            thread.join(100)
        self.socket.close()
        assert not any(thread.is_alive() for thread in self.threads)


def profile(path: Path, *names: str, **more: Any) -> dict[str, Any]:
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": str(path),
        "listenerMetadata": "who am I",
        "syscalls": [{"names": list(names), "action": "SCMP_ACT_NOTIFY"}],
        **more,
    }
