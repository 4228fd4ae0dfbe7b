"""One check: a further process of the container, what it says and how it ends. Nothing here waits but `examine`.

The process leads a session of its own, and with it a process group, which is killed when it ends: what a check leaves
behind would be one more each time. What it writes is read until it ends, and the beginning kept; what others write who
have its pipe open is not waited for.
"""

from __future__ import annotations

import os
from time import monotonic, time_ns

from lamina.engine.exec_process import Asked
from lamina.engine.executing import Execution, leave, start, told
from lamina.engine.health.checks import command_of, seconds
from lamina.engine.health.results import LONGEST, NO_STATUS, Result, add, note_checking, run_of
from lamina.errors import Conflict, Corrupt, KernelError, LaminaError, NotFound, Unsupported
from lamina.linux.descriptors import POLLIN
from lamina.linux.fd import Fd, ready
from lamina.runtime.bundle import NULL
from lamina.runtime.identity import identity_of
from lamina.store.containers import PAUSED_MARK
from lamina.supervisor.pump import CHUNK, Watch
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from signal import SIGKILL
    from typing import Any

    from lamina.store.containers import Home
else:
    from _signal import SIGKILL

# how much is read of a process that has ended, whoever else goes on writing
MOST_LEFT = 1 << 20
# seconds for one that was killed to end
PATIENCE = 2.0
PF_EXITING = 0x4  # include/linux/sched.h


class _Streams:
    """The standard streams of a check (see supervisor.stdio.Stdio): nothing to read, one pipe for both outputs."""

    def __init__(self, writer: int) -> None:
        self.child = (NULL, writer, writer)

    def started(self, pty: int | None) -> None:
        """The process has them."""


