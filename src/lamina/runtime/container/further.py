"""A further process of a container that runs, whoever keeps the container's record.

Nothing of ours is ever in reach of those who are in the container already: the process executes lamina-walk, out of a
sealed memory file, before it joins anything (plan/created.py).
"""

from __future__ import annotations

import os

from lamina.linux.fd import Fd, owned, ready
from lamina.runtime.bundle import NULL
from lamina.runtime.command import command_strings
from lamina.runtime.container.birth import Birth, own_streams, send_descriptor
from lamina.runtime.container.directory import not_running, replace_file
from lamina.runtime.container.recipe import plain, recipe_for, steps_of
from lamina.runtime.facts import process_facts
from lamina.runtime.rlimits import lowered_limits
from lamina.runtime.talk import CREATED, READY, TERMINAL, Numbers
from lamina.runtime.waits import LETTERS, LISTENER, ended_early, not_permitted, reap
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.runtime.bundle import Bundle, Wiring
    from lamina.runtime.cgroups import Cgroup

    Process = dict[str, Any]

# where a command without a slash is looked for if its environment does not say (execvp(3))
PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@value
class Target:
    """The container that a process joins; the word is nsenter(1)'s.

    `pid` is its first process, `linux` of its specification, `namespaces` are those that it does not share with us, as
    flags of clone3(2). Recipes are kept in the directory `kept`. `about` gives what is to be started, for the words of
    an error; `listener` takes the listener of its filter, if that asks somebody, and the process it is of.
    """

    id: str
    pid: int
    linux: dict[str, Any]
    namespaces: int
    kept: bytes
    cgroup: Cgroup | None = None
    about: Callable[[Process], Bundle] | None = None
    listener: Callable[[Fd, int], None] | None = None


@value
class Joining:
    """The options of `exec`. `cgroup` are paths inside the container's own (`Cgroup.open`); `noted` is called with the
    new pid before the command is executed, which it is not if its maker dies meanwhile; the others are as in `create`.
    """

    pid_file: bytes = b""
    console_socket: bytes = b""
    pidfd_socket: bytes = b""
    preserve_fds: int = 0
    environment: tuple[str, ...] = ()
    cgroup: tuple[str, ...] = ()
    ignore_paused: bool = False
    console: Callable[[Fd], None] | None = None
    warn: Callable[[str], None] | None = None
    streams: tuple[int, int, int] = (0, 1, 2)
    noted: Callable[[int], None] | None = None


@value
class Joined:
    """The new process, a child of ours."""

    pid: int
    pidfd: Fd

    def wait(self) -> int:
        """Its exit status, 128 + n after signal n. Raises KernelError where somebody else took it."""
        status = reap(self.pidfd)
        if status is None:
            from lamina.runtime.launch import taken_status

            return taken_status(self.pidfd, "wait for the process")
        return status


def further(target: Target, pidfd: Fd, process: Process, joining: Joining) -> Joined:
    """Run *process* (the specification's `process`, checked) beside the first one of *target*, whose descriptor is
    *pidfd*; return once its command runs. Raises CommandNotFound, CommandNotExecutable, StepFailed, Conflict.
    """
    birth = _begin(target, pidfd, process, joining)
    try:
        _talk(birth, joining, target)
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


