"""What a thread does of `BranchVerbs`: made by scripts/mirror from engine/branch_verbs.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.mirror import Mirrored, sync_of
from lamina.engine.asynchronous.snapshot import AsyncSnapshot
from lamina.engine.asynchronous.states import AsyncMerge
from lamina.engine.asynchronous.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lamina.engine.asynchronous.container import AsyncContainer
    from lamina.engine.asynchronous.image import AsyncImage
    from lamina.engine.branch_verbs import BranchVerbs
    from lamina.engine.rebasing import Hidden
    from lamina.engine.squashing import Squash


class MirroredBranchVerbs(Mirrored):
    """The verbs of `BranchVerbs` that a thread does."""

    if TYPE_CHECKING:
        _sync: BranchVerbs

    async def merge(
        self,
        forks: Iterable[AsyncContainer],
        *,
        prefer: str = "",
        name: str | None = None,
        message: str = "",
        dry_run: bool = False,
        consistency: str = "auto",
    ) -> AsyncMerge:
        """Take over what *forks* did, since the state that they and this container both come from: a path that one side
        alone changed is as that side has it. The result is a new state of this container, called *name*; the one from
        before stays, as a snapshot.

        A path that both changed, to something else each, is a clash: *prefer* "ours" keeps what this container has,
        "theirs" takes what the fork has (the last one of several), and the name of a fork what that one has; without
        it Conflict is raised, with the paths, and nothing is changed. With *dry_run* nothing is changed in any case:
        the answer says what would be. *consistency* is as of `rewind`. Raises NotFound where there is no such common
        state, Unsupported where their layers do not mean the same, Conflict, KernelError.
        """
        return AsyncMerge(
            await in_thread(
                self._do(
                    lambda: self._sync.merge(
                        [one._sync for one in forks],
                        prefer=prefer,
                        name=name,
                        message=message,
                        dry_run=dry_run,
                        consistency=consistency,
                    )
                )
            )
        )

    async def promote(
        self, fork: AsyncContainer, name: str | None = None, *, consistency: str = "auto"
    ) -> AsyncSnapshot:
        """Become what *fork* is now, in constant time: a new state of this container, called *name*, with the fork's
        layers. What this container was stays, as a snapshot; the fork stays as it is. *consistency* is as of `rewind`.

        Raises Unsupported where their layers do not mean the same, Conflict, KernelError.
        """
        return AsyncSnapshot(
            await in_thread(
                self._do(lambda: self._sync.promote(sync_of(fork), name, consistency=consistency))
            )
        )

    async def squash(self, since: AsyncSnapshot | str | None = None) -> list[Squash]:
        """Make one layer, at each place, of the layers that it froze (since the snapshot *since*), which then reads as
        they do. Snapshots that refer to these keep them. Of one that runs, what is mounted stays until it is frozen
        next.

        It is done in the background anyhow before their number matters. Raises NotFound, Conflict, KernelError.
        """
        return await in_thread(self._do(lambda: self._sync.squash(sync_of(since))))

    async def rebase(
        self, image: AsyncImage | str, *, force: bool = False, dry_run: bool = False
    ) -> list[Hidden]:
        """Put what it wrote over another *image*: what it added, changed and deleted stays, all else is the new
        image's, and its config. Its command and options stay, and so do the snapshots from before, over the image from
        before.

        Where it would hide something of the new image that is another there than in the old, Conflict names the paths,
        and nothing is changed; with *force* what the container has stays. The answer are those paths; with *dry_run*
        nothing else is done. Raises Conflict also where it runs, Unsupported over this machine, NotFound, KernelError.
        """
        return await in_thread(
            self._do(lambda: self._sync.rebase(sync_of(image), force=force, dry_run=dry_run))
        )
