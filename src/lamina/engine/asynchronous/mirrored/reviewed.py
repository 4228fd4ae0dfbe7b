"""What a thread does of `Reviewed`: made by scripts/mirror from engine/reviewed.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.following import each
from lamina.engine.asynchronous.mirror import Mirrored
from lamina.engine.asynchronous.threads import in_thread, told_by_loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from lamina.engine.apply.values import Applied, Clash, HostChange, Undone
    from lamina.engine.progress import Tell
    from lamina.engine.reviewed import Reviewed
    from lamina.overlay.spec import MountSpec


class MirroredReviewed(Mirrored):
    """The verbs of `Reviewed` that a thread does."""

    if TYPE_CHECKING:
        _sync: Reviewed

    async def overlays(self) -> list[tuple[bytes, MountSpec]]:
        """Where in the container which stack is mounted, the root first; read-only ones are among them."""
        return await in_thread(self._do(lambda: self._sync.overlays()))

    async def changes(
        self, paths: Iterable[str | bytes] = (), exclude: Iterable[str | bytes] = ()
    ) -> list[HostChange]:
        """What it did to the files of the host (or of its image), in all of its states together, or what of that
        *paths* select and *exclude* does not.
        """
        return await in_thread(self._do(lambda: self._sync.changes(paths, exclude)))

    async def clashes(
        self, paths: Iterable[str | bytes] = (), exclude: Iterable[str | bytes] = ()
    ) -> list[Clash]:
        """Of the changes, those on which the host itself has worked since the container started."""
        return await in_thread(self._do(lambda: self._sync.clashes(paths, exclude)))

    def patch(self, changes: Iterable[HostChange]) -> AsyncIterator[bytes]:
        """A unified diff of *changes* of this container, as lines; see `engine.textdiff`."""
        return each(self._do(lambda: self._sync.patch(changes)))

    async def apply(
        self,
        paths: Iterable[str | bytes] = (),
        exclude: Iterable[str | bytes] = (),
        force: bool = False,
        *,
        progress: Tell | None = None,
    ) -> Applied:
        """Do to the host what it did, or what of that *paths* select and *exclude* does not: all of it or nothing.

        *progress* is told an `engine.progress.Progress` now and then; here as in `undo` and `remove`.
        Raises Conflict while it runs, or where the host was changed meanwhile and *force* is not given; KernelError.
        """
        tell_progress = told_by_loop(progress)
        return await in_thread(
            self._do(lambda: self._sync.apply(paths, exclude, force, progress=tell_progress))
        )

    async def undo(self, force: bool = False, *, progress: Tell | None = None) -> Undone:
        """Take the newest apply back. Raises NotFound when there is none, Conflict, KernelError."""
        tell_progress = told_by_loop(progress)
        return await in_thread(self._do(lambda: self._sync.undo(force, progress=tell_progress)))
