"""Start a bundle: everything a plan needs is made ready, the plan is walked, and what is left is a running process."""

from __future__ import annotations

import _socket
import os
import select
import stat
import sys
from errno import E2BIG, EACCES, EAGAIN, ECHILD, ENOENT, ENOEXEC, ENOSPC, EPERM, ESRCH

from lamina.errors import (
    CommandNotExecutable,
    CommandNotFound,
    KernelError,
    LaminaError,
    NotFound,
    StepFailed,
    Unsupported,
)
from lamina.linux.fd import Fd
from lamina.linux.packed import Reg
from lamina.linux.procfs import cap_last_cap
from lamina.runtime.bundle import NULL, Wiring
from lamina.runtime.command import command_strings, launcher_strings
from lamina.runtime.init import exec_file, init_file
from lamina.runtime.rlimits import effective_limits
from lamina.runtime.template import template_for
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from signal import pidfd_send_signal

    from lamina.linux.packed import Child, Program
    from lamina.runtime.bundle import Bundle
    from lamina.runtime.cgroups import Cgroup
    from lamina.runtime.plan import Plan
    from lamina.runtime.seccomp.cache import Filter
else:
    from _signal import pidfd_send_signal  # the module `signal` is enums around it

_EXECUTING = ("execve", "execveat")
# a plan names the descriptors of a start; which numbers they have is said when it is walked
_OPEN = Wiring(channel=Reg("channel"), stdin=Reg("stdin"), stdout=Reg("stdout"), stderr=Reg("stderr"))
_LAUNCHER = Reg("launcher")


class Running:
    """A container's first process. Its descriptors are ours until `close()`.

    `pid` is its number here, `pidfd` refers to it without a race, `pty` is the terminal's master (None without one),
    `cgroup` its control groups (None when nothing was asked), `notes` what differs from what was asked.
    """

    def __init__(
        self, pid: int, pidfd: Fd, pty: Fd | None, cgroup: Cgroup | None, notes: tuple[str, ...]
    ) -> None:
        self.pid, self.pidfd, self.pty, self.cgroup, self.notes = pid, pidfd, pty, cgroup, notes
        self._status: int | None = None

    def kill(self, signal: int) -> None:
        """Send *signal*; nothing happens when the process has ended already."""
        try:
            pidfd_send_signal(self.pidfd, signal)
        except OSError as error:
            if error.errno != ESRCH:
                raise

    def poll(self) -> int | None:
        """The exit status, 128 + n after signal n, or None while it runs."""
        if self._status is None and _ready(0, self.pidfd):
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


def _reap(pidfd: Fd) -> int:
    try:
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    except ChildProcessError:
        # somebody in this program waited for any child; from Linux 6.15 on the kernel remembers the status
        _ready(None, pidfd)
        from lamina.linux.process import pidfd_get_info

        try:
            code = pidfd_get_info(pidfd).exit_status
        except OSError:
            code = None
        if code is None:
            raise KernelError(
                "wait for the container", ECHILD, hint="something else in this program took its exit status"
            ) from None
        return 128 + os.WTERMSIG(code) if os.WIFSIGNALED(code) else os.WEXITSTATUS(code)
    if ended is None:
        raise KernelError("waitid", ECHILD)
    return int(ended.si_status) if ended.si_code == os.CLD_EXITED else 128 + int(ended.si_status)


def plan(bundle: Bundle, *, seccomp: Filter | None = None) -> Plan:
    """The plan of a start as it would be made now. Opens nothing."""
    from lamina.runtime.plan import compile_plan

    tasks, controllers = _printed_cgroups(bundle)
    wiring = replace(
        _facts(bundle),
        launcher=_LAUNCHER,
        seccomp=seccomp.program() if seccomp else b"",
        tasks=tasks,
        controllers=controllers,
    )
    return compile_plan(bundle, wiring)


