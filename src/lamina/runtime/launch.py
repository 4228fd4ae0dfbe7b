"""Start a bundle: everything a plan needs is made ready, the plan is walked, and what is left is a running process."""

from __future__ import annotations

import os
import sys
from errno import ECHILD, ESRCH

from lamina.errors import KernelError, LaminaError
from lamina.linux.descriptors import SOCK_STREAM, duplicate, socketpair
from lamina.linux.fd import Fd, ready
from lamina.linux.packed import Reg
from lamina.runtime.bundle import NULL
from lamina.runtime.command import command_strings, launcher_strings
from lamina.runtime.facts import facts, own_filter
from lamina.runtime.init import exec_file, init_file
from lamina.runtime.rlimits import lowered_limits
from lamina.runtime.template import template_for
from lamina.runtime.waits import (
    CLONE_VFORK,
    CLONE_VM,
    REPORT,
    TERMINAL,
    Watch,
    attend,
    end_of,
    ended_early,
    heard,
    not_permitted,
    reap,
)
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from signal import pidfd_send_signal
    from typing import Any

    from lamina.errors import StepFailed
    from lamina.linux.packed import Child
    from lamina.runtime.bundle import Bundle
    from lamina.runtime.cgroups import Cgroup
    from lamina.runtime.plan import Plan
    from lamina.runtime.seccomp.cache import Filter
    from lamina.runtime.waits import Wait
else:
    from _signal import pidfd_send_signal  # the module `signal` is enums around it

_LAUNCHER = Reg("launcher")
_SIGKILL = 9


class Running:
    """A container's first process. Its descriptors are ours until `close()`.

    `pid` is its number here, `pidfd` refers to it without a race, `pty` is the terminal's master (None without one),
    `cgroup` its control groups (None when nothing was asked), `notes` what differs from what was asked.
    """

    def __init__(
        self, pid: int, pidfd: Fd, pty: Fd | None, cgroup: Cgroup | None, notes: tuple[str, ...]
    ) -> None:
        self.pid, self.pidfd, self.pty, self.cgroup, self.notes = pid, pidfd, pty, cgroup, notes
        self.let_die: Callable[[], None] | None = None  # what lets it see SIGKILL, where that takes something
        self._status: int | None = None

    def kill(self, signal: int) -> None:
        """Send *signal*; nothing happens when the process has ended already."""
        if self._status is not None:  # the descriptor may be closed, and its number somebody else's
            return
        try:
            pidfd_send_signal(self.pidfd, signal)
        except OSError as error:
            if error.errno != ESRCH:
                raise
        if signal == _SIGKILL and self.let_die is not None:
            self.let_die()

    def end(self) -> None:
        """Kill it, and with it all that its namespace of processes has."""
        self.kill(_SIGKILL)

    def poll(self) -> int | None:
        """The exit status, 128 + n after signal n, or None while it runs."""
        if self._status is None and ready(0, self.pidfd):
            return self.wait()
        return self._status

    def wait(self) -> int:
        """Wait for the end and give the exit status, 128 + n after signal n (waitid(2))."""
        if self._status is None:
            self._status = _reap(self.pidfd)
        return self._status

    def close(self) -> None:
        """Let go of the descriptors and remove the control groups. The process must have ended."""
        self.pidfd.close()
        if self.pty is not None:
            self.pty.close()
        if self.cgroup is not None:
            self.cgroup.remove()


def taken_status(pidfd: int, call: str) -> int:
    """The exit status of a child that somebody else in this program has reaped, who waits for any child or ignores
    SIGCHLD: from Linux 6.15 on the kernel remembers it. Raises KernelError where it does not.
    """
    from lamina.linux.process import pidfd_get_info

    ready(None, pidfd)
    try:
        code = pidfd_get_info(pidfd).exit_status
    except OSError:
        code = None
    if code is None:
        raise KernelError(call, ECHILD, hint="something else in this program took its exit status") from None
    return 128 + os.WTERMSIG(code) if os.WIFSIGNALED(code) else os.WEXITSTATUS(code)


def _reap(pidfd: Fd) -> int:
    try:
        return end_of(pidfd)
    except ChildProcessError:
        return taken_status(pidfd, "wait for the container")


def plan(
    bundle: Bundle, *, seccomp: Filter | None = None, to_come: Mapping[bytes, bool] | None = None
) -> Plan:
    """The plan of a start as it would be made now. Starts nothing. *to_come*: see `facts`."""
    from lamina.runtime.plan import compile_plan

    tasks, controllers = _printed_cgroups(bundle)
    filter_ = seccomp or own_filter(bundle, None)
    held: list[Fd] = []
    try:
        wiring = replace(
            facts(bundle, held, to_come)[0],
            launcher=_LAUNCHER,
            seccomp=filter_.program() if filter_ else b"",
            tasks=tasks,
            controllers=controllers,
        )
        return compile_plan(bundle, wiring)
    finally:
        for fd in held:
            fd.close()


