"""Containers that are started with the machine, and ended with it, as their restart policies say.

There is no daemon that a boot would start: a unit of systemd calls this (`lamina generate systemd --restartable`).
"""

from __future__ import annotations

from errno import EIO

from lamina.engine.keeping import options_of
from lamina.engine.options import NO
from lamina.engine.restarting import is_started_with_the_machine
from lamina.engine.settling import state_of
from lamina.errors import KernelError, LaminaError
from lamina.store.containers import CREATED, LIVING, STOPPED_MARK, Home, identities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.store.root import Store

    Outcome = tuple[str, LaminaError | None]

# in the marker `stopped`: by the machine's end, not by somebody
SHUTDOWN = "shutdown"
# what comes of a record in which something else is than was written
_DAMAGED = (LookupError, TypeError, ValueError, AttributeError)
# how many are asked to end at once
AT_ONCE = 16


def start_restartable(store: Store) -> list[Outcome]:
    """Start those which a boot starts, the oldest first: by name, each with what kept it from starting, or None."""
    from lamina.engine.life import start
    from lamina.engine.recover import recover

    recover(store, thorough=True)
    return [(name, _failure(start, home)) for name, home in _those(store, _is_due)]


def stop_restartable(store: Store) -> list[Outcome]:
    """Stop those which have a restart policy, in such a way that `start_restartable` starts them again; as that."""
    from concurrent.futures import ThreadPoolExecutor

    from lamina.engine.life import stop_for_now
    from lamina.engine.recover import recover

    recover(store)
    found = _those(store, lambda home: state_of(home) in LIVING)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        failures = threads.map(lambda one: _failure(stop_for_now, one[1]), found)
        return [(name, failure) for (name, _), failure in zip(found, failures, strict=True)]


def _those(store: Store, wanted: Callable[[Home], bool]) -> list[tuple[str, Home]]:
    """Containers with a restart policy that are *wanted*, by name, the oldest first."""
    found = []
    for identity in identities(store):
        home = Home(store, identity)
        try:
            asked = home.asked()
            if options_of(asked).restart[0] != NO and wanted(home):
                found.append((int(asked.get("created") or 0), str(asked["name"]), home))
        except (LaminaError, OSError, *_DAMAGED):
            continue  # removed meanwhile; or what a newer Lamina made; or for somebody to look at
    return [(name, home) for _, name, home in sorted(found, key=lambda one: one[:2])]


def _is_due(home: Home) -> bool:
    state = state_of(home)
    if state == CREATED or state in LIVING:
        return False
    end = home.read("exit") or {}
    return is_started_with_the_machine(
        options_of(home.asked()).restart,
        int(end.get("status") or 0),
        int(end.get("restarts") or 0),
        stopped=home.is_marked(STOPPED_MARK) and not home.mark_text(STOPPED_MARK).startswith(SHUTDOWN),
    )


def _failure(act: Callable[[Home], object], home: Home) -> LaminaError | None:
    try:
        act(home)
    except LaminaError as failure:
        return failure
    except OSError as error:
        return KernelError("look after container", error.errno or EIO, home.short_id)
    return None
