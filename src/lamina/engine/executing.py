"""A further process in a running container, for whoever calls: `exec`.

The process is a child of the caller's and lives in the container's namespaces and control groups, with what the
container's first process may, and no more; the container's end is its end. Who supervises the container is not asked.
"""

from __future__ import annotations

import _thread
import os
from errno import ESRCH

from lamina.engine.completed import Completed
from lamina.engine.exec_process import Asked, null_of, process_of
from lamina.errors import (
    CommandNotExecutable,
    CommandNotFound,
    Conflict,
    InvalidInput,
    KernelError,
    LaminaError,
    NotFound,
    StepFailed,
    TimeoutExpired,
    Unsupported,
)
from lamina.linux.fd import Fd, owned, ready
from lamina.runtime.bundle import NULL
from lamina.runtime.container.directory import alive
from lamina.runtime.container.further import Joining, Target, further, root_of
from lamina.store.events import about, note
from lamina.store.lock import joining
from lamina.supervisor.foreground import attend
from lamina.supervisor.signals import Undisturbed
from lamina.supervisor.stdio import DEVNULL, Stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from signal import pidfd_send_signal
    from typing import Any, Protocol, TypedDict

    from lamina.engine.options import Io
    from lamina.runtime.container.further import Joined
    from lamina.store.containers import Home
    from lamina.store.events import Event
    from lamina.store.lock import Lock
    from lamina.supervisor.foreground import Ended
    from lamina.supervisor.keys import Keys
    from lamina.supervisor.signals import Catcher

    Process = dict[str, Any]
    Tell = Callable[..., str]

    class Streams(Protocol):
        """Stdio, as far as a start needs it."""

        child: tuple[int, int, int]

        def started(self, pty: Fd | None) -> None: ...

    class ExecOptions(TypedDict, total=False):
        """The options of a further process; each as the option of `docker exec` of that name."""

        env: Any
        workdir: Any
        user: str | int | None
        tty: bool
        interactive: bool
        privileged: bool
        detach_keys: str | None

else:
    from _signal import pidfd_send_signal  # the module `signal` is enums around it

# what an event says of a command at most: an image's health check, told of again and again, may be any text
LONGEST_SAID = 1024
# seconds that a first process which was killed may take to end: what others began in there fails before
ENDING = 0.2
# those that any process may take to die of SIGKILL while somebody waits for that
DYING = 10.0
# what docker exits with where the container cannot have it so: the user, the working directory
NOT_EXECUTED = 126
# detached ones that have not been reaped yet
_left: list[Fd] = []
_reaping = _thread.allocate_lock()

# the files in /proc/<pid>/ns, and clone3(2)'s flags for them
NAMESPACES = {
    "cgroup": 0x02000000,
    "ipc": 0x08000000,
    "mnt": 0x00020000,
    "net": 0x40000000,
    "pid": 0x20000000,
    "time": 0x00000080,
    "user": 0x10000000,
    "uts": 0x04000000,
}


