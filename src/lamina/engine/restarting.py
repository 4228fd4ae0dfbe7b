"""When a container that ended is started again: Docker's policies and its pauses between the attempts."""

from __future__ import annotations

from lamina.engine.options import ALWAYS, ON_FAILURE, UNLESS_STOPPED

# seconds: the first pause, the longest, and what counts as having run
FIRST, LONGEST, LONG_ENOUGH = 0.1, 60.0, 10.0
# the status of a run whose end nobody saw, as Docker has it after its daemon was killed
UNKNOWN = 255


def pause_after(before: float, ran: float) -> float:
    """How long to wait with the next start of a container that *ran* so many seconds, when the pause before that start
    was *before* seconds (0: there was none). It doubles, and begins anew after a run that was long enough.
    """
    if ran >= LONG_ENOUGH or before <= 0:
        return FIRST
    return min(2 * before, LONGEST)


def is_restarted(policy: tuple[str, int], status: int, restarts: int, *, stopped: bool) -> bool:
    """Whether a container with that *policy* is started again after it ended with *status*, having been started again
    *restarts* times. *stopped*: somebody stopped it.
    """
    name, most = policy
    if stopped:
        return False
    if name == ON_FAILURE:
        return status != 0 and (not most or restarts < most)
    return name in (ALWAYS, UNLESS_STOPPED)


def is_started_with_the_machine(
    policy: tuple[str, int], status: int, restarts: int, *, stopped: bool
) -> bool:
    """Whether it is started after a boot, having ended before with *status*; the others as above. `always` is also
    for one that was stopped, as in docker; `on-failure` goes on where the machine's end cut it short.
    """
    return policy[0] == ALWAYS or is_restarted(policy, status, restarts, stopped=stopped)