def _printed_cgroups(bundle: Bundle) -> tuple[tuple[Reg, ...], tuple[bytes, ...]]:
    from lamina.runtime.cgroups import read_layout, settings

    layout = read_layout()
    wanted = settings((bundle.spec.get("linux") or {}).get("resources") or {}, layout)
    controllers = tuple(c.encode() for c in wanted if c in layout.v1)
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
) -> Running:
    """Start *bundle* with the given descriptors and return once its command runs.

    A descriptor that is NULL stands for the container's own null device; with a terminal none of them is used.

    `seccomp` is the filter of the specification. With *die_with_parent* the container is killed when the calling thread
    ends. Plans are kept in the directory *cache*, if there is one. Nothing about the calling process changes. Raises
    CommandNotFound, CommandNotExecutable, StepFailed with the step that failed, Unsupported, InvalidInput; then nothing
    is left behind.
    """
    facts = _facts(bundle)
    linux = bundle.spec.get("linux") or {}
    cgroup = None
    if linux.get("resources"):
        from lamina.runtime.cgroups import create

        cgroup = create(linux.get("cgroupsPath") or "", linux["resources"])
    held: list[Fd] = []
    try:
        start = _Start(bundle, facts, cgroup, (stdin, stdout, stderr), seccomp, die_with_parent, held)
        child, pty = start.go(cache)
    except BaseException as failure:
        if cgroup is not None:
            cgroup.close()
            try:
                cgroup.remove()
            except OSError as second:
                failure.add_note(f"while cleaning up: {second}")
        raise
    finally:
        for fd in held:
            fd.close()
    if cgroup is not None:
        cgroup.close()
    return Running(child.pid, child.pidfd, pty, cgroup, _lowered(bundle))


