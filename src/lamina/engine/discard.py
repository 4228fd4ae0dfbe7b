"""Removing containers, also those whose files belong to subordinate ids of the user (engine/within)."""

from __future__ import annotations

import os
from errno import EIO

from lamina.errors import Conflict, KernelError, LaminaError, NotFound
from lamina.store.tree import linger as linger
from lamina.store.tree import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.engine.progress import Meter, Progress, Tell
    from lamina.store.containers import Home
    from lamina.store.root import Store


def discard(
    home: Home,
    name: str | None,
    asked: dict[str, Any] | None,
    *,
    volumes: bool = False,
    progress: Tell | None = None,
) -> None:
    """Remove the container, whose lock is held, with its originals of what it applied, and with *volumes* those that
    are its own (always, if it was to be removed at its end). Raises KernelError.
    """
    unplug(home)
    meter = None
    if progress is not None:
        from lamina.engine.progress import Meter

        meter = Meter(progress)
        meter.expect(count_entries(home.path))
    journal = home.path + b"/apply"
    if os.path.lexists(journal):
        from lamina.engine.apply.operations import forget
        from lamina.engine.within import maps_of, reach

        reach(lambda: maps_of(asked), forget, journal)
    states = os.path.lexists(home.path + b"/snapshots")
    home.discard(name, remover(asked, meter))
    if asked and asked.get("own_ids"):
        from lamina.store.ranges import drop

        drop(home.store, home.id)
    if asked and asked.get("volumes") and (volumes or asked.get("rm")):
        _discard_own_volumes(home.store, asked)
    if states:
        _collect(home.store)


def _collect(store: Store) -> None:
    """It froze layers, which few others can need. It is removed, whatever becomes of these."""
    from lamina.store.garbage import collect

    try:
        collect(store, remove=remover(None))
    except (LaminaError, OSError):
        pass


def unplug(home: Home) -> None:
    """Give back what the container, which is held and does not run, has of networks, if that is anything. What cannot
    be given back now stays, until somebody wants it or looks for left-overs.
    """
    if home.has("network"):
        from lamina.engine.plugging import release

        try:
            release(home)
        except (OSError, LaminaError):
            pass


def _discard_own_volumes(store: Store, asked: dict[str, Any]) -> None:
    """Those that other containers use as well, by --volumes-from, stay."""
    from lamina.engine.mounted import own_volumes

    if not (names := own_volumes(asked)):
        return
    from lamina.store.references import ContainerUses
    from lamina.store.volumes import remove

    uses = ContainerUses(store)
    for name in names:
        try:
            remove(store, name, unless_used=uses, remove=remover(asked))
        except (Conflict, NotFound):
            continue


def finish_burials(store: Store) -> None:
    """Go on with removals that were interrupted."""
    if os.listdir(store.tmp):
        from lamina.store.burial import bury_all

        bury_all(store, remover(None))


def remover(asked: dict[str, Any] | None, meter: Meter | None = None) -> Callable[[bytes], None]:
    """Removes one tree of a container; *asked* is its record (None: the maps are what they are today)."""

    def remove(path: bytes) -> None:
        try:
            remove_tree(path, None if meter is None else meter.path)
        except OSError as error:
            if os.geteuid() == 0 or not isinstance(error, PermissionError):
                raise _not_removed(path, error) from error
            _remove_with_ids(path, asked, meter)

    return remove


def _remove_with_ids(path: bytes, asked: dict[str, Any] | None, meter: Meter | None) -> None:
    from lamina.engine.within import maps_of, reach

    before = 0 if meter is None else meter.done

    def tell(progress: Progress) -> None:
        assert meter is not None
        meter.paths_are(before + progress.paths)

    try:
        reach(lambda: maps_of(asked), remove_counting, path, progress=None if meter is None else tell)
    except OSError as error:
        raise _not_removed(path, error) from error


def _not_removed(path: bytes, error: OSError) -> KernelError:
    if isinstance(error, KernelError):
        return error
    name = error.filename if isinstance(error.filename, (str, bytes)) else ""
    remedy = ""
    if isinstance(error, PermissionError):
        remedy = "take its immutable flag away (lsattr, chattr -i)"
        if os.geteuid() != 0:
            remedy += ", or give its owner back to this user's subordinate ids (see 'lamina doctor')"
        remedy += "; the next command goes on"
    hint = f"because of {os.fsdecode(name)!r} in it" if name else ""
    return KernelError("remove", error.errno or EIO, os.fsdecode(path), hint=hint, remedy=remedy)


def remove_counting(path: bytes, *, progress: Tell | None = None) -> None:
    """remove_tree(), telling *progress* how many entries are gone. Raises PermissionError."""
    if progress is None:
        remove_tree(path)
        return
    from lamina.engine.progress import Meter

    meter = Meter(progress)
    meter.expect(count_entries(path))
    remove_tree(path, meter.path)


def count_entries(path: bytes) -> int:
    """How many entries *path* consists of, as far as they can be seen."""
    count = 0
    for _, directories, files in os.walk(path):
        count += len(directories) + len(files)
    return count + 1