class Execution:
    """The process while it lives, a child of ours. `pid`, `pidfd`, and `pty`, the master of its terminal or None.

    Until it was `handed_over` to who sees its end, it is killed when nobody holds it any more: a Ctrl-C between any two
    instructions would leave one that nobody knows of, and which keeps its container from ending.
    """

    def __init__(self, joined: Joined, pty: Fd | None) -> None:
        self._joined, self.pty = joined, pty
        self.pid, self.pidfd = joined.pid, joined.pidfd
        self._status: int | None = None
        self._maker: int | None = os.getpid()  # a fork has an object like it, and not the process

    def __del__(self) -> None:
        try:
            if self._maker == os.getpid():
                self.abandon()
        # never begun, or the interpreter is leaving
        except (AttributeError, LaminaError, OSError, TypeError):
            pass

    def handed_over(self) -> None:
        """Somebody sees its end from now on, or it is meant to go on without anybody."""
        self._maker = None

    def abandon(self) -> None:
        """Kill it, and reap it: nobody will ask how it ended. One that cannot die yet is reaped when it has."""
        if self._status is None:
            self.kill(9)
            if not ready(DYING, self.pidfd):  # it was paused just then
                leave(self)
                return
            try:
                self.wait()
            except LaminaError:  # this program waits for any child, and took it
                pass
        self.handed_over()
        self.close()

    def kill(self, signal: int) -> None:
        """Send *signal*; nothing happens when the process has ended already."""
        if self._status is not None:  # the descriptor may be closed, and its number somebody else's
            return
        try:
            pidfd_send_signal(self.pidfd, signal)
        except OSError as error:
            if error.errno != ESRCH:
                raise

    def end(self) -> None:
        """Kill it, and what it began and left in its process group, which it leads, as in a session of its own."""
        self.kill(9)
        if self._status is None:  # until it is reaped its number is nobody else's
            try:
                os.killpg(self.pid, 9)
            except (ProcessLookupError, PermissionError):
                pass

    def wait(self) -> int:
        """Wait for the end and give the exit status, 128 + n after signal n."""
        if self._status is None:
            self._status = self._joined.wait()
            self.handed_over()
        return self._status

    def close(self) -> None:
        """Let go of the descriptors."""
        self.pidfd.close()
        if self.pty is not None:
            self.pty.close()


def execute(home: Home, words: tuple[str, ...], asked: Asked, io: Io) -> Completed:
    """Run *words* in the container and stay until they have ended, or the detach keys are typed (`returncode` 0 then).

    Raises Conflict where it does not run or is paused, CommandNotFound, CommandNotExecutable, TimeoutExpired,
    InvalidInput, NotFound (the user, the directory) and others below LaminaError.
    """
    stdio = streams(asked, io)
    catcher: Catcher | None = None
    try:
        if io.forward_signals:
            from lamina.supervisor.signals import Catcher

            catcher = Catcher()
        execution, tell = begin(home, words, asked, stdio, io.stdin)
        try:
            ended = attend(execution, stdio, timeout=io.timeout, catcher=catcher, init=True)
        except BaseException:
            execution.end()
            execution.abandon()
            raise
        warning = conclude(execution, ended, tell)
    finally:
        stdio.close()
        if catcher is not None:
            catcher.close()
    return result(home, words, io, stdio, ended, warning)


def streams(asked: Asked, io: Io) -> Stdio:
    """The streams of a process that somebody stays with."""
    keys: Keys | None = None
    if asked.tty:
        from lamina.supervisor.keys import Keys

        keys = Keys(asked.keys)
    return Stdio(io.stdin, io.stdout, io.stderr, data=io.data, tty=asked.tty, keys=keys)


def begin(
    home: Home, words: tuple[str, ...], asked: Asked, stdio: Stdio, terminal: int | None
) -> tuple[Execution, Tell]:
    """`start`, and note that it began; what notes the rest of its life."""
    execution = start(home, words, asked, stdio, terminal)
    try:
        return execution, told(home, words)
    except BaseException:
        execution.abandon()
        raise


def conclude(execution: Execution, ended: Ended, tell: Tell) -> str:
    """It has ended, or is left to itself: note that, and let go of it. What is to be said of that, "" for nothing."""
    if ended.detached:
        keep_terminal(execution)
        return tell("exec_detach")
    try:
        return tell("exec_die", exitCode=ended.status)
    finally:
        execution.close()


def result(
    home: Home, words: tuple[str, ...], io: Io, stdio: Stdio, ended: Ended, warning: str = ""
) -> Completed:
    """What `execute` gives for one that ended so. Raises TimeoutExpired, KernelError (its output)."""
    if ended.detached:
        return Completed(list(words), 0, container=home.id)
    out, err = stdio.captured(1), stdio.captured(2)
    if ended.timed_out:
        said = f"exec {' '.join(words)}: not ended within {io.timeout:g} s, and killed"
        raise TimeoutExpired(said, cmd=list(words), timeout=io.timeout, stdout=out, stderr=err)
    if ended.errors:
        raise KernelError("write the output of the command", ended.errors[0].errno or 5)
    warnings = (warning,) if warning else ()
    return Completed(list(words), ended.status, out, err, container=home.id, warnings=warnings)