class Examination:
    """A check from its beginning to its result, which `done` is called with, while somebody waits with *watch*.

    None is its result where it does not count: the container was paused meanwhile, or ends. At `deadline` it is killed.
    """

    def __init__(
        self,
        home: Home,
        asked: dict[str, Any],
        watch: Watch,
        done: Callable[[Result | None], None],
        *,
        own: bool,
    ) -> None:
        """Begin it; *own*: it is the one that the record `health` names. Raises Conflict where the container does not
        run or is paused, and what else `executing.start` raises.
        """
        command = command_of(asked)
        assert command is not None
        self.home, self.watch, self._done = home, watch, done
        self.limit = seconds(asked["health"], "timeout")
        self.output, self.cut, self.late, self.void = b"", False, False, False
        self.start = time_ns()
        reader, writer = os.pipe2(os.O_CLOEXEC)
        with Fd(reader) as source, Fd(writer) as theirs:
            # before it begins: whoever comes after us, killed meanwhile, must know whom to end
            self.execution: Execution = start(
                home, tuple(command), Asked(), _Streams(theirs), None, self._note if own else None
            )
            self.source = source.steal()
        self.deadline = monotonic() + self.limit
        try:
            self._tell = told(home, tuple(command), keeps=False)
            os.set_blocking(self.source, False)
        except BaseException:
            self.give_up()
            raise
        watch.set(self.source, POLLIN, self._readable)
        watch.set(int(self.execution.pidfd), POLLIN, self._ended)

    def _note(self, pid: int) -> None:
        with self.home.turn():
            note_checking(self.home, identity_of(pid))

    def look(self) -> None:
        """What is to be done from time to time: end one that takes too long, or whose container was paused."""
        if self.home.is_marked(PAUSED_MARK):
            self.void = True
        if (self.void or monotonic() >= self.deadline) and not self.late:
            self.late = True
            self.kill()

    def kill(self) -> None:
        """End it and its process group; its number is its own until it is waited for."""
        try:
            os.killpg(self.execution.pid, SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # it has none yet, or nobody of it may be signalled
        self.execution.kill(SIGKILL)

    def give_up(self) -> None:
        """End it, and let go of it; there is no result. One that is frozen ends when it is thawed, by itself."""
        self.kill()
        if ready(PATIENCE, self.execution.pidfd):
            self._let_go()
        else:
            self._close_source()
            self.watch.drop(int(self.execution.pidfd))
            leave(self.execution)

    def _readable(self, _events: int) -> None:
        self._read()

    def _read(self) -> bool:
        """Whether there may be more."""
        try:
            data = os.read(self.source, CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._close_source()
            return False
        room = LONGEST - len(self.output)
        self.output += data[:room]
        self.cut = self.cut or len(data) > room
        return True

    def _ended(self, _events: int) -> None:
        left = MOST_LEFT
        while self.source >= 0 and left > 0 and self._read():
            left -= CHUNK
        self.kill()  # those of its group that it has left behind
        # who ends a pid namespace kills everybody in it, and has not ended before we have waited for ours
        self.void = self.void or _ends(self.home)
        status = self._let_go()
        self._tell("exec_die", exitCode=status)
        self._done(None if self.void else self._result(status))

    def _let_go(self) -> int:
        self._close_source()
        self.watch.drop(int(self.execution.pidfd))
        status = self.execution.wait()
        self.execution.close()
        return status

    def _close_source(self) -> None:
        if self.source >= 0:
            self.watch.drop(self.source)
            os.close(self.source)
            self.source = -1

    def _result(self, status: int) -> Result:
        text = self.output.decode(errors="replace") + ("..." if self.cut else "")
        if self.late:
            status = NO_STATUS
            said = f"Health check exceeded timeout ({self.limit:g}s)"
            text = f"{said}: {text}" if text else said
        return Result(self.start, time_ns(), status, text)


def _ends(home: Home) -> bool:
    """Whether the container's first process has begun to end, or has ended: proc_pid_stat(5), state and flags."""
    try:
        state = home.read("state") or {}
        with open(f"/proc/{state.get('pid')}/stat", "rb", buffering=0) as file:
            fields = file.read(4096).rpartition(b")")[2].split()
    except OSError:
        return True
    except Corrupt:
        return False
    return fields[0] in (b"Z", b"X") or bool(int(fields[6]) & PF_EXITING)


def failed(failure: LaminaError) -> Result:
    """What a check comes to that could not be begun."""
    now = time_ns()
    return Result(now, now, NO_STATUS, failure.message[:LONGEST])


@value
class Examined:
    """What a check by hand came to. `health` is what the container is now; `status` the check's exit status, -1 where
    it was killed or could not be begun; `output` what it said.
    """

    health: str
    status: int
    output: str


def examine(home: Home) -> Examined:
    """Do the check now, and wait for it. Raises Unsupported where there is none, Conflict where the container does not
    run, is paused, or was paused or has ended meanwhile, NotFound, KernelError.
    """
    asked = home.asked()
    if command_of(asked) is None:
        raise Unsupported(
            f"check health of container {asked['name']}: it has no health check",
            remedy="make it with --health-cmd, or of an image with a HEALTHCHECK",
        )
    results: list[Result | None] = []
    watch, run = Watch(), run_of(home)
    try:
        check = Examination(home, asked, watch, results.append, own=False)
    except (Conflict, NotFound):
        raise
    except LaminaError as failure:
        results.append(failed(failure))
    except OSError as error:
        raise KernelError("check health of container", error.errno or 0, str(asked["name"])) from None
    else:
        _wait(check, watch, results)
    result = results[0]
    if result is None or _is_gone(home):
        what = "was paused" if home.is_marked(PAUSED_MARK) else "has ended"
        raise Conflict(f"check health of container {asked['name']}: it {what} meanwhile")
    health = add(home, result, run, own=False)
    from lamina.engine.settling import wake_supervisor

    wake_supervisor(home.read("state") or {})  # which may have to do something about it
    return Examined(health, result.status, result.output)


def _wait(check: Examination, watch: Watch, results: list[Result | None]) -> None:
    try:
        while not results:
            watch.wait(1.0 if check.late else max(0.0, check.deadline - monotonic()))
            if not results:
                check.look()
    except BaseException:
        if not results:
            check.give_up()
        raise


def _is_gone(home: Home) -> bool:
    from lamina.engine.settling import state_of
    from lamina.store.containers import LIVING

    return state_of(home) not in LIVING
