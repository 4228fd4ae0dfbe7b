"""The root of a container that runs, replaced by a new overlay on top of what it has written so far.

What it wrote becomes a layer that never changes again, and costs the same whatever its size: no file is touched. While
the container stands still (standstill.py)

* whoever would notice is looked for in /proc (runtime/holders.py);
* the old overlay is made read-only. The kernel refuses that as long as anybody could write there, by whatever
  descriptor, mapping or request under way (mnt_hold_writers in fs/namespace.c), and nobody can from then on. So that a
  layer does not change rests on the kernel's own account. Where processes of it may mount, its whole file system is, by
  whatever mount of it (sb_prepare_remount_readonly), which takes longer the more names of files the kernel remembers;
* the new overlay is mounted, what is mounted in the old one is moved to it, and the two change places
  (runtime/swapping.py).

Where somebody holds on to the old root it is as *consistency* says. Decisions 0059 and 0060.
"""

from __future__ import annotations

from time import monotonic, sleep

from lamina.engine.consistency import AUTO, COPY, WAIT, check_consistency
from lamina.engine.layers import stacks_of
from lamina.engine.replacing import Swap
from lamina.engine.standstill import Standstill
from lamina.errors import Conflict
from lamina.runtime.holders import Holder
from lamina.supervisor.signals import Undisturbed
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from lamina.overlay.spec import MountSpec
    from lamina.store.containers import Home

    Stacks = Sequence[tuple[bytes, MountSpec]]

PATIENCE = 10.0  # how long `wait` waits, in seconds
MOST_NAMED = 5


@value
class Restacked:
    """`swapped`: whether the root was replaced (else what had been written was copied), `holders` who kept it from
    being; of one that was replaced, whose working directory could not follow. `seconds` is how long it stood still.
    `synced`: everything on its file system is on the disk, as of after that.
    """

    swapped: bool
    holders: tuple[Holder, ...] = ()
    seconds: float = 0.0
    synced: bool = False


def restack(
    home: Home,
    before: Stacks,
    after: Stacks,
    *,
    consistency: str = AUTO,
    ready: Callable[[], None],
    each: Callable[[], None] | None = None,
    copy: Callable[[], None] | None = None,
    move: Callable[[], None] | None = None,
    keep: bool = True,
    patience: float = PATIENCE,
) -> Restacked:
    """Have the container, which runs or is paused, stand on *after* instead of *before*: both are (place, stack) in the
    same order, parents first; a place that stays has the same stack in both.

    *each* is called whenever it stands still, before anything is tried, for what is to be as of that moment; *ready*
    once, while it stands still, to make the directories of *after*; *copy* where the root is not to
    be replaced, or cannot be, to copy what was written, while it stands still as well. *consistency* is one of
    CONSISTENCIES: `auto` copies where somebody holds on to the old root, `refuse` raises Conflict, `wait` tries again
    for *patience* seconds first, `copy` never replaces it. Without *copy*, `auto` is `refuse`.

    What is in the uppers of *before* is on the disk then, unless they are volatile or not to be kept (*keep*); so is
    what *move* did, which is called once they were replaced, when it goes on. Raises InvalidInput, Conflict,
    Unsupported, NotFound, TimeoutExpired, MountError, KernelError: the container then goes on as before.
    """
    check_consistency(consistency, copies=copy is not None)
    words = f"take the state of container {home.asked()['name']}"
    end, pause, prepared = monotonic() + patience, 0.001, False
    while True:
        with Standstill(home, words) as still, Swap(still, before, after) as swap:
            still.stop(swap.undo(), swap.held())
            if each is not None:
                each()
            if not prepared:
                ready()
                prepared = True
            holders: tuple[Holder, ...] = ()
            with Undisturbed():  # a Ctrl-C would leave some of them in the old root
                if consistency != COPY:
                    holders = _tried(still, swap)
                if swap.done:
                    still.go_on()
                    seconds = monotonic() - still.began
                    holders = swap.finish()
            if swap.done:
                if move is not None:
                    move()
                return Restacked(True, holders, seconds, keep and swap.sync())
            if copy is not None and consistency in (AUTO, COPY):
                copy()
            still.go_on()
            swap.finish()
            if copy is not None and consistency in (AUTO, COPY):
                seconds = monotonic() - still.began
                return Restacked(False, holders, seconds, swap.sync())
        if consistency != WAIT or monotonic() > end:
            raise _refusal(
                words, holders, waited=patience if consistency == WAIT else None, copies=copy is not None
            )
        sleep(min(pause, max(0.0, end - monotonic())))
        pause = min(2 * pause, 0.05)


def _tried(still: Standstill, swap: Swap) -> tuple[Holder, ...]:
    try:
        return swap.try_it()
    except ProcessLookupError as error:  # a process that is just ending has no mounts any more
        raise still.has_ended() from error
    except OSError as error:
        if still.first.is_there:
            raise
        raise still.has_ended() from error


def swapped_to(home: Home, after: Stacks, places: Container[bytes]) -> bool | None:
    """Whether the container stands on *after*, of which *places* are others than before, for who finds that somebody
    was killed in between; None where it does not run. Then nobody's working directory is left in the one before. Where
    some of them were replaced and others not, the others are now.

    Raises Conflict where somebody holds on to these, LaminaError, OSError.
    """
    from lamina.engine.half_replaced import found_at
    from lamina.engine.settling import Process

    with Process(home.read("state")) as first:
        if not first.is_there:
            return None
        try:
            found = {one.at: one.swapped for one in found_at(home, first.pid, after, places)}
        except ProcessLookupError:
            return None
        except Conflict:
            if first.is_there:
                raise
            return None
        swapped = True in found.values()
        if swapped and first.is_there:
            from lamina.engine.stragglers import follow

            follow(home, first.pid)  # first: what is attached nowhere is in the way of the others
            if False in found.values() and first.is_there:
                _replace_the_others(home, after, found)
        return swapped if first.is_there else None


def _replace_the_others(home: Home, after: Stacks, found: dict[bytes, bool]) -> None:
    asked = dict(stacks_of(home.asked().get("overlays") or [], home.path))
    before = [(at, asked[at] if found.get(at) is False else spec) for at, spec in after]
    try:
        restack(home, before, after, consistency=WAIT, ready=lambda: None, keep=False, patience=1)
    except Conflict as error:
        raise Conflict(
            f"finish what was begun with container {home.shown}, of whose file systems some were replaced, and "
            f"others not: {error.message}",
            remedy="nothing is lost: end these processes, or stop it, and start it again",
        ) from error


def _refusal(words: str, holders: Sequence[Holder], waited: float | None, *, copies: bool) -> Conflict:
    named = "; ".join(map(str, holders[:MOST_NAMED]))
    more = f"; and {len(holders) - MOST_NAMED} more" if len(holders) > MOST_NAMED else ""
    still = "" if waited is None else f", after {waited:g} seconds still"
    another = "--consistency copy copies what was written;" if copies else "end these processes,"
    return Conflict(
        f"{words}: in use{still}: {named}{more}",
        remedy=f"{another} or stop the container first",
    )
