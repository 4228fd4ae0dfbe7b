"""A further process in a running container."""

from __future__ import annotations

import os

from lamina.errors import Conflict, InvalidInput
from lamina.linux.constants import CLONE_NEWPID, CLONE_NEWTIME, CLONE_NEWUSER
from lamina.linux.fd import Fd
from lamina.runtime.container import groups
from lamina.runtime.container.begin import first_process
from lamina.runtime.container.birth import Birth, own_streams, reap
from lamina.runtime.container.configuration import check_process, with_home
from lamina.runtime.container.create import compiled_filter, send_descriptor
from lamina.runtime.container.directory import PAUSED, STOPPED, Container, replace_file
from lamina.runtime.facts import process_facts
from lamina.runtime.hooks import words
from lamina.runtime.plan.created import TERMINAL, Numbers, joined_steps
from lamina.runtime.plan.identity import capabilities_of
from lamina.runtime.rlimits import effective_limits
from lamina.runtime.trees import own_procfs
from lamina.runtime.waits import LETTERS, LISTENER
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.runtime.bundle import Bundle
    from lamina.runtime.hooks import Hook, Starter

    Process = dict[str, Any]
    Record = dict[str, Any]
    Spec = dict[str, Any]


@value
class Joining:
    """The options of `exec`. `cgroup` is a path inside the container's own; `console` and `warn` as in `create`."""

    pid_file: bytes = b""
    console_socket: bytes = b""
    pidfd_socket: bytes = b""
    preserve_fds: int = 0
    cgroup: str = ""
    ignore_paused: bool = False
    console: Callable[[Fd], None] | None = None
    warn: Callable[[str], None] | None = None


@value
class Joined:
    """The new process, a child of ours."""

    pid: int
    pidfd: Fd

    def wait(self) -> int:
        """Its exit status, 128 + n after signal n."""
        status = reap(self.pidfd)
        return 255 if status is None else status