class _Start:
    """One start: what a plan has open, and the way from it to a command that runs."""

    def __init__(
        self,
        bundle: Bundle,
        facts: Wiring,
        cgroup: Cgroup | None,
        standard: tuple[int, int, int],
        seccomp: Filter | None,
        die_with_parent: bool,
        held: list[Fd],
    ) -> None:
        self.bundle, self.seccomp = bundle, seccomp
        self.terminal = bool(bundle.spec["process"].get("terminal"))
        self.ours, self.theirs = _socket_pair()
        held += [self.ours, self.theirs]
        with init_file() if bundle.init else exec_file() as file:
            launcher = _aside(file)
        held.append(launcher)
        streams = [_above_stdio(fd, held) for fd in standard]
        tasks = dict(cgroup.tasks) if cgroup else {}
        self.into_cgroup = int(cgroup.v2) if cgroup and cgroup.v2 is not None else -1
        self.descriptors = {
            "channel": int(self.theirs),
            "launcher": int(launcher),
            **dict(zip(("stdin", "stdout", "stderr"), streams, strict=True)),
            **{str(_tasks(name.encode())): int(fd) for name, fd in tasks.items()},
        }
        closed = {
            name: NULL for name, fd in zip(("stdin", "stdout", "stderr"), streams, strict=True) if fd < 0
        }
        self.wiring = replace(
            facts,
            **closed,
            launcher=_LAUNCHER,
            die_with_parent=die_with_parent,
            tasks=tuple(_tasks(name.encode()) for name in tasks),
            controllers=tuple(name.encode() for name in tasks),
            cgroup=0 if self.into_cgroup >= 0 else -1,
        )
        self.strings = launcher_strings(bundle.spec["process"], init=bundle.init)

    def go(self, cache: bytes | None) -> tuple[Child, Fd | None]:
        """The process, and its terminal's master if it has one, once the command runs."""
        found = template_for(self.bundle, self.wiring, self.seccomp, cache) if cache is not None else None
        if found is not None:
            flags, mapped, program = found.flags, found.mapped, found.identified(self.bundle.identity)
        else:
            compiled = self.plan()
            flags, mapped, program = compiled.clone_flags(self.wiring), compiled.mapped, compiled.assemble()
        filled = program.fill(self.descriptors, self.strings)
        if mapped:
            return self._go_mapped(flags, filled)
        child = self._spawn(flags, filled)
        self.theirs.close()
        return child, self._await_command(child)

    def _go_mapped(self, flags: int, program: Program) -> tuple[Child, Fd | None]:
        """The same in a new user namespace, whose id maps only somebody outside can write."""
        from lamina.runtime.id_maps import write_id_maps

        child = self._spawn(flags, program)
        try:
            try:
                self.theirs.close()
                write_id_maps(child.pid, self.bundle.spec["linux"])
                os.write(self.ours, b"m")
            except BaseException:
                _end(child)
                raise
            return child, self._await_command(child)
        finally:
            child.settle()

    def _spawn(self, flags: int, program: Program) -> Child:
        try:
            return program.spawn(flags, self.into_cgroup)
        except OSError as error:
            raise _clone_failure(error, bool(self.bundle.spec["linux"].get("uidMappings"))) from error

    def plan(self) -> Plan:
        """The plan, compiled now."""
        from lamina.runtime.plan import compile_plan

        program = self.seccomp.program() if self.seccomp else b""
        return compile_plan(self.bundle, replace(self.wiring, seccomp=program))

    def _await_command(self, child: Child) -> Fd | None:
        """Wait until the command runs, and give the terminal's master if it has one. Raises StepFailed.

        What the child hands over comes first; then the end of its last descriptor is the beginning of the command. The
        child's own end is waited for as well: a process that a thread of this program forks meanwhile holds our
        sockets.
        """
        pty = report = None
        said = b""
        try:
            if self.terminal:
                pty = _receive_descriptor(self.ours, child)
            if (pty is not None) is self.terminal:
                report = _receive_descriptor(self.ours, child)
            if report is not None and report in _ready(None, report, child.pidfd):
                said = os.read(report, 4)
            failed = child.failure()
            if failed is not None:
                raise self._failure(child, *failed)
            if said:
                raise self._execute_failure(-1, int.from_bytes(said, sys.byteorder))
            if self.terminal and pty is None:
                raise LaminaError("start: the container handed over no terminal")
        except BaseException:
            _end(child)
            raise
        finally:
            if report is not None:
                report.close()
        return pty

    def _failure(self, child: Child, index: int, number: int) -> StepFailed:
        """The step *index* of the walk failed with the errno *number*, or its result was not the wanted one."""
        steps, results = self.plan().steps, child.outcome().results
        step = steps[index]
        if step.call in _EXECUTING:
            # a command that is there but not for us counts for more than one that is not there
            refused = any(results[i] == -EACCES for i, s in enumerate(steps) if s.call == "execve")
            return self._execute_failure(index, EACCES if refused else number)
        from lamina.runtime.failures import meaning_of

        if number and (meaning := meaning_of(self.bundle, step, number)) is not None:
            return StepFailed(repr(step), number, index=index, message=meaning.message, remedy=meaning.remedy)
        text = f"step {index + 1} of {len(steps)} of the start failed: {step!r}"
        cause = os.strerror(number) if number else f"unexpected result {results[index]}"
        return StepFailed(
            repr(step), number, index=index, message=f"{text}: {cause}", remedy="see `lamina doctor`"
        )

    def _execute_failure(self, index: int, number: int) -> StepFailed:
        """The step that executes the command (-1: the last) failed, here or in the launcher."""
        kind: type[StepFailed] = CommandNotFound if number == ENOENT else CommandNotExecutable
        hint = remedy = ""
        name = command_strings(self.bundle.spec["process"])[0][0].decode(errors="replace")
        if kind is CommandNotFound:
            hint = "no such command in the container"
            if "/" in name:
                hint += ", or no such interpreter as its first line names"
        elif number == ENOEXEC:
            hint = "neither a program for this machine nor a script with a #! line"
        elif number == E2BIG:
            hint = "the kernel takes no argument or variable of 128 KiB, and a quarter of the stack's limit in all"
            remedy = "hand large inputs over as a file, or on standard input"
        elif number == EAGAIN and self.bundle.init:
            kind, hint = StepFailed, "the limit of processes leaves no room for an init and the command"
            remedy = "allow 2 with --pids-limit, or leave --init away"
        steps = self.plan().whole_steps()
        index %= len(steps)
        message = f"execute {name}: {os.strerror(number)}"
        return kind(repr(steps[index]), number, index=index, message=message, hint=hint, remedy=remedy)


