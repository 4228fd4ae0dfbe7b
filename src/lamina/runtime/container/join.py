"""A further process in a running container of `lamina-runtime`."""

from __future__ import annotations

import os

from lamina.errors import Conflict, InvalidInput
from lamina.runtime.container import groups
from lamina.runtime.container.begin import first_process
from lamina.runtime.container.configuration import check_further, with_home
from lamina.runtime.container.directory import PAUSED, STOPPED, Container
from lamina.runtime.container.further import Joined, Joining, Target, further, root_of, with_procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.linux.fd import Fd
    from lamina.runtime.bundle import Bundle
    from lamina.runtime.hooks import Hook, Starter

    Process = dict[str, Any]
    Record = dict[str, Any]
    Spec = dict[str, Any]


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
    if joining.console_socket and not terminal:
        raise InvalidInput(
            "exec: there is a --console-socket, but the process is to have no terminal",
            remedy="leave it out, or give --tty",
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
        target = _target(container, record, container.spec())
        with root_of(target, pidfd) as root:
            with_home(process, root)
        return further(target, pidfd, process, joining)


def _target(container: Container, record: Record, spec: Spec) -> Target:
    return Target(
        container.id,
        record["pid"],
        spec.get("linux") or {},
        int(record["namespaces"]),
        container.root,
        cgroup=groups.of(record),
        about=lambda process: _bundle(container, process),
        listener=lambda listener, pid: _hand_on(listener, pid, container),
    )


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
    from lamina.runtime.container.birth import Birth
    from lamina.runtime.container.compiling import packed
    from lamina.runtime.container.further import cgroup_files, own_root
    from lamina.runtime.container.recipe import Recipe, compiled_filter
    from lamina.runtime.facts import process_facts
    from lamina.runtime.hooks import words
    from lamina.runtime.plan.created import joined_steps
    from lamina.runtime.plan.identity import capabilities_of
    from lamina.runtime.talk import Numbers
    from lamina.values import replace

    linux = spec.get("linux") or {}
    target = _target(container, record, spec)

    def start(hook: Hook, streams: tuple[int, int, int]) -> Fd:
        path, args, env = words(hook)
        own: Process = {**spec["process"], "terminal": False, "cwd": "/"}
        own["args"] = [hook["path"]]
        known = process_facts(own, linux, beside=target.pid)
        wiring = replace(known, launcher=-1, seccomp=compiled_filter(linux, container.root))
        birth: Birth | None = None
        files = cgroup_files(target)
        try:
            birth = Birth(Numbers())
            wiring = with_procfs(wiring, birth)
            given = tuple(birth.give(file) for file in files)
            flags = target.namespaces
            held = capabilities_of(own, wiring, bool(flags & CLONE_NEWUSER))
            root = own_root(target, pidfd, birth)
            joined = birth.give(pidfd)
            steps = joined_steps(own, linux, held, wiring, birth.numbers, joined, flags, given, root=root)
            steps[-1].args = (path, args, env)
            making, first = packed(steps, birth.shape, own=flags)
            birth.begin(Recipe(making), lambda: (first, steps), stdio=streams)
            birth.hear()
        except BaseException:
            if birth is not None:
                birth.abandon()
            raise
        finally:
            for file in files:
                file.close()
        birth.close()
        assert birth.pidfd is not None
        return birth.pidfd

    return start
