"""The verbs of a container for its states: what it wrote is frozen, and gone back to, in constant time."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.engine.attempts import Attempt
    from lamina.engine.snapshots import Snapshot
    from lamina.store.containers import Home


class StateVerbs:
    """What `Container` does with its states."""

    if TYPE_CHECKING:
        _home: Home

    def snapshot(
        self,
        name: str | None = None,
        *,
        message: str = "",
        consistency: str = "auto",
        on_warning: Callable[[str], None] | None = None,
    ) -> Snapshot:
        """Freeze what it wrote, under *name*, if there is one: from then on this state can be gone back to, compared,
        forked, made an image. No file is copied; what it writes from now on goes elsewhere.

        Volumes and binds are no part of a state: *on_warning* is told so once, where writable ones exist. *consistency*
        says what is done about processes that hold files of theirs open for writing, of a container that runs:
        "refuse", "copy", "wait", or "auto" (docs/time-travel.md). Raises Conflict (the name is taken; refused; in use
        by another command), InvalidInput, Unsupported, KernelError.
        """
        from lamina.engine.snapshotting import snapshot

        return snapshot(
            self._home, name, message=message, consistency=consistency, on_warning=on_warning
        )

    def snapshots(self) -> list[Snapshot]:
        """Its snapshots, oldest first. Raises Corrupt where one is damaged."""
        from lamina.engine.snapshots import Snapshot
        from lamina.store.snapshots import all_of

        return [Snapshot(self._home, kept) for kept in all_of(self._home)]

    def find_snapshot(self, reference: str) -> Snapshot:
        """The snapshot with that name or id, or the only one whose id begins so. Raises NotFound, InvalidInput."""
        from lamina.engine.snapshots import Snapshot
        from lamina.store.snapshots import find

        return Snapshot(self._home, find(self._home, reference))

    def rewind(self, snapshot: Snapshot | str, *, consistency: str = "auto") -> None:
        """Put its files back into the state *snapshot* (or the one of that name or id): what it wrote since is thrown
        away, unless another snapshot has it. Snapshots that were made later stay.

        One that runs goes on, over other files; *consistency* is as of `snapshot`, but nothing can be copied here.
        Raises NotFound, Conflict, KernelError.
        """
        from lamina.engine.rewinding import rewind

        rewind(self._home, snapshot if isinstance(snapshot, str) else snapshot.id, consistency=consistency)

    def prune_snapshots(self, keep: int = 0) -> list[Snapshot]:
        """Remove its snapshots without a name, but the last *keep*; what went, oldest first. Raises as `snapshot`."""
        from lamina.engine.snapshotting import prune

        return prune(self._home, keep)

    def attempt(self, name: str | None = None, *, consistency: str = "auto") -> Attempt:
        """Something that may fail, as a block: what it did stays at the end of the `with`, and is taken back when the
        block raises.

            with box.attempt():
                box.exec(["pip", "install", "-r", "requirements.txt"], check=True)

        *name* is that of the snapshot from before, which then stays; without one it goes with the block.
        """
        from lamina.engine.attempts import Attempt

        return Attempt(self, name, consistency=consistency)
