"""What can be done about a container from outside: start, stop, kill, wait, rename.

Signals are sent from here, to a process that is looked at first (its number may be another's by now); that it ended is
written down by who looks after it, and waited for here.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from lamina.engine.detaching import start_supervised
from lamina.engine.restarting import UNKNOWN
from lamina.engine.settling import SIGKILL, Process, has_just_ended, keep, state_of, wake_supervisor
from lamina.engine.waits import Wait, block
from lamina.errors import (
    Conflict,
    Corrupt,
    InvalidInput,
    KernelError,
    LaminaError,
    NotFound,
    TimeoutExpired,
)
from lamina.linux.fd import Fd
from lamina.linux.signals import signal_number
from lamina.store import names
from lamina.store.containers import (
    CARRIED_MARK,
    DEAD,
    LIVING,
    PAUSED,
    PAUSED_MARK,
    RESTARTING,
    RUNNING,
    STOPPED_MARK,
    no_such,
)
from lamina.store.events import about, note
from lamina.supervisor.signals import BLOCKED, DEFAULT, PENDING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.engine.waits import Waits
    from lamina.store.containers import Home

SIGTERM = 15
STOP_TIMEOUT = 10.0
# how long who looks after a container may take to write down that it ended
PATIENCE = 30.0
# what becomes of a signal that is blocked when it is sent shows later; for so long whoever sends only that one looks
HELD_BACK = (BLOCKED, PENDING)
A_MOMENT = 10.0


def start(home: Home, *, attached: int = -1) -> list[str]:
    """Start it, unless it runs; the warnings that are new. Raises Conflict while it is paused, NotFound, and what a
    start raises.
    """
    state = state_of(home)
    if state == PAUSED:
        raise Conflict(f"start container {home.shown}: it is paused", remedy="unpause it")
    if state == RESTARTING or (state == RUNNING and not has_just_ended(home)):
        return []
    try:
        answer = start_supervised(home.store, home.id, attached=attached)
    except LaminaError as failure:
        _forget(home, failure)
        raise
    return list(answer.get("warnings") or ())


def _forget(home: Home, failure: LaminaError) -> None:
    """Remove what was to be removed at its end and whose start failed, where no supervisor lived to do that."""
    from lamina.engine.discard import discard
    from lamina.engine.holding import Held

    try:
        asked = home.asked()
        if not asked.get("rm") or home.read("state") is not None:
            return
        with Held(home, "remove"):
            if home.read("state") is None:
                discard(home, str(asked.get("name") or ""), asked)
                note(home.store, about(asked, "destroy"))
    except (NotFound, Conflict):
        pass  # it has been removed, or somebody else starts it
    except (OSError, LaminaError) as second:
        failure.add_note(f"while cleaning up: {second}")


def stop(home: Home, seconds: float | None = None, signal: str | int | None = None) -> None:
    """Ask it to end, with *signal* (its own stop signal), and after *seconds* (its own, else 10; negative: never) kill
    it. Nothing happens where it does not run. Raises NotFound, InvalidInput, TimeoutExpired.
    """
    block(stopping(home, seconds, signal))


def stop_for_now(home: Home) -> None:
    """`stop`, because the machine ends: with the next one it may be started again (`restartable`)."""
    block(stopping(home, shutdown=True))


def stopping(
    home: Home, seconds: float | None = None, signal: str | int | None = None, *, shutdown: bool = False
) -> Waits[None]:
    """`stop`, or `stop_for_now`, for whoever waits in another way."""
    asked = home.asked()
    number = stop_signal(asked) if signal is None else signal_number(str(signal), "stop")
    grace = float(asked.get("stop_timeout", STOP_TIMEOUT)) if seconds is None else seconds
    if state_of(home) not in LIVING:
        return
    while _state_or_none(home) in LIVING:  # it may be started again before who looks after it hears of us
        with _process(home) as process:
            # before the signal: who looks after it must not start it again
            found = process.standing(number, asked)
            wake(home, number if found == DEFAULT else 0, shutdown=shutdown)
            if process.is_there:
                process.send(SIGKILL if found == DEFAULT else number)
                thaw(home)
                end = None if grace < 0 else time.monotonic() + grace
                if found in HELD_BACK and (yield from _is_dropped(process, number, asked, end)):
                    wake(home, number, shutdown=shutdown)
                    process.send(SIGKILL)
                if not (yield from _end_of(process, end and max(0.0, end - time.monotonic()))):
                    process.send(SIGKILL)
            yield from _await_end(home, process)
    note(home.store, about(asked, "stop"))


def kill(home: Home, signal: str | int = SIGKILL) -> None:
    """Send *signal* to its first process. Raises Conflict where it does not run, NotFound, InvalidInput."""
    block(killing(home, signal))


def killing(home: Home, signal: str | int = SIGKILL) -> Waits[None]:
    """`kill`, for whoever waits in another way."""
    asked = home.asked()
    number = signal_number(str(signal), "kill")
    state = state_of(home)
    if state not in LIVING:
        raise Conflict(
            f"kill container {asked['name']}: it is not running", remedy="'lamina start' starts it"
        )
    with _process(home) as process:
        found = process.standing(number, asked)
        _say(home, asked, number, carried_out=found == DEFAULT)
        process.send(SIGKILL if found == DEFAULT else number)
        note(home.store, about(asked, "kill", signal=number))
        if found == DEFAULT or number in (SIGKILL, stop_signal(asked)):
            thaw(home)
        waits = found in HELD_BACK and not home.is_marked(PAUSED_MARK)
        if waits and (yield from _is_dropped(process, number, asked, time.monotonic() + A_MOMENT)):
            _say(home, asked, number, carried_out=True)
            process.send(SIGKILL)
        if number == SIGKILL:
            yield from _await_end(home, process)


def _say(home: Home, asked: dict[str, Any], number: int, *, carried_out: bool) -> None:
    """Note what *number* is to mean to who looks after it. *carried_out*: its default action is, by us."""
    if number in (SIGKILL, stop_signal(asked)):
        wake(home, number if carried_out else 0)
    elif carried_out:
        with suppress(KernelError):  # as in `wake`: then the exit status tells of SIGKILL
            home.set_mark(CARRIED_MARK, str(number))


def restart(home: Home, seconds: float | None = None, signal: str | int | None = None) -> list[str]:
    """Stop it, if it runs, and start it. Raises as these do."""
    return block(restarting(home, seconds, signal))


def restarting(home: Home, seconds: float | None = None, signal: str | int | None = None) -> Waits[list[str]]:
    """`restart`, for whoever waits in another way."""
    asked = home.asked()
    if asked.get("options"):
        from lamina.engine.keeping import options_of

        options_of(asked)  # what cannot be started again is not stopped
    if asked.get("rm"):
        keep(home)
    yield from stopping(home, seconds, signal)
    warnings = start(home)
    note(home.store, about(home.asked(), "restart"))
    return warnings


def wait(home: Home, *, seconds: float | None = None) -> int:
    """Wait until it has ended, for up to *seconds*, and give its exit status; 0 for one that never ran.

    Raises NotFound, TimeoutExpired.
    """
    return block(awaiting(home, seconds))


def awaiting(home: Home, seconds: float | None = None) -> Waits[int]:
    """`wait`, for whoever waits in another way."""
    deadline = None if seconds is None else time.monotonic() + seconds
    try:
        ends = Fd(os.open(home.path + b"/ends", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
    except FileNotFoundError:
        ends = None
    while True:
        state = _state_or_none(home)
        if state not in (RUNNING, PAUSED):
            break
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutExpired(
                f"wait for container {home.shown}: not ended within {seconds:g} s", timeout=seconds
            )
        with _process(home) as process:
            if process.is_there:
                yield from _end_of(process, left)
        yield Wait(seconds=0.002)
        if ends is not None and (said := os.pread(ends, 64, 0)):
            return _status(home, said.split()[:1])
    if ends is not None and (said := os.pread(ends, 64, 0)):
        return _status(home, said.split()[-1:])
    yield from _settle(home)
    if state is None:
        raise no_such(home.short_id)
    end = home.read("exit")
    if end is None:  # a disk that is full keeps anybody from writing down that it has ended
        return UNKNOWN if home.has("state") else 0
    return int(end["status"])


def _state_or_none(home: Home) -> str | None:
    try:
        return state_of(home)
    except NotFound:
        return None


def rename(home: Home, name: str) -> str:
    """Call it *name*; the name it had. Raises Conflict where that is taken, InvalidInput, NotFound."""
    names.check_name(name)
    store, old = home.store, ""

    def change(asked: dict[str, Any]) -> dict[str, Any] | None:
        nonlocal old
        old = str(asked["name"])
        if old == name:
            raise InvalidInput(f"rename container {name}: that is its name already")
        names.take(store.names, name, home.id, store.containers)
        return {**asked, "name": name}

    def called() -> str:
        try:
            return str(home.asked()["name"])
        except NotFound:  # gone meanwhile, and both names with it
            return ""

    try:
        home.change_asked(change)
    except BaseException:
        if old and old != name:
            names.drop_alias(store.names, name, home.id, called)
        raise
    try:
        home.remark(name)
    except FileNotFoundError:  # with its directory
        pass
    for alias in (old, name):
        names.drop_alias(store.names, alias, home.id, called)
    if home.has("network"):
        from lamina.engine.responders import rename as rename_in_networks

        rename_in_networks(home, name)
    note(store, about(home.asked(), "rename", oldName=old))
    return old


def stop_signal(asked: dict[str, Any]) -> int:
    """What asks the container with the record *asked* to end; an image may say words of its own."""
    try:
        return signal_number(str(asked.get("stop_signal") or SIGTERM), "stop") or SIGTERM
    except InvalidInput:
        return SIGTERM


def wake(home: Home, carried: int = 0, *, shutdown: bool = False) -> None:
    """Note that it is to stay stopped, and have who looks after it see that.

    *carried* is the signal whose default action is carried out by us: the exit status tells of that, not of SIGKILL.
    *shutdown*: until the next boot.
    """
    words = ["shutdown"] if shutdown else []
    try:
        home.set_mark(
            STOPPED_MARK, " ".join([*words, str(carried)] if carried not in (0, SIGKILL) else words)
        )
    except KernelError:  # a disk on which there is not even room for a name: it can be stopped all the same
        if _may_be_started_again(home):
            raise
    wake_supervisor(home.read("state") or {})


def _may_be_started_again(home: Home) -> bool:
    """Whether who looks after it would, if nothing said that it is to stay stopped."""
    from lamina.engine.keeping import options_of
    from lamina.engine.options import NO

    asked = home.asked()
    return bool(asked.get("options")) and options_of(asked).restart[0] != NO


def thaw(home: Home) -> None:
    """What is paused sees no signal, and does not end."""
    if home.is_marked(PAUSED_MARK):
        from lamina.engine.pausing import thaw

        thaw(home)


def _status(home: Home, said: list[bytes]) -> int:
    """The exit status among the ends that were noted. Raises Corrupt."""
    try:
        return int(said[0])
    except (ValueError, IndexError):
        raise Corrupt(f"wait for container {home.shown}: what is noted of its ends is damaged") from None


def _end_of(process: Process, seconds: float | None) -> Waits[bool]:
    """Whether it has ended, after up to *seconds*."""
    return process.pidfd is None or (yield Wait(process.pidfd, seconds))


def _is_dropped(process: Process, number: int, asked: dict[str, Any], end: float | None) -> Waits[bool]:
    """Whether a signal that was blocked when it was sent has been let through by *end*, and so dropped by the kernel:
    shells hold all signals back for the moment in which they fork (supervisor/signals.py, `Deliverer`).
    """
    pause = 0.001
    while (found := process.standing(number, asked)) == PENDING:
        if (end is not None and time.monotonic() >= end) or (yield from _end_of(process, pause)):
            return False
        pause = min(2 * pause, 0.05)
    return found == DEFAULT


def _await_end(home: Home, process: Process) -> Waits[None]:
    """Until it is written down that it ended, and nobody looks after it or it begins anew."""
    if not (yield from _dies(home, process)):
        raise TimeoutExpired(
            f"end container {home.shown}: its first process does not end, although it was killed",
            remedy="it waits within the kernel, for a disk or a network file system",
        )
    deadline, pause = time.monotonic() + PATIENCE, 0.001
    while (state := _state_or_none(home)) in LIVING or home.is_looked_after():
        runs = state in (RUNNING, PAUSED) and os.path.lexists(home.path + b"/state.json")
        if runs and (home.read("state") or {}).get("pid") != process.pid:
            return  # begun anew
        if time.monotonic() > deadline:
            raise Conflict(f"end container {home.shown}: who looks after it does not let go of it")
        yield Wait(seconds=pause)
        pause = min(2 * pause, 0.05)
    yield from _settle(home)


def _dies(home: Home, process: Process) -> Waits[bool]:
    """Whether one that was killed has ended, after a while; somebody may have paused it at the same moment."""
    end = time.monotonic() + PATIENCE
    while not (yield from _end_of(process, 0.5)):
        if time.monotonic() > end:
            return False
        thaw(home)
    return True


def _settle(home: Home) -> Waits[None]:
    """If who looked after it was killed before it had written down the end, do that."""
    if _state_or_none(home) == DEAD:
        from lamina.engine.recover import recover

        recover(home.store)
        hold_out = time.monotonic() + PATIENCE
        while _state_or_none(home) in LIVING and home.is_looked_after() and time.monotonic() < hold_out:
            yield Wait(seconds=0.005)  # an adopted one that has ended is written down in a moment


def _process(home: Home) -> Process:
    """Its first process; in the pause before another start there is none."""
    return Process(None if os.path.lexists(home.path + b"/exit.json") else home.read("state"))
