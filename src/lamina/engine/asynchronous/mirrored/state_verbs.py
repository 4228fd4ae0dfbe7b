"""What a thread does of `StateVerbs`: made by scripts/mirror from engine/state_verbs.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.mirror import sync_of
from lamina.engine.asynchronous.mirrored.branch_verbs import MirroredBranchVerbs
from lamina.engine.asynchronous.snapshot import AsyncSnapshot
from lamina.engine.asynchronous.states import AsyncStateLog
from lamina.engine.asynchronous.threads import in_thread, told_by_loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.engine.state_verbs import StateVerbs


class MirroredStateVerbs(MirroredBranchVerbs):
    """The verbs of `StateVerbs` that a thread does."""

    if TYPE_CHECKING:
        _sync: StateVerbs

    async def snapshot(
        self,
        name: str | None = None,
        *,
        message: str = "",
        consistency: str = "auto",
        volumes: bool = False,
        on_warning: Callable[[str], None] | None = None,
    ) -> AsyncSnapshot:
        """Freeze what it wrote, under *name*, if there is one: from then on this state can be gone back to, compared,
        forked, made an image. No file is copied; what it writes from now on goes elsewhere.

        Volumes and binds are no part of a state: *on_warning* is told so once, where writable ones exist. With
        *volumes* the store's volumes are, as copies, which takes time for what is in them. *consistency* says what is
        done about processes that hold files of theirs open for writing, of a container that runs: "refuse", "copy",
        "wait", or "auto" (docs/time-travel.md). Raises Conflict (the name is taken; refused; in use by another
        command), InvalidInput, Unsupported, KernelError.
        """
        tell_on_warning = told_by_loop(on_warning)
        return AsyncSnapshot(
            await in_thread(
                self._do(
                    lambda: self._sync.snapshot(
                        name,
                        message=message,
                        consistency=consistency,
                        volumes=volumes,
                        on_warning=tell_on_warning,
                    )
                )
            )
        )

    async def snapshots(self) -> list[AsyncSnapshot]:
        """Its snapshots, oldest first. Raises Corrupt where one is damaged."""
        return [AsyncSnapshot(one) for one in await in_thread(self._do(lambda: self._sync.snapshots()))]

    async def history(self) -> AsyncStateLog:
        """Its states as a tree, the newest first: what came from what, where it stands now, which containers were
        forked off where. Raises Corrupt where one is damaged.
        """
        return AsyncStateLog(await in_thread(self._do(lambda: self._sync.history())))

    async def find_snapshot(self, reference: str) -> AsyncSnapshot:
        """The snapshot with that name or id, or the only one whose id begins so. Raises NotFound, InvalidInput."""
        return AsyncSnapshot(await in_thread(self._do(lambda: self._sync.find_snapshot(reference))))

    async def rewind(
        self, snapshot: AsyncSnapshot | str, *, consistency: str = "auto", volumes: bool = True
    ) -> None:
        """Put its files back into the state *snapshot* (or the one of that name or id): what it wrote since is thrown
        away, unless another snapshot has it. Snapshots that were made later stay.

        One that runs goes on, over other files; *consistency* is as of `snapshot`, but nothing can be copied here.
        Volumes that are part of the state get what they had then, for which neither this container may run nor another
        one that has them; without *volumes* they stay as they are. Raises NotFound, Conflict, KernelError.
        """
        await in_thread(
            self._do(lambda: self._sync.rewind(sync_of(snapshot), consistency=consistency, volumes=volumes))
        )

    async def prune_snapshots(self, keep: int = 0) -> list[AsyncSnapshot]:
        """Remove its snapshots without a name, but the last *keep*; what went, oldest first. Raises as `snapshot`."""
        return [
            AsyncSnapshot(one) for one in await in_thread(self._do(lambda: self._sync.prune_snapshots(keep)))
        ]
