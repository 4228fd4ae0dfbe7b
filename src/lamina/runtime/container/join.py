"""A further process in a running container."""

from __future__ import annotations

import os

from lamina.errors import Conflict, InvalidInput
from lamina.linux.fd import Fd, ready
from lamina.runtime.bundle import NULL
from lamina.runtime.container import groups
from lamina.runtime.container.begin import first_process, not_running
from lamina.runtime.container.birth import Birth, own_streams, reap, send_descriptor
from lamina.runtime.container.configuration import check_further, with_home
from lamina.runtime.container.directory import PAUSED, STOPPED, Container, replace_file
from lamina.runtime.container.recipe import compiled_filter, plain, recipe_for, steps_of
from lamina.runtime.facts import process_facts
from lamina.runtime.rlimits import lowered_limits
from lamina.runtime.talk import TERMINAL, Numbers
from lamina.runtime.waits import LETTERS, LISTENER, ended_early, not_permitted
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.runtime.bundle import Bundle, Wiring
    from lamina.runtime.hooks import Hook, Starter

    Process = dict[str, Any]
    Record = dict[str, Any]
    Spec = dict[str, Any]


@value
class Joining:
    """The options of `exec`. `cgroup` is a path inside the container's own; the others are as in `create`."""

    pid_file: bytes = b""
    console_socket: bytes = b""
    pidfd_socket: bytes = b""
    preserve_fds: int = 0
    environment: tuple[str, ...] = ()
    cgroup: str = ""
    ignore_paused: bool = False
    console: Callable[[Fd], None] | None = None
    warn: Callable[[str], None] | None = None
    streams: tuple[int, int, int] = (0, 1, 2)


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
    check_further(process, container.id, container.root)
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


def _own_root(container: Container, record: Record, linux: dict[str, Any], pidfd: Fd, birth: Birth) -> int:
    """The container's root, handed over where its mount namespace is others' as well: then it is one by chroot(2)
    (plan/rootfs.py). NULL where the namespace leads to it.
    """
    if any(n["type"] == "mount" and not n.get("path") for n in linux.get("namespaces") or []):
        return NULL
    with root_of(container, record, pidfd) as root:
        return birth.give(root)


def _begin(container: Container, record: Record, process: Process, pidfd: Fd, joining: Joining) -> Birth:
    linux = container.spec().get("linux") or {}
    birth = Birth(Numbers(joining.preserve_fds), lambda: _bundle(container, process))
    flags = int(record["namespaces"])
    wiring = replace(process_facts(process, linux, flags=False), launcher=-1, channel=birth.numbers.channel)
    files = _cgroup_files(record, joining.cgroup)
    try:
        wiring = _with_procfs(wiring, birth)
        joined = birth.give(pidfd)
        tasks = tuple(birth.give(file) for file in files)
        root = _own_root(container, record, linux, pidfd, birth)
        asked = (
            "joined", birth.shape, plain(wiring), {**process}, _as_joined(linux), joined, flags, tasks,
            own_streams(joining.streams), root,
        )  # fmt: skip
        recipe = recipe_for(asked, container.id, container.root)
        _tell((*recipe.notes, *lowered_limits(process, linux)), joining)
        birth.begin(recipe, lambda: steps_of(asked, container.root, b""), stdio=joining.streams)
    except BaseException:
        birth.abandon()
        raise
    finally:
        for file in files:
            file.close()
    return birth


def _with_procfs(wiring: Wiring, birth: Birth) -> Wiring:
    """With a procfs to write labels to, where somebody may read them."""
    if not wiring.modules:
        return wiring
    from lamina.runtime.trees import own_procfs

    with own_procfs() as proc:
        return replace(wiring, proc=birth.give(proc))


def _as_joined(linux: dict[str, Any]) -> dict[str, Any]:
    """Of the container's `linux`, what is a matter of each of its processes (plan/stage.py, `kernel_steps`)."""
    return {name: linux.get(name) for name in ("memoryPolicy", "personality", "seccomp")}


def _tell(notes: tuple[str, ...], joining: Joining) -> None:
    for note in notes:
        if joining.warn is not None:
            joining.warn(note)


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
            if birth.pidfd is not None and ended_early(birth.pid, birth.pidfd):
                raise not_permitted("execve")
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
    from lamina.linux.constants import CLONE_NEWUSER
    from lamina.runtime.container.compiling import packed
    from lamina.runtime.container.recipe import Recipe
    from lamina.runtime.hooks import words
    from lamina.runtime.plan.created import joined_steps
    from lamina.runtime.plan.identity import capabilities_of

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
            wiring = _with_procfs(wiring, birth)
            given = tuple(birth.give(file) for file in files)
            flags = int(record["namespaces"])
            held = capabilities_of(own, wiring, bool(flags & CLONE_NEWUSER))
            root = _own_root(container, record, linux, pidfd, birth)
            joined = birth.give(pidfd)
            steps = joined_steps(own, linux, held, wiring, birth.numbers, joined, flags, given, root=root)
            steps[-1].args = (path, args, env)
            making, first = packed(steps, birth.shape, own=flags)
            birth.begin(Recipe(making), lambda: (first, steps), stdio=streams)
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
