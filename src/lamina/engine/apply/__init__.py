"""From a container's changes to the host's files, and back.

    changes = changes_of([(b"/", spec), (b"/home", spec2)], made=mount_points)
    applied = apply(changes, journal, started_ns=started, paths=["/etc/**"], exclude=["/etc/shadow"])
    undone  = undo(journal)
    recover(journal)             # ends whatever a crash interrupted; apply and undo call it themselves
    forget(journal)              # drops the originals: to be called before a container is removed

*journal* is a directory of the container's own in the store (made if missing, mode 0700). What is promised:

* Until every new file lies complete and durable beside its place, on its own file system, the host is not touched:
  a full disk costs nothing. Then each path changes by one rename (exchange) of a staged entry: a whole new
  directory appears at once, and what was there goes to the journal by that same rename, with its inode, hard links
  and every attribute.
* An apply that does not end (error, signal, power cut) never happened: what was done is taken back, by itself or by
  the next call. An undo that does not end is finished by the next call. Nothing stays in between.
* Paths which the host changed after the container started are refused, all named at once: see `conflicts`.
* Links are never followed, other file systems never entered, and an entry that is not the one that was compared is
  put back: users of the host who rearrange directories meanwhile get a refusal, not somebody else's file.

Every write goes through `hands.Hands`, which tests replace to fail or die at each of them in turn.
"""

from __future__ import annotations

from lamina.engine.apply.values import Applied, Clash, HostChange, Left, Past, Recovered, Undone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from os import PathLike

    from lamina.engine.apply.hands import Hands
    from lamina.engine.progress import Tell
    from lamina.overlay.spec import MountSpec

    AnyPath = str | bytes | PathLike[str] | PathLike[bytes]

__all__ = [
    "Applied", "Clash", "HostChange", "Left", "Past", "Recovered", "Undone",
    "apply", "changes_of", "clashes_of", "forget", "history", "recover", "undo",
]  # fmt: skip


def changes_of(
    overlays: Iterable[tuple[bytes, MountSpec]], *, made: Collection[bytes] = ()
) -> list[HostChange]:
    """All changes of a container, by host path, parents before children.

    *overlays* are (mount point, stack) pairs. *made* are absolute paths of mount points which the engine itself had
    to create in the container: they and their parents are left out as long as nothing else is in them.
    Raises OSError, errors.Corrupt.
    """
    from lamina.engine.apply.gather import gather

    return gather(overlays, made)


def clashes_of(
    changes: Sequence[HostChange],
    journal: AnyPath,
    *,
    started_ns: int,
    paths: Iterable[str | bytes] = (),
    exclude: Iterable[str | bytes] = (),
    root: AnyPath = "/",
) -> list[Clash]:
    """Of *changes* (or what is selected of them, as in `apply`) those which the host's tree *root* contradicts.

    Sorted by path; [] if all could be applied. *started_ns* is what `engine.moment.moment` gave just before the
    container's overlays were mounted. What an earlier apply or undo of the same *journal* did to the host is not the
    host's own change. Raises errors.NotFound, errors.InvalidInput, OSError.
    """
    from lamina.engine.apply import operations

    return operations.clashes_of(
        changes, journal, started_ns=started_ns, paths=paths, exclude=exclude, root=root
    )


def apply(
    changes: Sequence[HostChange],
    journal: AnyPath,
    *,
    started_ns: int,
    paths: Iterable[str | bytes] = (),
    exclude: Iterable[str | bytes] = (),
    force: bool = False,
    root: AnyPath = "/",
    hands: Hands | None = None,
    progress: Tell | None = None,
) -> Applied:
    """Make *changes*, or those which *paths* select and *exclude* does not, to the host's tree *root*: all or none.

    A path is absolute as in the container and selects what is there and below; `*`, `?`, `[...]` match within a name,
    `**` across names, a backslash takes the next character as it is. *force* overrides the host's own changes.
    *progress* is told a `Progress` now and then.
    Raises errors.NotFound (a path that selects nothing), errors.InvalidInput (a selection that cannot be),
    errors.HostChanged (with every clash), errors.Conflict (another apply is under way; the container still runs),
    KernelError (full disk, no permission: the host is as it was before).
    """
    from lamina.engine.apply import operations

    return operations.apply(
        changes,
        journal,
        started_ns=started_ns,
        paths=paths,
        exclude=exclude,
        force=force,
        root=root,
        hands=hands,
        progress=progress,
    )


def undo(
    journal: AnyPath, *, force: bool = False, hands: Hands | None = None, progress: Tell | None = None
) -> Undone:
    """Take back the newest apply of *journal* that was not taken back yet: every byte and attribute as before it.

    Raises errors.NotFound (nothing to undo), errors.HostChanged (the host changed an applied path since; *force*
    overrides), KernelError.
    """
    from lamina.engine.apply import operations

    return operations.undo(journal, force=force, hands=hands, progress=progress)


def recover(journal: AnyPath, *, hands: Hands | None = None) -> Recovered | None:
    """End what a crash interrupted in *journal*; None if nothing was.

    An unfinished apply is taken back, an unfinished undo is finished. Raises errors.Conflict (its process is still
    alive), KernelError.
    """
    from lamina.engine.apply import operations

    return operations.recover(journal, hands=hands)


def forget(journal: AnyPath) -> None:
    """Drop the originals of every apply, wherever they are kept; what was applied stays. Idempotent.

    To be called before the container's directory is removed: originals from file systems other than the store's
    are kept beside them, in hidden directories which only this knows. Recovers first. Raises KernelError.
    """
    from lamina.engine.apply import operations

    operations.forget(journal)


def history(journal: AnyPath) -> list[Past]:
    """Every apply of *journal*, oldest first; [] if there was none. Raises errors.Corrupt."""
    from lamina.engine.apply import operations

    return operations.history(journal)