def _printed_cgroups(bundle: Bundle) -> tuple[tuple[Reg, ...], tuple[bytes, ...]]:
    from lamina.runtime.cgroups import read_layout, settings

    layout = read_layout()
    wanted = settings((bundle.spec.get("linux") or {}).get("resources") or {}, layout)
    controllers = tuple(c.encode() for c in layout.v1 if c in wanted)
    return tuple(_tasks(name) for name in controllers), controllers


def _tasks(controller: bytes) -> Reg:
    return Reg(f"tasks.{controller.decode()}")


def launch(
    bundle: Bundle,
    *,
    stdin: int,
    stdout: int,
    stderr: int,
    seccomp: Filter | None = None,
    die_with_parent: bool = True,
    cache: bytes | None = None,
    groups: tuple[str, ...] = (),
    manager: str = "cgroupfs",
) -> Running:
    """Start *bundle* with the given descriptors and return once its command runs.

    A descriptor that is NULL stands for the container's own null device; with a terminal none of them is used.

    `seccomp` is the filter; without one it is that of the specification, if it has one. With *die_with_parent* the
    container is killed when the calling thread ends. Plans are kept in the directory *cache*, if there is one. *groups*
    are controllers in which it gets a control group although nothing is asked of them, where that can be; *manager* is
    who makes them, "cgroupfs" or "systemd" (runtime.cgroups.create). Nothing about the calling process changes.

    Raises CommandNotFound, CommandNotExecutable, StepFailed with the step that failed, Unsupported, InvalidInput; then
    nothing is left behind.
    """
    filter_ = seccomp or own_filter(bundle, cache)
    start = _Start(bundle, (stdin, stdout, stderr), filter_, die_with_parent, groups, manager)
    try:
        return start.run(cache)
    except BaseException as failure:
        start.abandon(failure)
        raise


