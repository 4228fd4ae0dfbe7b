"""Starting bundles in the runtime's tests, and namespaces that somebody else is in already."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lamina.linux.constants import CLONE_NEWUSER
from lamina.linux.packed import Child
from lamina.linux.program import Out, Step, assemble
from lamina.runtime.bundle import Bundle
from lamina.runtime.id_maps import write_id_maps
from lamina.runtime.launch import Running, launch

FILES = {"mount": "mnt", "network": "net"}
KINDS = ("user", "mount", "pid", "network", "ipc", "uts", "cgroup", "time")
WHOLE = [{"containerID": 0, "hostID": 0, "size": 65536}]
SHIFTED = [{"containerID": 0, "hostID": 100_000, "size": 65536}]
PROC = {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}
DEV = {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}


def run(bundle: Bundle, **more: Any) -> tuple[int, str]:
    """(exit status, what it wrote)."""
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    with open(reader, "rb") as output:
        try:
            running = launch(bundle, stdin=null, stdout=writer, stderr=writer, **more)
        finally:
            os.close(writer)
            os.close(null)
        written = output.read().decode()
    status = running.wait()
    running.close()
    return status, written


def said(bundle: Bundle, **more: Any) -> str:
    """What it wrote; it must end well."""
    status, text = run(bundle, **more)
    assert status == 0, text
    return text


@contextmanager
def waiting(bundle: Bundle) -> Iterator[Running]:
    """The bundle's process, which must be a `cat`, as long as it is looked at from outside."""
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    try:
        running = launch(bundle, stdin=reader, stdout=null, stderr=null)
    finally:
        os.close(reader)
        os.close(null)
    try:
        yield running
    finally:
        os.close(writer)
        running.wait()
        running.close()


def link(pid: int | str, kind: str) -> str:
    """Which namespace a process is in."""
    return os.readlink(f"/proc/{pid}/ns/{FILES.get(kind, kind)}")


def child_ended(child: Child) -> None:
    """Kill it if it lives, and reap it."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
    os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)


@contextmanager
def somebody(flags: int) -> Iterator[int]:
    """A process in new namespaces, with every id of the host if it is in a user namespace; its pid."""
    reader, writer = os.pipe()  # the child has a copy of both ends: nothing ever comes
    child = assemble([Step("read", reader, Out(8), 1)]).spawn(flags)
    try:
        if flags & CLONE_NEWUSER:
            write_id_maps(child.pid, {"uidMappings": WHOLE, "gidMappings": WHOLE})
        yield child.pid
    finally:
        os.close(writer)
        os.close(reader)
        child_ended(child)
        child.pidfd.close()
