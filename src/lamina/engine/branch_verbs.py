"""The verbs of a container for what several states become together: merged, promoted, squashed, put over another
image.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from lamina.engine.container import Container
    from lamina.engine.images import Image
    from lamina.engine.merging import Merge
    from lamina.engine.rebasing import Hidden
    from lamina.engine.snapshots import Snapshot
    from lamina.engine.squashing import Squash
    from lamina.store.containers import Home


class BranchVerbs:
    """What `Container` does with its states and those of its forks."""

    if TYPE_CHECKING:
        _home: Home

    def merge(
        self,
        forks: Iterable[Container],
        *,
        prefer: str = "",
        name: str | None = None,
        message: str = "",
        dry_run: bool = False,
        consistency: str = "auto",
    ) -> Merge:
        """Take over what *forks* did, since the state that they and this container both come from: a path that one side
        alone changed is as that side has it. The result is a new state of this container, called *name*; the one from
        before stays, as a snapshot.

        A path that both changed, to something else each, is a clash: *prefer* "ours" keeps what this container has,
        "theirs" takes what the fork has (the last one of several), and the name of a fork what that one has; without
        it Conflict is raised, with the paths, and nothing is changed. With *dry_run* nothing is changed in any case:
        the answer says what would be. *consistency* is as of `rewind`. Raises NotFound where there is no such common
        state, Unsupported where their layers do not mean the same, Conflict, KernelError.
        """
        from lamina.engine.merging import merge

        return merge(
            self._home,
            [fork._home for fork in forks],
            prefer=prefer,
            name=name,
            message=message,
            dry_run=dry_run,
            consistency=consistency,
        )

    def promote(self, fork: Container, name: str | None = None, *, consistency: str = "auto") -> Snapshot:
        """Become what *fork* is now, in constant time: a new state of this container, called *name*, with the fork's
        layers. What this container was stays, as a snapshot; the fork stays as it is. *consistency* is as of `rewind`.

        Raises Unsupported where their layers do not mean the same, Conflict, KernelError.
        """
        from lamina.engine.merging import promote

        return promote(self._home, fork._home, name=name, consistency=consistency)

    def forked_from(self) -> Container:
        """The container that it was forked from. Raises NotFound where it is no fork, or that is gone."""
        from lamina.engine.container import Container
        from lamina.errors import NotFound
        from lamina.store.containers import find

        asked = self._home.asked()
        forked = asked.get("forked")
        if not forked:
            raise NotFound(
                f"container {asked['name']} is no fork of another one",
                remedy="name the container that is meant",
            )
        try:
            return Container(find(self._home.store, str(forked["container"])))
        except NotFound:
            raise NotFound(
                f"container {forked.get('name')}, from which {asked['name']} was forked, was removed",
                remedy="name the container that is meant",
            ) from None

    def squash(self, since: Snapshot | str | None = None) -> list[Squash]:
        """Make one layer, at each place, of the layers that it froze (since the snapshot *since*), which then reads as
        they do. Snapshots that refer to these keep them. Of one that runs, what is mounted stays until it is frozen
        next.

        It is done in the background anyhow before their number matters. Raises NotFound, Conflict, KernelError.
        """
        from lamina.engine.squashing import squash_container
        from lamina.store.snapshots import find

        if since is None:
            return squash_container(self._home)
        return squash_container(self._home, find(self._home, since if isinstance(since, str) else since.id))

    def rebase(self, image: Image | str, *, force: bool = False, dry_run: bool = False) -> list[Hidden]:
        """Put what it wrote over another *image*: what it added, changed and deleted stays, all else is the new
        image's, and its config. Its command and options stay, and so do the snapshots from before, over the image from
        before.

        Where it would hide something of the new image that is another there than in the old, Conflict names the paths,
        and nothing is changed; with *force* what the container has stays. The answer are those paths; with *dry_run*
        nothing else is done. Raises Conflict also where it runs, Unsupported over this machine, NotFound, KernelError.
        """
        from lamina.engine.obtain import find
        from lamina.engine.rebasing import rebase
        from lamina.store.images import hold

        name = image if isinstance(image, str) else (image.tags[0] if image.tags else image.id)
        record = find(self._home.store, name)
        with hold(self._home.store, record.id) as held:
            return rebase(self._home, held.record, name, force=force, dry_run=dry_run)
