"""The health checks of one container while somebody stays with it: each in its time, one at a time.

Whoever stays (a supervisor, or a command in the foreground) arms it with what he waits with, waits no longer than
`left` says, and lets it `look` after each wait.
"""

from __future__ import annotations

from time import monotonic

from lamina.engine.health.checks import KILL, NOTHING, RESTART, seconds
from lamina.engine.health.results import (
    STARTING,
    Result,
    add,
    end_stale,
    lives_for,
    read,
    run_of,
    wanted_action,
)
from lamina.errors import Conflict, KernelError, LaminaError, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from signal import SIGKILL
    from typing import Any

    from lamina.engine.health.examining import Examination
    from lamina.store.containers import Home
    from lamina.supervisor.foreground import Attendance
    from lamina.supervisor.pump import Watch
else:
    from _signal import SIGKILL


class Examiner:
    """`due` is when the next check begins (of time.monotonic()); `ending` why the container is being ended, one of
    checks.ACTIONS.
    """

    def __init__(
        self, home: Home, asked: dict[str, Any], act: Callable[[str], None], *, due: float | None = None
    ) -> None:
        """*act* is called with what is to be done about the container, once it is unhealthy. With *due* nothing was
        forgotten since the last check; else one that another supervisor had begun is ended.
        """
        self.home, self.asked, self._act = home, asked, act
        self.check: dict[str, Any] = asked["health"]
        self.ending = NOTHING
        self._watch: Watch | None = None
        self._now: Examination | None = None
        if due is None:
            end_stale(home)
        self.due = monotonic() + self._interval() if due is None else due
        self.look_at_record = True

    def arm(self, watch: Watch) -> None:
        """Checks are waited for with *watch* from now on."""
        self._watch = watch

    @property
    def is_busy(self) -> bool:
        """Whether a check is under way."""
        return self._now is not None

    @property
    def left(self) -> float | None:
        """Seconds until there is something to do, None for ever."""
        now = self._now
        if now is None:
            return max(0.0, self.due - monotonic()) if self.ending == NOTHING else None
        # one that was killed and does not end (it is paused, or waits in the kernel) is waited for by its descriptor
        return self._interval() if now.late else max(0.0, now.deadline - monotonic())

    def look(self) -> None:
        """What is to be done now."""
        if self.look_at_record:
            self._judge()
        if self._now is not None:
            self._now.look()
        elif monotonic() >= self.due and self.ending == NOTHING:
            self._begin()

    def wake(self) -> None:
        """Somebody else may have changed the record, or paused the container."""
        self.look_at_record = True

    def stop(self) -> None:
        """The container has ended, or is left: end what is under way. A second call does nothing."""
        now, self._now = self._now, None
        if now is not None:
            now.give_up()

    def _begin(self) -> None:
        from lamina.engine.health.examining import Examination, failed

        assert self._watch is not None
        try:
            self._now = Examination(self.home, self.asked, self._watch, self._done, own=True)
        except (Conflict, NotFound):  # paused, or it ends this moment
            self._set_due()
        except LaminaError as failure:
            self._done(failed(failure))
        except OSError as error:  # such as no more descriptors
            self._done(failed(KernelError("begin a health check", error.errno or 0)))

    def _done(self, result: Result | None) -> None:
        self._now = None
        if result is not None:
            try:
                add(self.home, result, run_of(self.home))
            except (OSError, LaminaError):
                pass  # a disk that is full, or it is gone: what is not written down is lost, and nothing else
        self._set_due()
        self._judge()

    def _set_due(self) -> None:
        self.due = monotonic() + self._interval()

    def _interval(self) -> float:
        """docker's: another one as long as it is starting, within the start period."""
        period = seconds(self.check, "start_period")
        if (
            period > 0
            and lives_for(self.home) < period
            and (read(self.home) or {"status": STARTING})["status"] == STARTING
        ):
            return seconds(self.check, "start_interval")
        return seconds(self.check, "interval")

    def _judge(self) -> None:
        self.look_at_record = False
        action = wanted_action(self.home, self.asked)
        if action != NOTHING and self.ending == NOTHING:
            self.ending = action
            self._act(action)

    @property
    def is_ending(self) -> bool:
        """Whether the container is being ended for its health."""
        return self.ending != NOTHING

    @property
    def wants_restart(self) -> bool:
        """Whether the container is to be started again, having been ended for its health."""
        return self.ending == RESTART


def beside(home: Home, asked: dict[str, Any], attendance: Attendance) -> Examiner:
    """The examiner of a container in the foreground, which *attendance* stays with."""
    from lamina.engine.life import STOP_TIMEOUT, stop_signal

    def act(action: str) -> None:
        if action == KILL:
            attendance.process.kill(SIGKILL)
        else:
            attendance.end_within(stop_signal(asked), float(asked.get("stop_timeout", STOP_TIMEOUT)))

    return Examiner(home, asked, act)
