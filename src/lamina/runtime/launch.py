"""Start a bundle: everything a plan needs is made ready, the plan is walked, and what is left is a running process."""

from __future__ import annotations

import _socket
import _thread
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
from lamina.linux.capabilities import last_cap
from lamina.linux.constants import CLONE_NEWUSER, CLONE_VFORK, CLONE_VM, PR_GET_DUMPABLE, PR_SET_DUMPABLE
from lamina.linux.fd import Fd
from lamina.linux.process import pidfd_get_info, pidfd_send_signal, prctl
from lamina.linux.program import Step, Strings
from lamina.runtime.bundle import Wiring
from lamina.runtime.init import INIT, init_file
from lamina.runtime.plan import Plan, compile_plan
from lamina.runtime.rlimits import effective_limits
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.linux.program import Child, Outcome
    from lamina.runtime.bundle import Bundle
    from lamina.runtime.cgroups import Cgroup

_EXECUTING = ("execve", "execveat")
_PRINTED = Wiring(channel=100, stdin=101, stdout=102, stderr=103)


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


def plan(bundle: Bundle, *, seccomp: bytes = b"") -> Plan:
    """The plan of a start as it would be made now, with descriptors that stand for the real ones. Opens nothing."""
    wiring = _facts(bundle)
    layout_tasks, controllers = _printed_cgroups(bundle)
    return compile_plan(
        bundle,
        replace(
            wiring,
            channel=_PRINTED.channel,
            stdin=_PRINTED.stdin,
            stdout=_PRINTED.stdout,
            stderr=_PRINTED.stderr,
            seccomp=seccomp,
            launcher=104 if os.path.exists(INIT) else -1,
            tasks=layout_tasks,
            controllers=controllers,
        ),
    )


def _printed_cgroups(bundle: Bundle) -> tuple[tuple[int, ...], tuple[bytes, ...]]:
    from lamina.runtime.cgroups import read_layout, settings

    layout = read_layout()
    wanted = settings((bundle.spec.get("linux") or {}).get("resources") or {}, layout)
    controllers = tuple(c.encode() for c in wanted if c in layout.v1)
    return tuple(range(110, 110 + len(controllers))), controllers


def launch(
    bundle: Bundle,
    *,
    stdin: int,
    stdout: int,
    stderr: int,
    seccomp: bytes = b"",
    die_with_parent: bool = True,
) -> Running:
    """Start *bundle* with the given descriptors and return once its command runs.

    A descriptor that is NULL stands for the container's own null device; with a terminal none of them is used.

    `seccomp` is the compiled filter of the specification. With *die_with_parent* the container is killed when the
    calling thread ends. Nothing about the calling process changes. Raises CommandNotFound, CommandNotExecutable,
    StepFailed with the step that failed, Unsupported, InvalidInput; then nothing is left behind.
    """
    facts = _facts(bundle)
    linux = bundle.spec.get("linux") or {}
    cgroup = None
    if linux.get("resources"):
        from lamina.runtime.cgroups import create

        cgroup = create(linux.get("cgroupsPath") or "", linux["resources"])
    held: list[Fd] = []
    try:
        ours, theirs = _socket_pair()
        held += [ours, theirs]
        standard = [_above_stdio(fd, held) for fd in (stdin, stdout, stderr)]
        launcher, notes = _launcher(held)
        wiring = replace(
            facts, channel=int(theirs), launcher=launcher, stdin=standard[0], stdout=standard[1], stderr=standard[2],
            seccomp=seccomp, die_with_parent=die_with_parent,
            tasks=tuple(int(fd) for fd in cgroup.tasks.values()) if cgroup else (),
            controllers=tuple(c.encode() for c in cgroup.tasks) if cgroup else (),
            cgroup=int(cgroup.v2) if cgroup and cgroup.v2 is not None else -1,
        )  # fmt: skip
        compiled = compile_plan(bundle, wiring)
        with _dumpable:
            child = _spawn(compiled, wiring, bundle, ours, theirs)
            pty = _await_command(compiled, wiring, child, ours, bundle)
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
    return Running(child.pid, child.pidfd, pty, cgroup, (*_lowered(bundle), *notes))


class _Dumpable:
    """Ids that change in a child that shares our memory mark that memory as not dumpable, ours too (prctl(2)), which
    keeps who has these ids from tracing the child. So it is put back when no start is under way any more, in no thread.
    """

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._starts = self._before = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._starts:
                self._before = prctl(PR_GET_DUMPABLE)
            self._starts += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._starts -= 1
            if not self._starts and prctl(PR_GET_DUMPABLE) != self._before:
                prctl(PR_SET_DUMPABLE, self._before)

    def forked(self) -> None:
        """In a fork: what other threads had under way is no concern of this process."""
        self._lock = _thread.allocate_lock()
        if self._starts:
            self._starts = 0
            prctl(PR_SET_DUMPABLE, self._before)


_dumpable = _Dumpable()
os.register_at_fork(after_in_child=_dumpable.forked)


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
        _PRINTED,
        files=frozenset(files),
        limits=effective_limits(bundle.spec["process"].get("rlimits") or [])[0],
        last_cap=last_cap(),
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


