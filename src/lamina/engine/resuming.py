"""Containers whose supervisor was killed: adopted by another one if they live, or written down as ended."""

from __future__ import annotations

from time import time_ns

from lamina.engine.discard import discard, unplug
from lamina.engine.keeping import options_of
from lamina.engine.restarting import UNKNOWN, is_restarted
from lamina.engine.settling import is_kept
from lamina.runtime.identity import boot_id, same_process
from lamina.store.containers import AGAIN_MARK, PAUSED_MARK, STOPPED_MARK
from lamina.store.events import about, ending, note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.store.containers import Home


def resume(home: Home, asked: dict[str, Any], state: dict[str, Any] | None) -> None:
    """A container whose supervisor was killed, but which may live on, or is to be started again. Its lock is held."""
    end = home.read("exit")
    stopped = home.is_marked(STOPPED_MARK)
    owner = asked.get("owner")
    orphaned = owner is not None and not same_process(int(owner["pid"]), owner)
    runs = state is not None and end is None and same_process(int(state["pid"]), state)
    if not orphaned and owner is None and state is not None and state.get("boot") == boot_id():
        again = end is not None and end.get("restarting") and not stopped
        if end is None and not runs:
            again = is_restarted(
                options_of(asked).restart, UNKNOWN, int(state.get("restarts") or 0), stopped=stopped
            ) or (home.is_marked(AGAIN_MARK) and not stopped)
        if runs or again:
            _hand_over(home)
            return
    from lamina.engine.recover import end_processes

    # of a start that was cut short, there may be a process that no record knows
    end_processes(asked, state or {})
    said = []
    if end is None and state is not None and home.has("network"):
        from lamina.engine.network_events import disconnected

        said = disconnected(home)
    unplug(home)
    note(home.store, *said)
    if is_kept(home) and not orphaned:
        return
    if (asked.get("rm") and (state is not None or end is not None)) or orphaned:
        discard(home, asked["name"], asked, volumes=True)
        note(home.store, about(asked, "destroy"))
        return
    if end is None and state is not None:
        home.write("exit", {"status": UNKNOWN, "finished": time_ns(), "oom_kills": 0, "unknown": True})
        note(home.store, *ending({**asked, "rm": False}, UNKNOWN, 0))
    elif end is not None and end.get("restarting"):
        home.write("exit", {key: given for key, given in end.items() if key != "restarting"})
    home.drop_mark(PAUSED_MARK)
    if owner is None:
        home.unmark()


def _hand_over(home: Home) -> None:
    from lamina.engine.detaching import ADOPT, start_supervised

    home.release()  # somebody else may take it now, who then does the same
    start_supervised(home.store, home.id, mode=ADOPT)
