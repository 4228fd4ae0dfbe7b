"""What each verb does to a container in each state: the table of docs/containers.md, and command lines that try it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime

from support.sources import REPOSITORY

HEADING = "## Verbs and states"
LONG = 10.0  # seconds of a pause in which the verbs find it "restarting"
DONE, NOTHING, WAITS = "done", "nothing", "waits"
# what docker says where the cell has our word for it
DOCKERS = {"not running": ("not running", "stopped container")}
NAME = "box"
# what is typed, the container called NAME
WORDS: dict[str, tuple[str, ...]] = {
    "stop": ("stop", "-t", "0", NAME),
    "restart": ("restart", "-t", "0", NAME),
    "rm -f": ("rm", "-f", NAME),
    "exec": ("exec", NAME, "true"),
    "attach": ("attach", "--no-stdin", NAME),
    "stats": ("stats", "--no-stream", NAME),
    "cp": ("cp", f"{NAME}:/bin/sh", "-"),
    "export": ("export", NAME),
    "rename": ("rename", NAME, "other"),
    "update": ("update", "--cpu-shares", "512", NAME),
}
# the state after a verb that was done, where that is another one; several where it goes on by itself
LIVES = ("running", "restarting")
AFTER: dict[str, tuple[str, ...]] = {
    "start": LIVES,
    "restart": LIVES,
    "stop": ("exited",),
    "kill": ("exited",),
    "pause": ("paused",),
    "unpause": ("running",),
    "rm": ("gone",),
    "rm -f": ("gone",),
}


def table() -> dict[str, dict[str, str]]:
    """state -> verb -> cell, as documented."""
    text = (REPOSITORY / "docs" / "containers.md").read_text().partition(HEADING)[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    heading, _, *rows = [[cell.strip() for cell in line] for line in lines]
    found: dict[str, dict[str, str]] = {state: {} for state in heading[1:]}
    for verbs, *cells in rows:
        assert len(cells) == len(found), verbs
        for verb in verbs.replace("`", "").split(", "):
            for state, cell in zip(found, cells, strict=True):
                found[state][verb] = cell
    return found


def changes(verb: str, cell: str) -> bool:
    """Whether the container is in another state afterwards."""
    return cell == DONE and verb in AFTER


def words(verb: str) -> tuple[str, ...]:
    """The command line."""
    return WORDS.get(verb, (verb, NAME))


def differences(
    cells: dict[str, str],
    state: str,
    ready: Callable[[], None],
    do: Callable[..., tuple[int, str]],
    state_of: Callable[[], str],
    *,
    docker: bool = False,
) -> Iterator[str]:
    """Where a container in *state* is not as the table has it.

    *ready* brings about one that is, and is called again for each verb that changes it; *do* executes a command line
    and gives its status and what it says of errors; *state_of* is the container's state, "gone" where there is none.
    """
    ready()
    for verb, cell in sorted(cells.items(), key=lambda one: changes(*one)):
        if cell == WAITS:
            continue
        if changes(verb, cell) and (now := state_of()) != state:
            if verb == first_change(cells):
                yield f"{state}: is {now} after verbs that change nothing"
            ready()
        status, text = do(*words(verb))
        if cell in (DONE, NOTHING):
            right = status == 0
        else:
            right = status != 0 and any(
                word in text.lower() for word in (DOCKERS.get(cell, (cell,)) if docker else (cell,))
            )
        if not right:
            yield f"{verb}, {state}: {cell}, but {status}: {text}"
        if changes(verb, cell) and (now := state_of()) not in AFTER[verb]:
            yield f"{verb}, {state}: is {now} afterwards, not {' or '.join(AFTER[verb])}"
        if verb == "rename":
            do("rename", "other", NAME)


def rest_of_pause(restarts: int, ended: str) -> float:
    """Seconds until a container is started again that *ended* then (as `inspect` has it) after so many restarts:
    pauses begin with a tenth of a second and double up to a minute, ours as docker's.
    """
    moment = datetime.fromisoformat(f"{ended[:19]}+00:00").timestamp()
    return float(min(0.1 * 2**restarts, 60.0) - (time.time() - moment))


def first_change(cells: dict[str, str]) -> str:
    """The first verb, in the order of `differences`, after which the container is in another state."""
    return next(verb for verb, cell in cells.items() if changes(verb, cell))