def root_of(target: Target, pidfd: Fd) -> Fd:
    """The root of its first process, and of no other. Raises Conflict when it has ended."""
    try:
        root = owned(os.open, f"/proc/{target.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        raise not_running(target.id) from None
    if ready(0, pidfd):  # looked at after it was opened
        root.close()
        raise not_running(target.id)
    return root


def own_root(target: Target, pidfd: Fd, birth: Birth) -> int:
    """The container's root, handed over where its mount namespace is others' as well: then it is one by chroot(2)
    (plan/rootfs.py). NULL where the namespace leads to it.
    """
    if any(n["type"] == "mount" and not n.get("path") for n in target.linux.get("namespaces") or []):
        return NULL
    with root_of(target, pidfd) as root:
        return birth.give(root)


def with_procfs(wiring: Wiring, birth: Birth) -> Wiring:
    """With a procfs to write labels to, where somebody may read them."""
    if not wiring.modules:
        return wiring
    from lamina.runtime.trees import own_procfs

    with own_procfs() as proc:
        return replace(wiring, proc=birth.give(proc))


def cgroup_files(target: Target, below: tuple[str, ...] = ()) -> list[Fd]:
    """The files into which a process of the container writes a 0 to join its groups."""
    cgroup = target.cgroup
    if cgroup is None:
        return []
    cgroup.open(below, target.pid)
    try:
        files = [Fd(fd.steal()) for fd in cgroup.tasks.values()]
        if cgroup.v2 is not None:
            files.append(Fd(os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=cgroup.v2)))
    finally:
        cgroup.close()
    return files


def _begin(target: Target, pidfd: Fd, process: Process, joining: Joining) -> Birth:
    linux, about = target.linux, target.about
    strings = _command(process)
    birth: Birth | None = None
    files = cgroup_files(target, joining.cgroup)  # they go when it ends, at any moment
    try:
        birth = Birth(Numbers(joining.preserve_fds), None if about is None else lambda: about(process))
        wiring = replace(
            process_facts(process, linux, flags=False, beside=target.pid),
            launcher=-1,
            channel=birth.numbers.channel,
        )
        wiring = with_procfs(wiring, birth)
        joined = birth.give(pidfd)
        tasks = tuple(birth.give(file) for file in files)
        root = own_root(target, pidfd, birth)
        asked = (
            "joined", birth.shape, plain(wiring), {**process, "args": None, "env": None}, _as_joined(linux), joined,
            target.namespaces, tasks, own_streams(joining.streams), root, len(strings) - 2,
            joining.noted is not None,
        )  # fmt: skip
        recipe = recipe_for(asked, target.id, target.kept)
        _tell((*recipe.notes, *lowered_limits(process, linux)), joining)
        birth.begin(
            recipe, lambda: steps_of(asked, target.kept, strings), stdio=joining.streams, strings=strings
        )
    except BaseException:
        if birth is not None:
            birth.abandon()
        raise
    finally:
        for file in files:
            file.close()
    return birth


def _command(process: Process) -> dict[str, list[bytes] | bytes]:
    """What a recipe leaves open: the command's words, its variables, and every place where it may be. Raises
    InvalidInput.
    """
    args, environment = command_strings(process)
    found: dict[str, list[bytes] | bytes] = {"argv": args, "envp": environment}
    if b"/" in args[0]:
        return {**found, "place0": args[0]}
    path = next((e[5:] for e in environment if e.startswith(b"PATH=")), PATH)
    for number, directory in enumerate(path.split(b":")):
        found[f"place{number}"] = (directory or b".") + b"/" + args[0]
    return found


def _as_joined(linux: dict[str, Any]) -> dict[str, Any]:
    """Of the container's `linux`, what is a matter of each of its processes (plan/stage.py, `kernel_steps`)."""
    return {name: linux.get(name) for name in ("memoryPolicy", "personality", "seccomp", "defaultFilter")}


def _tell(notes: tuple[str, ...], joining: Joining) -> None:
    for note in notes:
        if joining.warn is not None:
            joining.warn(note)


def _talk(birth: Birth, joining: Joining, target: Target) -> None:
    """Take the terminal and the filter's listener, until the command runs."""
    while True:
        message = birth.hear()
        if message.what == LETTERS[LISTENER] and message.fd is not None:
            with message.fd as listener:
                if target.listener is not None:
                    target.listener(listener, birth.pid)
            continue
        if message.what == READY and joining.noted is not None:
            joining.noted(birth.pid)
            birth.answer(CREATED)
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