def _launcher(held: list[Fd]) -> tuple[int, tuple[str, ...]]:
    """The program that executes the command, and what is to be said where there is none."""
    try:
        with init_file() as file:
            held.append(_aside(file))
    except Unsupported:
        return -1, (
            "lamina-exec was not built: a script that begins with #!/proc/self/exe gets at this program's own file on "
            "the host (install a C compiler, and Lamina again)",
        )
    return int(held[-1]), ()


def _spawn(compiled: Plan, wiring: Wiring, bundle: Bundle, ours: Fd, theirs: Fd) -> Child:
    """clone3, id maps where there is a user namespace, and the report of the walk."""
    mapped = bool(compiled.flags & CLONE_NEWUSER)
    # a parent in vfork is stopped until execve: it could not write the maps that the child waits for
    sharing = CLONE_VM if mapped else CLONE_VM | CLONE_VFORK
    into_cgroup = 0x200000000 if wiring.cgroup >= 0 else 0
    cgroup_namespace = compiled.flags & 0x02000000
    program = compiled.assemble()
    try:
        child = program.spawn(compiled.flags & ~cgroup_namespace | sharing | into_cgroup, wiring.cgroup)
    except OSError as error:
        raise _clone_failure(error, mapped) from error
    try:
        theirs.close()
        if mapped:
            from lamina.runtime.id_maps import write_id_maps

            write_id_maps(child.pid, bundle.spec["linux"])
            os.write(ours, b"m")
    except BaseException:
        _end(child)
        raise
    return child


def _await_command(compiled: Plan, wiring: Wiring, child: Child, ours: Fd, bundle: Bundle) -> Fd | None:
    """Wait until the command runs, and give the terminal's master if it has one. Raises StepFailed.

    What the child hands over comes first; then the end of its last descriptor is the beginning of the command. The
    child's own end is waited for as well: a process that a thread of this program forks meanwhile holds our sockets.
    """
    terminal = bool(bundle.spec["process"].get("terminal"))
    pty = report = None
    said = b""
    try:
        if terminal:
            pty = _receive_descriptor(ours, child)
        if wiring.launcher >= 0 and (pty is not None) is terminal:
            report = _receive_descriptor(ours, child)
        if report is not None and report in _ready(None, report, child.pidfd):
            said = os.read(report, 4)
        elif wiring.launcher < 0 and compiled.flags & CLONE_NEWUSER:
            _readable(ours, child)
        outcome = child.outcome()
        if outcome.failed is not None:
            raise _walk_failure(compiled, outcome, bundle)
        if said:
            raise _execute_failure(
                compiled, len(compiled.steps) - 1, int.from_bytes(said, sys.byteorder), bundle
            )
        if terminal and pty is None:
            raise LaminaError("start: the container handed over no terminal")
    except BaseException:
        _end(child)
        raise
    finally:
        if report is not None:
            report.close()
    return pty


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


def _command_name(step: Step) -> str:
    argv = next(arg for arg in step.args if isinstance(arg, Strings))
    return argv[step.call == "execveat"].decode(errors="replace")


def _walk_failure(compiled: Plan, outcome: Outcome, bundle: Bundle) -> StepFailed:
    index = outcome.failed or 0
    step = compiled.steps[index]
    if step.call in _EXECUTING:
        # a command that is there but not for us counts for more than one that is not there
        refused = any(
            outcome.results[i] == -EACCES for i, s in enumerate(compiled.steps) if s.call == "execve"
        )
        return _execute_failure(compiled, index, EACCES if refused else outcome.errno, bundle)
    from lamina.runtime.failures import meaning_of

    if outcome.errno and (meaning := meaning_of(bundle, step, outcome.errno)) is not None:
        return StepFailed(
            repr(step), outcome.errno, index=index, message=meaning.message, remedy=meaning.remedy
        )
    text = f"step {index + 1} of {len(compiled.steps)} of the start failed: {step!r}"
    cause = os.strerror(outcome.errno) if outcome.errno else f"unexpected result {outcome.results[index]}"
    return StepFailed(
        repr(step), outcome.errno, index=index, message=f"{text}: {cause}", remedy="see `lamina doctor`"
    )


def _execute_failure(compiled: Plan, index: int, number: int, bundle: Bundle) -> StepFailed:
    """The step that executes the command failed, here or in the launcher."""
    kind: type[StepFailed] = CommandNotFound if number == ENOENT else CommandNotExecutable
    hint = remedy = ""
    step = compiled.steps[index]
    name = _command_name(step)
    if kind is CommandNotFound:
        hint = "no such command in the container"
        if "/" in name:
            hint += ", or no such interpreter as its first line names"
    elif number == ENOEXEC:
        hint = "neither a program for this machine nor a script with a #! line"
    elif number == E2BIG:
        hint = (
            "the kernel takes no argument or variable of 128 KiB, and a quarter of the stack's limit in all"
        )
        remedy = "hand large inputs over as a file, or on standard input"
    elif number == EAGAIN and bundle.init:
        kind, hint = StepFailed, "the limit of processes leaves no room for an init and the command"
        remedy = "allow 2 with --pids-limit, or leave --init away"
    message = f"execute {name}: {os.strerror(number)}"
    return kind(repr(step), number, index=index, message=message, hint=hint, remedy=remedy)
