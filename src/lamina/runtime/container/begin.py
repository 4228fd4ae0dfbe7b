"""Start a created container: the one message that its first process waits for, and the hooks around it."""

from __future__ import annotations

import os
from errno import ECONNREFUSED, EINVAL, ENOENT, ESRCH

from lamina.errors import Conflict, KernelError, LaminaError, StepFailed
from lamina.linux.fd import Fd, ready
from lamina.linux.messages import send
from lamina.runtime.container.directory import (
    CREATED,
    RUNNING,
    Container,
    alive,
    not_running,
    state_document,
)
from lamina.runtime.talk import START, failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Record = dict[str, Any]

# seconds that a process may take from its last word to its end
ENDING = 10.0
# what pidfd_open(2) says of a number that is nobody's, or a thread's by now (ENOENT since Linux 6.9)
GONE = (ESRCH, EINVAL, ENOENT)


def start(container: Container) -> tuple[str, ...]:
    """Start it, and return once its command runs; what went wrong in poststart hooks, which stops nothing.

    Raises Conflict when it is not created, HookFailed, CommandNotFound, CommandNotExecutable, StepFailed: then it is
    stopped.
    """
    container.lock()
    try:
        record = container.record()
        status = container.status(record)
        if status != CREATED:
            raise Conflict(f"start container {container.id}: it is {status}, not created")
        with first_process(container, record) as pidfd:
            if "startContainer" in record["hooks"]:
                _hooks_before(container, record, pidfd)
            _send(container, record, pidfd)
        container.no_longer_waits()
        return _hooks_after(container, record) if "poststart" in record["hooks"] else ()
    finally:
        container.unlock()


def first_process(container: Container, record: Record) -> Fd:
    """A descriptor of its first process, and of no other. Raises Conflict when it has ended, KernelError where it
    cannot be told.
    """
    if not record.get("pid"):
        raise not_running(container.id)
    try:
        pidfd = Fd(os.pidfd_open(record["pid"]))
    except OSError as error:
        if error.errno not in GONE:
            raise KernelError("pidfd_open", error.errno or 0, f"process {record['pid']}") from error
        raise not_running(container.id) from None
    if not alive(record):  # looked at after it was opened, so it is this one
        pidfd.close()
        raise not_running(container.id)
    return pidfd


def _send(container: Container, record: Record, pidfd: Fd) -> None:
    reader, writer = map(Fd, os.pipe2(os.O_CLOEXEC))
    with reader:
        with writer:
            try:
                socket = container.start_socket()
            except OSError as error:
                if error.errno in (ENOENT, ECONNREFUSED):
                    raise Conflict(f"start container {container.id}: it does not wait any more") from None
                raise
            with socket:
                send(socket, START, (int(writer),))
        # the end of the pipe is the beginning of the command, or the end of the process
        ready(None, reader, pidfd)
        said = b""
        while chunk := os.read(reader, 16):
            said += chunk
    if said:
        ready(ENDING, pidfd)  # it has said its last word: who looks next must not find it running
        raise _failure(container, record, said)
    from lamina.runtime.waits import ended_early, not_permitted

    if ended_early(record["pid"], pidfd):
        raise not_permitted("execve")


def _failure(container: Container, record: Record, said: bytes) -> LaminaError:
    from lamina.runtime.failure import command_failure

    name = str((container.spec()["process"]["args"])[0])
    if len(said) == 4:  # an init, that could not execute the command
        return command_failure("execve", -1, name, int.from_bytes(said, "little"))
    index, errno = failure(said)
    last = record["last"]
    at = index - last["first"]
    call = last["calls"][at] if 0 <= at < len(last["calls"]) else "an unknown step"
    if call in ("execve", "execveat"):
        return command_failure(call, index, name, errno)
    text = f"start container {container.id}: step {index + 1} failed: {call}: {os.strerror(errno)}"
    return StepFailed(call, errno, index=index, message=text)


def _hooks_before(container: Container, record: Record, pidfd: Fd) -> None:
    """A hook that fails stops the container, and its life goes on behind its end (runtime.md#lifecycle)."""
    from lamina.runtime import hooks
    from lamina.runtime.container.inside import inner_pid
    from lamina.runtime.container.join import hook_starter

    spec = container.spec()
    state = state_document(container, record, CREATED, inner_pid(record["pid"]))
    try:
        for moment, hook in hooks.wanted(spec, "startContainer"):
            hooks.run(moment, hook, state, hook_starter(container, record, spec, pidfd))
    except BaseException:
        from lamina.runtime.container.ending import end

        end(pidfd)
        raise


def _hooks_after(container: Container, record: Record) -> tuple[str, ...]:
    state = state_document(container, record, RUNNING)
    return run_logged(container.spec(), "poststart", state, os.fsencode(record["bundle"]))


def run_logged(spec: dict[str, Any], moment: str, state: Record, directory: bytes) -> tuple[str, ...]:
    """Run hooks whose failures stop nothing: what each of these says."""
    from lamina.runtime import hooks

    failures = []
    where = directory if os.path.isdir(directory) else b"/"
    for _, hook in hooks.wanted(spec, moment):
        try:
            hooks.run(moment, hook, state, hooks.starter(where))
        except LaminaError as failure:
            failures.append(str(failure))
    return tuple(failures)
