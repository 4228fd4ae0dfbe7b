"""A supervisor that has nothing to do executes a program of a page instead of Python, which comes back when it has.

A Python that could start a container keeps some eight megabytes; a machine with hundreds of containers that mostly wait
would pay that for each. supervisor/idle.c waits for the same descriptors and signals in their place. The process stays
the same one all the time: it holds the container's lock, and is the parent of the container's first process.
"""

from __future__ import annotations

import os
import sys
from time import monotonic

from lamina.store.record import decode_light, encode
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as s
    from typing import Any
else:
    import _signal as s

_HERE = os.path.dirname(os.path.dirname(__file__))
PROGRAM = os.path.join(_HERE, "supervisor", "lamina-idle")
# seconds of quiet before it goes to sleep, and the most that this grows to where something wakes it again and again:
# coming back takes as much as starting a small program
AFTER, MOST = 10.0, 320.0
# seconds: whoever slept that long slept well
WELL = 120.0
# seconds: a sleep that is shorter takes more of the processor than it is worth in memory
WORTH = 5.0
VARIABLE = "LAMINA_SUPERVISOR_IDLE"
AWAKE = "awake"


@value
class Kept:
    """What outlives the sleep, apart from what is in the container's records: descriptors, and what was counted.

    `lock` and `pidfd` are the container's, `owner` its owner's, `listener` the socket for those who attach, `pty` the
    master of its terminal (among the `others` as well), -1 where there is none; `others` are open for no other reason
    than to stay so, or to wake it. At `check` (of time.monotonic()) it is to look whether the container is well.
    """

    lock: int
    pidfd: int
    owner: int = -1
    listener: int = -1
    pty: int = -1
    others: tuple[int, ...] = ()
    child: bool = True
    has_input: bool = False
    restarts: int = 0
    pause: float = 0.0
    patience: float = AFTER
    since: float = 0.0
    check: float | None = None

    @property
    def is_due(self) -> bool:
        """Whether it is time to look."""
        return self.check is not None and monotonic() >= self.check


def patience() -> float | None:
    """The seconds of quiet before it sleeps; None where it never does. $LAMINA_SUPERVISOR_IDLE says otherwise."""
    if not os.path.exists(PROGRAM):
        return None  # there was no compiler
    try:
        seconds = float(os.environ.get(VARIABLE) or AFTER)
    except ValueError:
        return AFTER
    return seconds if seconds > 0 else None


def fall_asleep(
    root: bytes, identity: str, kept: Kept, waking: list[int], left: float | None, caught: tuple[int, ...]
) -> None:
    """Become the program that waits: for *waking*, for one of the signals *caught*, or until *left* seconds are over.

    Returns only where that is not possible: then everything is as it was before.
    """
    numbers = [kept.lock, kept.pidfd, kept.owner, kept.listener, *kept.others, *waking]
    own = {number for number in numbers if number >= 0}
    note = encode({**vars(kept), "since": monotonic()})
    python = [sys.executable, "-I", "-S", os.path.join(_HERE, "isolated.py")]
    words = [*python, "engine", os.fsdecode(root), identity, AWAKE, note]
    milliseconds = -1 if left is None else max(0, int(left * 1000 + 0.999))
    before = s.pthread_sigmask(s.SIG_BLOCK, caught)
    try:
        for number in own:
            os.set_inheritable(number, True)
        watched = ",".join(str(number) for number in waking)
        os.execv(PROGRAM, ["lamina-idle", watched, str(milliseconds), *words])
    except OSError:
        for number in own:
            os.set_inheritable(number, False)
        s.pthread_sigmask(s.SIG_SETMASK, before)


def awoken(note: str) -> Kept:
    """What `fall_asleep` kept, in the same process, some time later. Descriptors are not inherited any further."""
    found: dict[str, Any] = decode_light(note.encode(), "what a supervisor kept")
    found["others"] = tuple(found["others"])
    slept = monotonic() - float(found["since"])
    kept = Kept(**found)
    if not kept.is_due:  # for a check it was woken on purpose
        kept = replace(kept, patience=AFTER if slept > WELL else min(2 * kept.patience, MOST))
    for number in (kept.lock, kept.pidfd, kept.owner, kept.listener, *kept.others):
        if number >= 0:
            os.set_inheritable(number, False)
    return kept
