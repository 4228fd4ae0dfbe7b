"""What a thread does of `ViewVerbs`: made by scripts/mirror from engine/view_verbs.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.following import each
from lamina.engine.asynchronous.mirror import Mirrored
from lamina.engine.asynchronous.threads import in_thread

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Iterable

    from lamina.engine.apply.values import HostChange
    from lamina.engine.apply_to import AppliedTo
    from lamina.engine.provenance import Provenance
    from lamina.engine.view_verbs import Paths, ViewVerbs


class MirroredViewVerbs(Mirrored):
    """The verbs of `ViewVerbs` that a thread does."""

    if TYPE_CHECKING:
        _sync: ViewVerbs

    async def changes(self, paths: Paths = (), exclude: Paths = ()) -> list[HostChange]:
        """What was done to the image, or to the host's files, that it is over; raises InvalidInput for an image."""
        return await in_thread(self._do(lambda: self._sync.changes(paths, exclude)))

    async def diff(
        self, other: MirroredViewVerbs, paths: Paths = (), exclude: Paths = ()
    ) -> list[HostChange]:
        """What leads from this state to *other*, by path, or what of that *paths* select and *exclude* does not.

        Any two of container, snapshot and image can be compared. It costs what the two do not have in common: the
        layers that both stand on are not read. Raises Unsupported where one is over this system and the other over an
        image, NotFound for a path that selects nothing.
        """
        return await in_thread(self._do(lambda: self._sync.diff(other._sync, paths, exclude)))

    async def apply_to(
        self,
        directory: str | bytes | os.PathLike[str],
        since: MirroredViewVerbs | None = None,
        paths: Paths = (),
        exclude: Paths = (),
        *,
        force: bool = False,
    ) -> AppliedTo:
        """Make *directory*, which is like the state *since* (default: the image or the host's files that this one is
        over), like this one. Each path changes at once; one that is like this state already is left as it is.

        Raises Conflict, before anything is changed, naming what is not as in *since*, unless *force*; InvalidInput for
        an image without *since*, for `/`, and for the store; KernelError.
        """
        return await in_thread(
            self._do(
                lambda: self._sync.apply_to(
                    directory, None if since is None else since._sync, paths, exclude, force=force
                )
            )
        )

    def patch(self, changes: Iterable[HostChange]) -> AsyncIterator[bytes]:
        """A unified diff of *changes*, which `diff` or `changes` gave, as lines; see `engine.textdiff`."""
        return each(self._do(lambda: self._sync.patch(changes)))

    async def explain(self, path: str | bytes | os.PathLike[str], *, add_up: bool = True) -> Provenance:
        """Where *path* comes from: every layer's answer from the top, and which step made that layer, when; what a
        write would copy. Of a directory also what each layer has in it (which costs what is in it), unless *add_up* is
        False.

        Links of the directories on the way are followed, the last part is not. Raises OSError: a layer that cannot be
        read, links that go in circles; InvalidInput.
        """
        return await in_thread(self._do(lambda: self._sync.explain(path, add_up=add_up)))