class _Start:
    """One start: what a plan has open, and the way from it to a command that runs.

    A signal handler of the program may raise at any moment. So whatever is made is noted, before Python could call one,
    where `abandon` finds it: the process in `spawned`, descriptors in `held`.
    """

    def __init__(
        self,
        bundle: Bundle,
        standard: tuple[int, int, int],
        seccomp: Filter | None,
        die_with_parent: bool,
        groups: tuple[str, ...],
        manager: str,
    ) -> None:
        self.bundle, self.standard, self.seccomp = bundle, standard, seccomp
        self.die_with_parent, self.groups, self.manager = die_with_parent, groups, manager
        self.notes: tuple[str, ...] = ()
        self.cgroup: Cgroup | None = None
        self.watch: Watch | None = None
        self.spawned: list[Any] = []
        self.held: list[Fd] = []

    def run(self, cache: bytes | None) -> Running:
        """Do it. *cache*: see `launch`."""
        try:
            self._wire()
            child, pty = self._go(cache)
            notes = lowered_limits(self.bundle.spec["process"], self.bundle.spec.get("linux") or {})
            if self.cgroup is not None:
                self.cgroup.close()
                notes = (*notes, *self.cgroup.notes)
            return Running(child.pid, child.pidfd, pty, self.cgroup, (*notes, *self.notes))
        finally:
            for fd in self.held:
                fd.close()

    def abandon(self, failure: BaseException) -> None:
        """It failed: nothing stays."""
        if self.spawned:
            _end(self.spawned[0], self.watch)
        if self.cgroup is not None:
            self.cgroup.close()
            try:
                self.cgroup.remove()
            except OSError as second:
                failure.add_note(f"while cleaning up: {second}")

    def _wire(self) -> None:
        """Open what the plan names."""
        bundle, linux = self.bundle, self.bundle.spec.get("linux") or {}
        known, opened = facts(bundle, self.held)
        if linux.get("resources") or self.groups:
            from lamina.runtime.cgroups.making import create

            path, resources = linux.get("cgroupsPath") or "", linux.get("resources") or {}
            own = self.manager != "systemd"  # else the group above is a slice
            self.cgroup = create(path, resources, manager=self.manager, own_parent=own, also=self.groups)
        self.ours, self.theirs = _socket_pair()
        self.held += [self.ours, self.theirs]
        with init_file() if bundle.init else exec_file() as file:
            launcher = _aside(file)
        self.held.append(launcher)
        streams = [_above_stdio(fd, self.held) for fd in self.standard]
        cgroup = self.cgroup
        tasks = {name.encode(): int(fd) for name, fd in cgroup.tasks.items()} if cgroup else {}
        self.into_cgroup = int(cgroup.v2) if cgroup and cgroup.v2 is not None else -1
        named = dict(zip(("stdin", "stdout", "stderr"), streams, strict=True))
        self.descriptors = {
            "channel": int(self.theirs),
            "far": int(self.ours),
            "launcher": int(launcher),
            **opened,
            **named,
            **{str(_tasks(name)): fd for name, fd in tasks.items()},
        }
        self.wiring = replace(
            known,
            **{name: NULL for name, fd in named.items() if fd < 0},
            launcher=_LAUNCHER,
            die_with_parent=self.die_with_parent,
            tasks=tuple(_tasks(name) for name in tasks),
            controllers=tuple(tasks),
            places=tuple(cgroup.paths[name] for name in cgroup.tasks or cgroup.paths) if cgroup else (),
            cgroup=0 if self.into_cgroup >= 0 else -1,
        )

    def _go(self, cache: bytes | None) -> tuple[Child, Fd | None]:
        """The process, and its terminal's master if it has one, once the command runs."""
        found = template_for(self.bundle, self.wiring, self.seccomp, cache) if cache is not None else None
        enter: tuple[tuple[int, int], ...] = ()
        if found is not None:
            flags, waits, program = found.flags, found.waits, found.identified(self.bundle.identity)
            self.notes = found.notes
        else:
            compiled = self.plan()
            flags, waits, program = compiled.clone_flags(self.wiring), compiled.waits, compiled.assemble()
            enter, self.notes = compiled.enter, compiled.notes
        strings = launcher_strings(self.bundle.spec["process"], init=self.bundle.init)
        filled = program.fill(self.descriptors, strings)
        try:
            child = filled.spawn(flags, self.into_cgroup, self.spawned, enter)
        except OSError as error:
            from lamina.linux.constants import CLONE_NEWUSER
            from lamina.runtime.failure import clone_failure

            raise clone_failure(error, bool(flags & CLONE_NEWUSER)) from error
        self.theirs.close()
        self.watch = Watch() if enter else None
        if not flags & CLONE_VM or flags & CLONE_VFORK:
            return child, self._attend(child, waits)
        try:
            return child, self._attend(child, waits)
        finally:
            child.settle()

    def plan(self) -> Plan:
        """The plan, compiled now."""
        from lamina.runtime.plan import compile_plan

        program = self.seccomp.program() if self.seccomp else b""
        return compile_plan(self.bundle, replace(self.wiring, seccomp=program))

    def _attend(self, child: Child, waits: tuple[Wait, ...]) -> Fd | None:
        """Do what the child needs until its command runs, and give the terminal's master if it has one.

        What the child hands over comes first; then the end of its last descriptor is the beginning of the command. The
        child's own end is waited for as well: a process that a thread of this program forks meanwhile holds our
        sockets. Raises StepFailed.
        """
        given: dict[str, Fd] = {}
        said = b""
        try:
            for wait in waits:
                if (fd := attend(wait, child, self.ours, self.bundle, self.watch)) is not None:
                    given[wait.kind] = fd
            report = given.get(REPORT)
            if report is not None and heard(child, self.watch, report):
                said = os.read(report, 4)
            failed = child.failure()
            if failed is not None:
                raise self._failure(child, *failed)
            if said:
                raise self._execute_failure(-1, int.from_bytes(said, sys.byteorder))
            if self.seccomp is not None and ended_early(child.pid, child.pidfd):
                raise not_permitted("execveat, execve, and one of fcntl, ioctl and close")
            if any(wait.kind in (TERMINAL, REPORT) and wait.kind not in given for wait in waits):
                raise LaminaError("start: the container ended before its command was executed")
        except BaseException:
            if TERMINAL in given:
                given.pop(TERMINAL).close()
            raise
        finally:
            if REPORT in given:
                given.pop(REPORT).close()
        return given.get(TERMINAL)

    def _failure(self, child: Child, index: int, number: int) -> StepFailed:
        """The step *index* of the walk failed with the errno *number*, or its result was not the wanted one."""
        from lamina.runtime.failure import EXECUTING, step_failure

        steps, results = self.plan().steps, child.outcome().results
        if steps[index].call in EXECUTING:
            return self._execute_failure(index, number)
        return step_failure(steps, index, number, result=results[index], bundle=self.bundle)

    def _execute_failure(self, index: int, number: int) -> StepFailed:
        """The step that executes the command (-1: the last) failed, here or in the launcher."""
        from lamina.runtime.failure import command_failure

        steps = self.plan().whole_steps()
        index %= len(steps)
        args, environment = command_strings(self.bundle.spec["process"])
        name = args[0].decode(errors="replace")
        path = next((e[5:].decode(errors="replace") for e in environment if e.startswith(b"PATH=")), "")
        return command_failure(repr(steps[index]), index, name, number, init=self.bundle.init, path=path)


def _socket_pair() -> tuple[Fd, Fd]:
    ours, theirs = map(Fd, socketpair(SOCK_STREAM))
    with theirs as low:
        return ours, _aside(low)


def _above_stdio(fd: int, held: list[Fd]) -> int:
    """A copy above 2: the plan fills the lowest numbers one by one and must not overwrite what it still needs."""
    if fd > 2 or fd < 0:
        return fd
    copy = _aside(fd)
    held.append(copy)
    return int(copy)


def _aside(fd: int) -> Fd:
    """A copy that is in nobody's way."""
    return Fd(duplicate(fd, 10))


def _end(spawned: Any, watch: Watch | None) -> None:
    """Kill what `Program.spawn` noted, and reap it: a Child, or less where that was interrupted."""
    pidfd = Fd(os.pidfd_open(spawned[0])) if isinstance(spawned, tuple) else spawned.pidfd
    with pidfd:
        try:
            pidfd_send_signal(pidfd, 9)
        except OSError:
            pass
        if watch is not None:
            watch.reap(pidfd)
        else:
            reap(pidfd)
