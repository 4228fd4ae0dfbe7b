"""Pausing a container: all of its processes stand still, and go on later as if nothing had been.

The marker `paused` is made before the freezing and removed after the thawing, so what is frozen is always said to be
paused: a command that is killed between leaves one that `unpause` lets go on. Those who freeze and thaw take turns.
"""

from __future__ import annotations

from errno import ENOENT

from lamina.engine.settling import state_of, wake_supervisor
from lamina.errors import Conflict, KernelError, LaminaError, NotFound
from lamina.runtime.cgroups import reopen
from lamina.store.containers import GROUPED_MARK, PAUSED, PAUSED_MARK, RESTARTING, RUNNING, no_such
from lamina.store.events import about, note
from lamina.store.lock import alone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from lamina.runtime.cgroups import Cgroup
    from lamina.store.containers import Home
    from lamina.store.lock import Lock


def pause(home: Home) -> None:
    """Stop every process in it, until `unpause`. Raises Conflict where it does not run or is paused already,
    Unsupported where it is in no control group that can be frozen, TimeoutExpired, NotFound.
    """
    with alone_with(home), home.turn():
        state, said = state_of(home), f"pause container {home.asked()['name']}"
        if state == PAUSED:
            raise Conflict(f"{said}: it is already paused", remedy="'lamina unpause' lets it go on")
        if state == RESTARTING:
            raise Conflict(f"{said}: it is restarting", remedy="wait until it runs")
        if state != RUNNING:
            raise Conflict(f"{said}: it is not running", remedy="'lamina start' starts it")
        group = group_of(home, said)
        home.set_mark(PAUSED_MARK)
        try:
            group.freeze()
        except LaminaError:
            home.drop_mark(PAUSED_MARK)
            raise
        asked = home.asked()
        note(home.store, about(asked, "pause"))
    if asked.get("health"):  # a check that is under way does not count
        wake_supervisor(home.read("state") or {})


def unpause(home: Home) -> None:
    """Let it go on. Raises Conflict where it is not paused, NotFound, KernelError."""
    if state_of(home) == RUNNING and let_go_on(home):
        return
    with alone_with(home), home.turn():
        said = f"unpause container {home.asked()['name']}"
        if state_of(home) != PAUSED:
            raise Conflict(f"{said}: it is not paused", remedy="'lamina ps' says how it is")
        record = (home.read("state") or {}).get("cgroup")
        (reopen(record) if record else group_of(home, said)).thaw()
        home.drop_mark(PAUSED_MARK)
        note(home.store, about(home.asked(), "unpause"))


def let_go_on(home: Home) -> bool:
    """Whether it stood still though nobody said that it is paused, and now goes on: who had it stand still for a moment
    (standstill.py) was killed, and who would have had it go on as well. Raises NotFound, KernelError.
    """
    with alone_with(home):
        record = (home.read("state") or {}).get("cgroup")
        if not record or home.is_marked(PAUSED_MARK) or not (group := reopen(record)).frozen:
            return False
        group.thaw()
        return True


class Meanwhile:
    """It stands still while something is done, and goes on after it: also when that is interrupted, at any moment from
    the pause on, and when the process is about to end (`let_all_go_on`). Raises as `pause`.
    """

    paused: ClassVar[list[Meanwhile]] = []  # by this process

    def __init__(self, home: Home) -> None:
        self.home = home

    def __enter__(self) -> None:
        self.paused.append(self)
        try:
            pause(self.home)
        except LaminaError:  # it is not paused, or not by us
            self.paused.remove(self)
            raise
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            unpause(self.home)
        except (Conflict, NotFound):
            pass  # it has ended, or somebody has let it go on
        finally:
            self.paused.remove(self)


def let_all_go_on() -> None:
    """For a process that is about to end, and may not come to the end of what it does. Never raises."""
    for one in list(Meanwhile.paused):
        try:
            unpause(one.home)
        except (LaminaError, OSError):
            continue


def thaw(home: Home) -> None:
    """Let it go on if it is paused, to see a signal and to end: what is frozen by cgroup v1 does not even die."""
    if not home.is_marked(PAUSED_MARK):
        return
    try:
        with alone_with(home), home.turn():
            record = (home.read("state") or {}).get("cgroup")
            if record and home.is_marked(PAUSED_MARK):
                reopen(record).thaw()
            home.drop_mark(PAUSED_MARK)
    except NotFound:
        return  # it was removed meanwhile
    except KernelError as error:
        if error.errno != ENOENT:  # it has ended meanwhile
            raise


def group_of(home: Home, said: str) -> Cgroup:
    """Its groups, for who has its turn; made where it has none that can be frozen."""
    from lamina.runtime.cgroups.freezer import can_freeze

    record = (home.read("state") or {}).get("cgroup")
    if record and not home.is_marked(GROUPED_MARK) and can_freeze(group := reopen(record)):
        return group
    from lamina.engine.grouping import grouped

    return grouped(home, said)


def alone_with(home: Home) -> Lock:
    """No process is being added meanwhile, and nobody else stops them all (store/lock.py). Waits; raises NotFound."""
    try:
        return alone(home.path)
    except FileNotFoundError:
        raise no_such(home.short_id) from None
