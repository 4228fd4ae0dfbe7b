"""Hooks: programs that the specification wants to be run at six moments of a container's life.

https://github.com/opencontainers/runtime-spec/blob/main/config.md#posix-platform-hooks

    prestart, createRuntime   after the mounts, before the root is changed; in the caller's namespaces
    createContainer           then; in the container's, whose root is still the host's
    startContainer            before the command; in the container's, whose root is its own
    poststart                 after the command has begun; in the caller's
    poststop                  after the container is deleted; in the caller's

A hook gets the state on standard input, and no variable and no descriptor of ours (CVE-2025-23266).
"""

from __future__ import annotations

import os
from time import monotonic

from lamina.document import encode
from lamina.errors import HookFailed, InvalidInput, LaminaError
from lamina.linux.constants import CLONE_VFORK, CLONE_VM
from lamina.linux.fd import Fd, ready
from lamina.linux.process import pidfd_send_signal
from lamina.linux.program import Step, Strings, assemble
from lamina.runtime.waits import reap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Hook = dict[str, Any]
    # starts a hook with its three streams; what it gives is its descriptor
    Starter = Callable[[Hook, tuple[int, int, int]], Fd]

MOMENTS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
LONGEST_COMPLAINT = 4096
LARGEST_PIPE = 1 << 16  # pipe(7): what one has room for, unless somebody asks for more
LONGEST_WAIT = 24 * 3600.0  # seconds that poll(2) is told at once; it takes no more than 24 days


def check(spec: dict[str, Any]) -> None:
    """Whether every hook can be meant, in a specification whose types are right. Raises InvalidInput."""
    for moment, hooks in (spec.get("hooks") or {}).items():
        if moment not in MOMENTS:
            raise InvalidInput(f"read hooks: there is no moment {moment!r}", remedy=", ".join(MOMENTS))
        for hook in hooks or []:
            if not hook["path"].startswith("/"):
                raise InvalidInput(f"read {moment} hook: its path {hook['path']!r} is not absolute")


def wanted(spec: dict[str, Any], *moments: str) -> list[tuple[str, Hook]]:
    """The hooks of these moments in their order, each with its moment."""
    hooks = spec.get("hooks") or {}
    return [(moment, hook) for moment in moments for hook in hooks.get(moment) or []]


def words(hook: Hook) -> tuple[bytes, Strings, Strings]:
    """What a hook executes: path, arguments (its path, where it says none), variables."""
    path = _bytes(hook["path"])
    return (
        path,
        Strings(_bytes(a) for a in hook.get("args") or [hook["path"]]),
        Strings(_bytes(e) for e in hook.get("env") or []),
    )


def run(moment: str, hook: Hook, state: dict[str, Any], start: Starter) -> None:
    """Run one hook to its end, started by *start*. Raises HookFailed; a hook that is late is killed."""
    name = f"{moment} hook {hook['path']}"
    with Fd(os.memfd_create("state", os.MFD_CLOEXEC)) as text:
        os.write(text, encode(state).encode())
        os.lseek(text, 0, os.SEEK_SET)
        reader, writer = map(Fd, os.pipe2(os.O_CLOEXEC))
        with reader:
            with writer, Fd(os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)) as null:
                try:
                    pidfd = start(hook, (int(text), int(null), int(writer)))
                except (OSError, LaminaError) as error:
                    raise HookFailed(f"run {name}: {error}") from error
            with pidfd:
                complaint = _attend(pidfd, reader, hook.get("timeout"), name)
                _judge(pidfd, name, complaint)


def _attend(pidfd: Fd, reader: Fd, timeout: int | None, name: str) -> str:
    """Wait for its end, and read what it complains of meanwhile. Whoever it leaves behind may go on writing: that is
    neither waited for, nor does it keep a late one alive.
    """
    end = None if timeout is None else monotonic() + timeout
    said = b""
    listening: list[int] = [int(pidfd), int(reader)]
    while True:
        left = None if end is None else min(max(0.0, end - monotonic()), LONGEST_WAIT)
        found = ready(left, *listening)
        if int(reader) in found:
            data = os.read(reader, LARGEST_PIPE)  # so all that is there
            said = (said + data)[-LONGEST_COMPLAINT:]
            if not data:
                listening.remove(int(reader))
        if int(pidfd) in found:
            return said.decode(errors="replace").strip()
        if end is not None and monotonic() >= end:
            pidfd_send_signal(pidfd, 9)
            reap(pidfd)
            raise HookFailed(f"run {name}: not ended within {timeout} s, and killed")


def _judge(pidfd: Fd, name: str, complaint: str) -> None:
    try:
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        assert ended is not None
        killed, status = ended.si_code != os.CLD_EXITED, ended.si_status
    except ChildProcessError:  # this program waits for any child, or lets the kernel reap
        from lamina.runtime.launch import taken_status

        killed, status = False, taken_status(pidfd, f"wait for {name}")
    if not killed and not status:
        return
    how = f"signal {status}" if killed else f"exit status {status}"
    raise HookFailed(f"run {name}: {how}{': ' if complaint else ''}{complaint}")


def starter(directory: bytes) -> Starter:
    """Starts hooks in the caller's own namespaces, in *directory*."""

    def start(hook: Hook, streams: tuple[int, int, int]) -> Fd:
        path, args, env = words(hook)
        # above 2 before they are put into place, for one may lie where another goes
        copies = [Fd(_aside(fd)) for fd in streams]
        steps = [Step("dup3", fd, number, 0) for number, fd in enumerate(map(int, copies))]
        steps += [
            Step("close_range", 3, 0xFFFFFFFF, 0),
            Step("setsid"),
            Step("chdir", directory),
            Step("execve", path, args, env),
        ]
        try:
            child = assemble(steps).spawn(CLONE_VM | CLONE_VFORK)
        finally:
            for copy in copies:
                copy.close()
        if (failed := child.failure()) is not None:
            reap(child.pidfd)
            raise OSError(failed[1], os.strerror(failed[1]))
        return child.pidfd

    return start


def _aside(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