def detach(home: Home, words: tuple[str, ...], asked: Asked) -> int:
    """Run *words* in the container and leave them to themselves once they run; their pid here. Raises as `execute`."""
    stdio = Stdio(DEVNULL, DEVNULL, DEVNULL, tty=asked.tty)
    try:
        execution = start(home, words, asked, stdio, None)
    finally:
        stdio.close()
    try:
        told(home, words, keeps=False)
    except BaseException:
        execution.abandon()
        raise
    keep_terminal(execution)
    return execution.pid


def told(home: Home, words: tuple[str, ...], *, keeps: bool = True) -> Tell:
    """Note that it began; what notes the rest of its life, and, where that was asked of the container and it *keeps*
    what the command did, makes a snapshot at its end. It gives what is to be said of that, "" for nothing.
    """
    identity = os.urandom(32).hex()
    record = home.asked()

    def event(action: str, **more: object) -> Event:
        return about(record, action, execID=identity, **more)

    said = " ".join(words)
    if len(said) > LONGEST_SAID:
        said = said[:LONGEST_SAID] + "..."
    note(home.store, event(f"exec_create: {said}"), event(f"exec_start: {said}"))

    def tell(action: str, **more: object) -> str:
        note(home.store, event(action, **more))
        options = record.get("options") or record.get("said") or {}
        if not keeps or action != "exec_die" or not options.get("auto_snapshot"):
            return ""
        from lamina.engine.auto_snapshot import after_exec

        return after_exec(home, words)

    return tell


def leave(execution: Execution) -> None:
    """Nobody waits for it: it is reaped when it has ended. (A command of ours leaves that to who reaps orphans.)"""
    from lamina.engine.detaching import is_small

    _left.append(execution.pidfd)
    execution.handed_over()
    if not is_small():
        from lamina.engine.reaping import watch

        watch(execution.pidfd, reap_left)


def _begin_anew() -> None:
    """In a fork: a thread that was reaping is not there to go on, and they are not its children."""
    global _reaping
    _reaping = _thread.allocate_lock()


os.register_at_fork(after_in_child=_begin_anew)


def reap_left() -> bool:
    """Reap those of our children that were left to themselves and have ended, as subprocess does now and then; whether
    there are any that have not.
    """
    with _reaping:  # a number that another thread closes meanwhile may be the next child's
        for pidfd in tuple(_left):
            try:
                if os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG) is None:
                    continue
            except ChildProcessError:
                pass  # somebody in this program waits for any child
            _left.remove(pidfd)
            pidfd.close()
        return bool(_left)


def start(
    home: Home,
    words: tuple[str, ...],
    asked: Asked,
    stdio: Streams,
    terminal: int | None,
    noted: Callable[[int], None] | None = None,
) -> Execution:
    """Begin *words* in the container; its streams are those of *stdio*, which is told. *noted* is called with its pid
    before the command begins, and it begins only after that. Raises as `execute`.
    """
    if not words or not words[0]:
        raise InvalidInput("exec: no command is given", remedy="name one behind the container")
    if _left:
        reap_left()
    state = home.read("state") or {}
    execution: Execution | None = None
    try:
        with _first_process(home, state) as pidfd, _turn(home):
            target = _target(home, state)
            if os.path.lexists(home.path + b"/paused") or (
                target.cgroup is not None and target.cgroup.frozen
            ):
                raise Conflict(
                    f"exec in container {home.shown}: it is paused",
                    remedy="unpause the container before exec",
                )
            first = state["joining"]["process"]
            try:
                execution = _begun(target, pidfd, first, words, asked, stdio, terminal, noted)
            except LaminaError as failure:
                of_command = isinstance(failure, (CommandNotFound, CommandNotExecutable))
                if ready(0 if of_command else ENDING, pidfd):  # it has ended, and with it what was begun
                    raise _not_running(home) from failure
                raise
        stdio.started(execution.pty)
    except BaseException:
        if execution is not None:
            execution.abandon()
        raise
    return execution