def execute(container: Container, process: Process, joining: Joining) -> Joined:
    """Run *process* (the specification's `process`) in the container; return once its command runs.

    Raises Conflict when the container is stopped or paused, InvalidInput, CommandNotFound, CommandNotExecutable,
    StepFailed.
    """
    check_process(process, "process")
    terminal = bool(process.get("terminal"))
    if terminal and not joining.console_socket and joining.console is None:
        raise InvalidInput(
            "exec: the process is to have a terminal, and nobody takes it", remedy="give a --console-socket"
        )
    record = container.record()
    status = container.status(record)
    if status == STOPPED:
        raise Conflict(f"exec in container {container.id}: cannot exec in a stopped container")
    if status == PAUSED and not joining.ignore_paused:
        raise Conflict(
            f"exec in container {container.id}: cannot exec in a paused container (use --ignore-paused)"
        )
    with first_process(container, record) as pidfd:
        with Fd(os.open(f"/proc/{record['pid']}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
            with_home(process, root)
        birth = _begin(container, record, process, pidfd, joining)
    try:
        _talk(birth, joining, container)
        assert birth.pidfd is not None
        if joining.pidfd_socket:
            send_descriptor(joining.pidfd_socket, birth.pidfd, b"pidfd")
        if joining.pid_file:
            replace_file(joining.pid_file, str(birth.pid).encode(), 0o644)
    except BaseException:
        birth.abandon()
        raise
    birth.close()
    return Joined(birth.pid, birth.pidfd)


def _begin(container: Container, record: Record, process: Process, pidfd: Fd, joining: Joining) -> Birth:
    spec = container.spec()
    linux = spec.get("linux") or {}
    birth = Birth(Numbers(joining.preserve_fds), lambda: _bundle(container, process))
    flags = int(record["namespaces"])
    wiring = replace(
        process_facts(process, linux), launcher=-1, seccomp=compiled_filter(linux, container.root)
    )
    held = capabilities_of(process, wiring, bool(flags & CLONE_NEWUSER))
    for note in (*held.notes, *effective_limits(process.get("rlimits") or [])[1]):
        if joining.warn is not None:
            joining.warn(note)
    files = _cgroup_files(record, joining.cgroup)
    try:
        if wiring.modules:  # somebody may read labels
            with own_procfs() as proc:
                wiring = replace(wiring, proc=birth.give(proc))
        steps = joined_steps(
            process,
            linux,
            held,
            wiring,
            birth.numbers,
            birth.give(pidfd),
            flags,
            tuple(birth.give(file) for file in files),
            owned=own_streams(),
        )
        birth.begin(steps, elsewhere=bool(flags & (CLONE_NEWPID | CLONE_NEWTIME)))
    except BaseException:
        birth.abandon()
        raise
    finally:
        for file in files:
            file.close()
    return birth


def _cgroup_files(record: Record, below: str) -> list[Fd]:
    """The files into which a process of the container writes a 0 to join its groups."""
    cgroup = groups.of(record)
    if cgroup is None:
        return []
    cgroup.open(below, record["pid"])
    try:
        files = [Fd(os.dup(fd)) for fd in cgroup.tasks.values()]
        if cgroup.v2 is not None:
            files.append(Fd(os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=cgroup.v2)))
    finally:
        cgroup.close()
    return files


def _talk(birth: Birth, joining: Joining, container: Container) -> None:
    """Take the terminal and the filter's listener, until the command runs."""
    while True:
        message = birth.hear()
        if message.what == LETTERS[LISTENER] and message.fd is not None:
            with message.fd as listener:
                _hand_on(listener, birth.pid, container)
            continue
        if message.what != TERMINAL or message.fd is None:
            return
        with message.fd as master:
            if joining.console_socket:
                send_descriptor(joining.console_socket, master, b"/dev/ptmx")
            elif joining.console is not None:
                joining.console(Fd(master.steal()))


def _bundle(container: Container, process: Process | None = None) -> Bundle:
    """The container's bundle, with that *process* in place of its own."""
    from lamina.runtime.bundle import Bundle

    spec, record = container.spec(), container.record()
    directory, root = os.fsencode(record["bundle"]), os.fsencode(record["rootfs"])
    if process is not None:
        spec = {**spec, "process": process}
    return Bundle(spec, root, root, directory=directory, identity=container.id.encode())


def _hand_on(listener: Fd, pid: int, container: Container) -> None:
    from lamina.runtime.seccomp.listener import hand_on

    status = container.status(container.record())
    hand_on(listener, container.spec()["linux"]["seccomp"], pid, _bundle(container), status=status)


def hook_starter(container: Container, record: Record, spec: Spec, pidfd: Fd) -> Starter:
    """Starts startContainer hooks: files of the container, so with no more privileges than its own process has."""
    linux = spec.get("linux") or {}

    def start(hook: Hook, streams: tuple[int, int, int]) -> Fd:
        path, args, env = words(hook)
        own: Process = {**spec["process"], "terminal": False, "cwd": "/"}
        own["args"] = [hook["path"]]
        wiring = replace(
            process_facts(own, linux), launcher=-1, seccomp=compiled_filter(linux, container.root)
        )
        birth = Birth(Numbers())
        files = _cgroup_files(record, "")
        try:
            given = tuple(birth.give(file) for file in files)
            flags = int(record["namespaces"])
            held = capabilities_of(own, wiring, bool(flags & CLONE_NEWUSER))
            steps = joined_steps(own, linux, held, wiring, birth.numbers, birth.give(pidfd), flags, given)
            steps[-1].args = (path, args, env)
            born = bool(flags & (CLONE_NEWPID | CLONE_NEWTIME))
            birth.begin(steps, stdio=birth.aside(streams), elsewhere=born)
            birth.hear()
        except BaseException:
            birth.abandon()
            raise
        finally:
            for file in files:
                file.close()
        birth.close()
        assert birth.pidfd is not None
        return birth.pidfd

    return start
