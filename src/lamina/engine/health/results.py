"""What is known of a container's health: the record `health`, in docker's words, changed by each check.

    {"status": "starting", "streak": 0, "log": [{"start": ns, "end": ns, "status": 0, "output": "..."}]}

The supervisor writes it, and whoever checks by hand: they take turns, by the lock on the container's directory. Beside
that, `checking` names the process of a check under way, so that one whose supervisor was killed can be ended.
"""

from __future__ import annotations

from lamina.engine.health.checks import NOTHING, RETRIES, SECOND, command_of
from lamina.errors import Conflict, Corrupt, LaminaError, NotFound
from lamina.runtime.identity import age
from lamina.store.containers import CREATED, LIVING
from lamina.store.events import about, note
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from lamina.store.containers import Home

STARTING, HEALTHY, UNHEALTHY, NONE = "starting", "healthy", "unhealthy", "none"
STATES = (STARTING, HEALTHY, UNHEALTHY, NONE)
# docker's: how many results are kept, and what of the output of each (daemon/health.go)
KEPT, LONGEST = 5, 4096
# the exit status of a check that did not end by itself, or could not be begun
NO_STATUS = -1


@value
class Result:
    """One check. `start` and `end` are nanoseconds since 1970; `status` is the exit status, NO_STATUS for none."""

    start: int
    end: int
    status: int
    output: str


def begin(home: Home, asked: Mapping[str, Any]) -> None:
    """The container is being started: nothing is known yet. Its lock is held."""
    if command_of(asked) is None:
        home.drop_record("health")
        return
    with home.turn():
        kept = (_read(home) or {}).get("log") or []
        home.write("health", {"status": STARTING, "streak": 0, "log": kept})


def note_checking(home: Home, process: dict[str, Any]) -> None:
    """The check that is about to begin is *process* (`identity_of`). For who has the turn. Raises KernelError."""
    found = _read(home)
    if found is not None:
        home.write("health", {**found, "checking": process})


def run_of(home: Home) -> tuple[object, ...] | None:
    """Which run of the container this is, by its first process; None where it has ended."""
    if home.has("exit"):
        return None
    try:
        state = home.read("state") or {}
    except Corrupt:
        return ()
    return (state.get("pid"), state.get("start_time"), state.get("boot"))


def add(home: Home, result: Result, run: tuple[object, ...] | None, *, own: bool = True) -> str:
    """Write down *result* of a check in that *run*; what the container's health is now. *own*: the check was the one
    that `checking` names.

    Raises Conflict where that run has ended, and perhaps another has begun: the verdict is not about that one;
    NotFound where it was removed meanwhile, KernelError.
    """
    with home.turn():
        asked, found = home.asked(), _read(home)
        if run is None or run_of(home) != run:
            raise Conflict(f"check health of container {asked['name']}: it has ended meanwhile")
        check = asked.get("health") or {}
        before = found or {"status": STARTING, "streak": 0, "log": []}
        after = judged(before, result, check, lives_for(home))
        if not own and "checking" in before:
            after["checking"] = before["checking"]
        home.write("health", after)
    if after["status"] != before["status"]:
        note(home.store, about(asked, f"health_status: {after['status']}"))
    return str(after["status"])


def judged(
    before: Mapping[str, Any], result: Result, check: Mapping[str, Any], lives: float
) -> dict[str, Any]:
    """The record after *result*, of a container that has lived for so many seconds: docker's rules.

    A failure counts unless it is within the start period of one that has not been healthy yet.
    """
    status, streak = str(before["status"]), int(before["streak"])
    if result.status == 0:
        status, streak = HEALTHY, 0
    else:
        began = lives - max(0, result.end - result.start) / SECOND
        if status != STARTING or began >= (check.get("start_period") or 0) / SECOND:
            streak += 1
            if streak >= (check.get("retries") or RETRIES):
                status = UNHEALTHY
    log = [*before["log"], vars(result)][-KEPT:]
    return {"status": status, "streak": streak, "log": log}


def lives_for(home: Home) -> float:
    """The seconds since it was started, 0 where that cannot be told."""
    try:
        state = home.read("state") or {}
    except Corrupt:
        return 0.0
    return age(state) if state.get("start_time") else 0.0


def read(home: Home) -> dict[str, Any] | None:
    """The record; None where there is none, or it is damaged."""
    return _read(home)


def _read(home: Home) -> dict[str, Any] | None:
    try:
        found = home.read("health")
    except (Corrupt, OSError):
        return None
    if found is None or found.get("status") not in STATES or not isinstance(found.get("streak"), int):
        return None
    return found if isinstance(found.get("log"), list) else None


def health_of(home: Home, asked: Mapping[str, Any], state: str) -> str:
    """One of STATES. Of one that does not run any more it is "unhealthy", as in docker."""
    return NONE if command_of(asked) is None else examined_health(home, state)


def examined_health(home: Home, state: str) -> str:
    """As `health_of`, of one that has a health check."""
    if state == CREATED:
        return NONE
    if state not in LIVING:
        return UNHEALTHY
    found = _read(home)
    return STARTING if found is None else str(found["status"])


def wanted_action(home: Home, asked: Mapping[str, Any]) -> str:
    """What is to be done about the container now: `on_failure` where it is unhealthy, else NOTHING."""
    action = str((asked.get("health") or {}).get("on_failure") or NOTHING)
    if action == NOTHING or (_read(home) or {}).get("status") != UNHEALTHY:
        return NOTHING
    return action


def end_stale(home: Home) -> None:
    """End a check that was under way when its supervisor was killed: nobody waits for it. Never raises."""
    from lamina.engine.settling import SIGKILL, Process

    stale = (_read(home) or {}).get("checking")
    if not isinstance(stale, dict):
        return
    try:
        with Process(stale) as process:
            process.send_to_group(SIGKILL)
        with home.turn():
            found = _read(home)
            if found is not None and found.pop("checking", None) is not None:
                home.write("health", found)
    except (LaminaError, OSError, NotFound):
        pass
