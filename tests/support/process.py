"""A process that stands in for a container: what the supervisor needs of one, and nothing of namespaces."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lamina.linux.fd import Fd
from lamina.runtime.bundle import NULL


class FakeContainer:
    """Started with the descriptors of a `Stdio`, or with a terminal of its own whose master is `pty`."""

    def __init__(self, command: Sequence[str], child: tuple[int, int, int], *, tty: bool = False) -> None:
        self.pty: Fd | None = None
        if tty:
            master, slave = os.openpty()
            self.pty = Fd(master)
            # setsid, and the terminal becomes the controlling one when it is opened
            opened = "import os, sys; os.open(sys.argv[1], os.O_RDWR); os.execvp(sys.argv[2], sys.argv[2:])"
            command = [sys.executable, "-I", "-S", "-c", opened, os.ttyname(slave), *command]
            child = (slave, slave, slave)
        stdin, stdout, stderr = (subprocess.DEVNULL if fd == NULL else fd for fd in child)
        self.process = subprocess.Popen(
            command, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
        )
        if tty:
            os.close(slave)
        self.pid = self.process.pid
        self.pidfd = Fd(os.pidfd_open(self.pid))

    def kill(self, number: int) -> None:
        """As Running.kill."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            pass

    def end(self) -> None:
        """As Running.end."""
        self.kill(signal.SIGKILL)

    def wait(self) -> int:
        """As Running.wait."""
        status = self.process.wait()
        return status if status >= 0 else 128 - status

    def close(self) -> None:
        """End it and its children, whatever they do."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.pidfd.close()
        if self.pty is not None:
            self.pty.close()


def child_with_copies() -> Copies:
    """Fork a process that has a copy of every descriptor of ours, until the end of a `with`."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    return Copies(pid, writer)


class Copies:
    """A forked process that does nothing but hold descriptors."""

    def __init__(self, pid: int, writer: int) -> None:
        self.pid, self.writer = pid, writer

    def __enter__(self) -> Copies:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.writer)
        os.waitpid(self.pid, 0)


def children() -> set[str]:
    """The pids of this process's own children, whoever of its threads began them; see proc_pid_task_children(5)."""
    found: set[str] = set()
    for thread in os.listdir("/proc/self/task"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            found.update(Path(f"/proc/self/task/{thread}/children").read_text().split())
    return found
