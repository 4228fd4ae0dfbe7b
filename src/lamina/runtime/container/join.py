"""A further process in a running container."""

from __future__ import annotations

import os

from lamina.errors import Conflict, InvalidInput
from lamina.linux.constants import CLONE_NEWPID, CLONE_NEWTIME, CLONE_NEWUSER
from lamina.linux.fd import Fd
from lamina.runtime.bundle import NULL
from lamina.runtime.container import groups
from lamina.runtime.container.begin import first_process, not_running
from lamina.runtime.container.birth import Birth, own_streams, reap
from lamina.runtime.container.configuration import with_home
from lamina.runtime.container.create import compiled_filter, send_descriptor
from lamina.runtime.container.directory import PAUSED, STOPPED, Container, replace_file
from lamina.runtime.facts import process_facts
from lamina.runtime.hooks import words
from lamina.runtime.launch import ready
from lamina.runtime.plan.created import TERMINAL, Numbers, joined_steps
from lamina.runtime.plan.identity import capabilities_of
from lamina.runtime.rlimits import effective_limits
from lamina.runtime.spec import check_process
from lamina.runtime.trees import own_procfs
from lamina.runtime.waits import LETTERS, LISTENER
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.linux.program import Strings
    from lamina.runtime.hooks import Hook, Starter

    _Hook = tuple[tuple[bytes, Strings, Strings], tuple[int, int, int]]
    Process = dict[str, Any]
    Record = dict[str, Any]
    Spec = dict[str, Any]


@value
class Joining:
    """The options of `exec`. `cgroup` is a path inside the container's own; the others as in `create`."""

    pid_file: bytes = b""
    console_socket: bytes = b""
    pidfd_socket: bytes = b""
    preserve_fds: int = 0
    environment: tuple[str, ...] = ()
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
    process["env"] = [*(process.get("env") or []), *joining.environment]
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
        with root_of(container, record, pidfd) as root:
            with_home(process, root)
        birth = _begin(container, record, container.spec(), process, pidfd, joining)
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


def root_of(container: Container, record: Record, pidfd: Fd) -> Fd:
    """The root of its first process, and of no other. Raises Conflict when it has ended."""
    try:
        root = Fd(os.open(f"/proc/{record['pid']}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    except (FileNotFoundError, ProcessLookupError):
        raise not_running(container) from None
    if ready(0, pidfd):  # looked at after it was opened
        root.close()
        raise not_running(container)
    return root


def _shares_mounts(linux: dict[str, Any]) -> bool:
    """Whether its mount namespace is others' as well: its root is one by chroot(2) then (plan/rootfs.py)."""
    return not any(n["type"] == "mount" and not n.get("path") for n in linux.get("namespaces") or [])


def _begin(
    container: Container,
    record: Record,
    spec: Spec,
    process: Process,
    pidfd: Fd,
    joining: Joining,
    hook: _Hook | None = None,
) -> Birth:
    """Start *process* on its way; *hook* is what is executed in place of its command, and the streams of that."""
    linux = spec.get("linux") or {}
    birth = Birth(Numbers(joining.preserve_fds))
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
        root = NULL
        if _shares_mounts(linux):
            with root_of(container, record, pidfd) as place:
                root = birth.give(place)
        steps = joined_steps(
            process,
            linux,
            held,
            wiring,
            birth.numbers,
            birth.give(pidfd),
            flags,
            tuple(birth.give(file) for file in files),
            owned=own_streams() if hook is None else (),
            root=root,
        )
        streams = (0, 1, 2)
        if hook is not None:
            steps[-1].args, streams = hook[0], birth.aside(hook[1])
        birth.begin(steps, stdio=streams, elsewhere=bool(flags & (CLONE_NEWPID | CLONE_NEWTIME)))
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


def _hand_on(listener: Fd, pid: int, container: Container) -> None:
    from lamina.runtime.bundle import Bundle
    from lamina.runtime.seccomp.listener import hand_on

    spec, record = container.spec(), container.record()
    directory, root = os.fsencode(record["bundle"]), os.fsencode(record["rootfs"])
    bundle = Bundle(spec, root, root, directory=directory, identity=container.id.encode())
    hand_on(listener, spec["linux"]["seccomp"], pid, bundle, status=container.status(record))


def hook_starter(container: Container, record: Record, spec: Spec, pidfd: Fd) -> Starter:
    """Starts startContainer hooks: files of the container, so with no more privileges than its own process has."""

    def start(hook: Hook, streams: tuple[int, int, int]) -> Fd:
        own = {**spec["process"], "terminal": False, "cwd": "/", "args": [hook["path"]]}
        birth = _begin(container, record, spec, own, pidfd, Joining(), (words(hook), streams))
        try:
            birth.hear()
        except BaseException:
            birth.abandon()
            raise
        birth.close()
        assert birth.pidfd is not None
        return birth.pidfd

    return start