def _begun(
    target: Target,
    pidfd: Fd,
    first: dict[str, Any],
    words: tuple[str, ...],
    asked: Asked,
    stdio: Streams,
    terminal: int | None,
    noted: Callable[[int], None] | None,
) -> Execution:
    """The process, beside the *first* one of *target*. Raises as `start`."""
    with root_of(target, pidfd) as root:
        try:
            process = process_of(words, asked, first, target.linux, root, terminal)
        except (InvalidInput, NotFound) as failure:  # the user that was asked for
            failure.exit_code = NOT_EXECUTED
            raise
        null = null_of(root) if NULL in stdio.child or asked.tty else None
    masters: list[Fd] = []
    streams = tuple(null if fd == NULL or asked.tty else fd for fd in stdio.child)
    joining = Joining(console=masters.append, streams=streams, noted=noted)  # type: ignore[arg-type]
    try:
        with Undisturbed():  # or a Ctrl-C in this moment would leave a process that nobody knows of
            return Execution(further(target, pidfd, process, joining), masters.pop() if masters else None)
    except StepFailed as failure:
        raise _of_directory(failure, process["cwd"]) or failure from failure.__cause__
    finally:
        if null is not None:
            null.close()


def _turn(home: Home) -> Lock:
    """So that what begins is there before its root is replaced, or begins in the new one."""
    try:
        return joining(home.path)
    except FileNotFoundError:
        raise _not_running(home) from None


def _of_directory(failure: StepFailed, directory: str) -> LaminaError | None:
    """What the failure is in words, if it is one to enter the working directory."""
    if "@cwd" not in failure.step:
        return None
    missing = NotFound(
        f"exec in directory {directory}: {failure.strerror}",
        remedy="name a directory of the container with -w",
    )
    missing.exit_code = NOT_EXECUTED
    return missing


def _first_process(home: Home, state: dict[str, Any]) -> Fd:
    """A descriptor of the container's first process, and of no other."""
    try:
        pidfd = owned(os.pidfd_open, state["pid"])
    except (OSError, KeyError):
        raise _not_running(home) from None
    if not alive(state):  # looked at after it was opened, so it is this one
        pidfd.close()
        raise _not_running(home)
    return pidfd


def _not_running(home: Home) -> Conflict:
    from lamina.store.containers import RESTARTING

    home.asked()  # it may be gone altogether, and that is said first
    if home.state() == RESTARTING:
        return Conflict(f"exec in container {home.shown}: it is restarting", remedy="wait until it runs")
    return Conflict(f"exec in container {home.shown}: it is not running", remedy=f"lamina start {home.shown}")


def _target(home: Home, state: dict[str, Any]) -> Target:
    if not state.get("joining"):
        raise Unsupported(
            f"exec in container {home.shown}: it was started by an older Lamina", remedy="start it again"
        )
    cgroup = None
    if state.get("cgroup"):
        from lamina.runtime.cgroups.cgroup import reopen

        cgroup = reopen(state["cgroup"])
    linux = {**state["joining"]["linux"], "namespaces": [{"type": "mount"}]}
    return Target(home.id, state["pid"], linux, _apart(home, state["pid"]), home.store.cache, cgroup)


def _apart(home: Home, pid: int) -> int:
    """The namespaces of process *pid* that are not ours, as flags."""
    flags = 0
    try:
        for name, flag in NAMESPACES.items():
            try:
                own = os.readlink(f"/proc/self/ns/{name}")
            except FileNotFoundError:  # a kernel without
                continue
            if os.readlink(f"/proc/{pid}/ns/{name}") != own:
                flags |= flag
    except (FileNotFoundError, ProcessLookupError):
        raise _not_running(home) from None
    return flags


def keep_terminal(execution: Execution) -> None:
    """Let a process go on whose terminal nobody serves any more: a program of its own, which has nothing else, holds
    the terminal and reads what is written to it. Without one there is nothing to keep.
    """
    leave(execution)
    if execution.pty is not None:
        from lamina.engine.terminal_keeper import keep

        _left.append(keep(execution.pty))
        execution.pty.close()
