"""Staying with a process until it has ended, by the loop: its streams are pumped, nobody's thread waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine import executing
from lamina.engine.asynchronous.disks import Disks
from lamina.engine.asynchronous.readiness import LoopWatch, readable
from lamina.engine.asynchronous.threads import Stoppable, alone, ending, in_thread, to_its_end, transfer
from lamina.engine.design import HOST
from lamina.engine.obtain import obtain
from lamina.engine.parameters import completed as of
from lamina.engine.run import begin
from lamina.errors import NotFound
from lamina.store.root import raise_storage_error
from lamina.supervisor.foreground import Attendance, Ended
from lamina.values import replace

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from lamina.engine.completed import Completed
    from lamina.engine.exec_process import Asked
    from lamina.engine.options import Io, Options
    from lamina.engine.run import Hooks
    from lamina.engine.session import Session
    from lamina.store.containers import Home
    from lamina.store.images import Held
    from lamina.store.root import Store
    from lamina.supervisor.foreground import Process
    from lamina.supervisor.stdio import Stdio

SIGKILL = 9


class LoopAttendance(Attendance):
    """With a process that runs, as `attend` is; signals of this program stay its own."""

    def __init__(self, process: Process, stdio: Stdio, timeout: float | None, init: bool) -> None:
        super().__init__(process, stdio, timeout, None, init)
        self._loop_watch = LoopWatch()
        self.watch = self._loop_watch

    @property
    def patience(self) -> float | None:
        """Also for what a thread is at work on."""
        return None if self._loop_watch.is_busy else super().patience

    async def stay(self) -> Ended:
        """Until it has ended, and is reaped. Raises what its streams raise; it may still run then."""
        watch, disks = self._loop_watch, Disks(self.stdio, self._loop_watch)
        try:
            if self.stdio.terminal >= 0:
                await in_thread(self.take_terminal)
            self.begin()
            while not self.ended:
                if self.is_detached:
                    return Ended(0, detached=True)
                await watch.happens(self.seconds_left)
                self.look()
            self.finish()
            while not self.is_drained or watch.is_busy:
                patience = self.patience
                if not await watch.happens(patience) and patience is not None:
                    break
        finally:
            watch.close()
            await to_its_end(self._let_go(disks))
        return await ending(self.outcome)

    def deliver(self, signal: int) -> None:
        """Send *signal*, or do what it would have done (supervisor.signals)."""
        if signal == SIGKILL:
            self.process.kill(signal)
        else:
            self.deliverer.send(signal)
            self._loop_watch.wake()  # there may be something to look after

    async def _let_go(self, disks: Disks) -> None:
        await self._loop_watch.settled()
        disks.close()
        if self.raw is not None:
            await ending(self.give_terminal_back)


async def obtained(store: Store, image: str, options: Options, hooks: Hooks) -> Held | None:
    """`obtain`: what is here is found at once, whatever is being pulled meanwhile. Cancelled, it stops pulling."""
    if image == HOST:
        return None
    if options.pull != "always":
        here = replace(options, pull="never")
        try:
            return await in_thread(
                lambda: obtain(store, image, here, hooks), undo=lambda held: held.release()
            )
        except NotFound:
            if options.pull == "never":
                raise
    events = Stoppable(hooks.events)
    hooks = replace(hooks, events=events)
    return await transfer(
        lambda: obtain(store, image, options, hooks), undo=lambda held: held.release(), stop=events.stop
    )


async def run(
    store: Store, image: str, command: tuple[str, ...], options: Options, io: Io, hooks: Hooks
) -> Completed:
    """`engine.run.run`, the waiting by the loop. Cancelled, it kills the command and leaves what an interrupted `run`
    leaves: nothing of a container that was to be removed at its end.
    """
    session = await started(store, image, command, options, io, hooks)
    return await attended(session, attendance_of(session))


async def started(
    store: Store, image: str, command: tuple[str, ...], options: Options, io: Io, hooks: Hooks
) -> Session:
    """A container in which *command* runs; `attended` is to be called at once. Raises as `run`; then there is none."""
    held = await obtained(store, image, options, hooks)
    begun: list[Session] = []
    try:
        return await in_thread(lambda: begin(store, image, command, options, io, hooks, begun, held=held))
    except BaseException as failure:
        for session in begun:
            await _abandoned(session, failure)
        if held is not None:
            held.release()
        raise


def attendance_of(session: Session) -> LoopAttendance:
    """What stays with the command of *session*."""
    assert session.running is not None and session.stdio is not None
    return LoopAttendance(session.running, session.stdio, session.io.timeout, session.options.init)


async def attended(session: Session, attendance: LoopAttendance) -> Completed:
    """Stay with what was `started` to its end."""
    ended: Ended | None = None
    try:
        ended = how = await _stayed(session, attendance)
        return await ending(lambda: session.conclude(how))
    except BaseException as failure:
        if ended is None:
            await to_its_end(killed(attendance.process))
        await _abandoned(session, failure)
        raise


async def _stayed(session: Session, attendance: LoopAttendance) -> Ended:
    """Stay with it; where it has a health check, whose work is other processes and the disk, in a thread of its own."""
    if (session.record or {}).get("health"):
        try:
            ended = await alone(session.attend, stop=lambda: attendance.process.kill(SIGKILL))
        finally:
            attendance.ended = True
        carried = attendance.deliverer.carried_out  # by us, of which the thread knows nothing
        return replace(ended, status=128 + carried) if carried and ended.status == 128 + SIGKILL else ended
    try:
        return await attendance.stay()
    except OSError as error:
        raise_storage_error(error, "run", session.home.path)


async def _abandoned(session: Session, failure: BaseException) -> None:
    await ending(lambda: session.abandon(failure))


async def killed(process: Process) -> None:
    """Kill it, and wait for its end: a moment, for its memory and its mounts go with it."""
    process.kill(SIGKILL)
    await readable(process.pidfd)


async def execute(home: Home, words: tuple[str, ...], asked: Asked, io: Io) -> Completed:
    """`executing.execute`, the waiting by the loop. Cancelled, it kills the process."""
    stdio = await in_thread(lambda: executing.streams(asked, io), undo=lambda made: made.close())
    try:
        execution, tell = await in_thread(
            lambda: executing.begin(home, words, asked, stdio, io.stdin),
            undo=lambda begun: ended_by_us(begun[0]),
        )
        execution.handed_over()
        try:
            ended = await LoopAttendance(execution, stdio, io.timeout, init=True).stay()
        except BaseException:
            execution.end()
            await to_its_end(killed(execution))
            await ending(lambda: ended_by_us(execution))
            raise
        warning = await ending(lambda: executing.conclude(execution, ended, tell))
    finally:
        await ending(stdio.close)
    return executing.result(home, words, io, stdio, ended, warning)


def ended_by_us(execution: executing.Execution) -> None:
    """Kill it, if it lives, reap it, and let go of it; in a thread."""
    execution.abandon()


async def completed(
    work: Awaitable[Completed], encoding: tuple[str, str] | None, *, check: bool
) -> Completed:
    """`parameters.completed`, of what is awaited."""
    try:
        done = await work
    except Exception as error:
        failure = error

        def again() -> Completed:
            raise failure

        return of(again, encoding, check=check)
    return of(lambda: done, encoding, check=check)