def _lowered(bundle: Bundle) -> tuple[str, ...]:
    asked = bundle.spec["process"].get("rlimits") or []
    return effective_limits(asked)[1] if asked else ()


def _facts(bundle: Bundle) -> Wiring:
    """What the plan must know of the host."""
    null = os.stat("/dev/null")
    if not stat.S_ISCHR(null.st_mode) or null.st_rdev != os.makedev(1, 3):
        raise Unsupported(
            "mask paths: /dev/null of this host is not the null device", remedy="repair /dev/null"
        )
    files = set()
    for mount in bundle.spec.get("mounts") or []:
        options = mount.get("options") or []
        if mount.get("type") == "bind" or "bind" in options or "rbind" in options:
            source = os.fsencode(str(mount["source"]))
            try:
                if not stat.S_ISDIR(os.stat(source).st_mode):
                    files.add(source)
            except OSError as error:
                raise NotFound(f"bind {os.fsdecode(source)}: {error.strerror}") from error
    linux = bundle.spec.get("linux") or {}
    mappings = linux.get("gidMappings") or []
    single = bool(mappings) and os.geteuid() != 0 and sum(m["size"] for m in mappings) == 1
    return replace(
        _OPEN,
        files=frozenset(files),
        limits=effective_limits(bundle.spec["process"].get("rlimits") or [])[0],
        last_cap=cap_last_cap(),
        setgroups=not single,
        lowerdir_plus=_takes_layers_one_by_one(),
    )


def _takes_layers_one_by_one() -> bool:
    """Whether this kernel's overlayfs has `lowerdir+`. By its version: asking it costs a file system context."""
    release = os.uname().release.split(".", 2)
    return (int(release[0]), int("".join(c for c in release[1] if c.isdigit()))) >= (6, 8)


def _socket_pair() -> tuple[Fd, Fd]:
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC, 0)
    with Fd(theirs.detach()) as low:
        return Fd(ours.detach()), _aside(low)


def _above_stdio(fd: int, held: list[Fd]) -> int:
    """A copy above 2: the plan fills the lowest numbers one by one and must not overwrite what it still needs."""
    if fd > 2 or fd < 0:
        return fd
    copy = _aside(fd)
    held.append(copy)
    return int(copy)


def _aside(fd: int) -> Fd:
    """A copy that is in nobody's way."""
    import fcntl

    return Fd(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10))


def _end(child: Child) -> None:
    try:
        pidfd_send_signal(child.pidfd, 9)
    except OSError:
        pass
    _reap(child.pidfd)
    child.pidfd.close()


def _readable(ours: Fd, child: Child) -> bool:
    """Wait until something can be read from the channel or its other end is closed; False: the child has ended."""
    return ours in _ready(None, ours, child.pidfd)


def _ready(seconds: float | None, *descriptors: int) -> list[int]:
    """Which of the descriptors can be read, or have ended. Not by select(2), which knows no numbers from 1024 on."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [number for number, _ in poll.poll(None if seconds is None else seconds * 1000)]


def _receive_descriptor(ours: Fd, child: Child) -> Fd | None:
    """The next descriptor that the child hands over; None when it has ended, or closed the channel, before that."""
    if not _readable(ours, child):
        return None
    channel = _socket.socket(fileno=os.dup(ours))
    try:
        _, ancillary, _, _ = channel.recvmsg(1, 64, _socket.MSG_CMSG_CLOEXEC)
    finally:
        channel.close()
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            return Fd(int.from_bytes(data[:4], "little"))
    return None


def _clone_failure(error: OSError, mapped: bool) -> LaminaError:
    number = error.errno or 0
    if mapped and number in (EPERM, ENOSPC):
        return Unsupported(
            f"create user namespace: {os.strerror(number)}",
            remedy="`lamina doctor` names what forbids it on this host and the remedy",
        )
    if number == EPERM:
        return Unsupported(
            "create namespaces: Operation not permitted", remedy="run as root, or see `lamina doctor`"
        )
    return KernelError("clone3", number, remedy="see `lamina doctor`")
