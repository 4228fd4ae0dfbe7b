"""What a thread does of `FileVerbs`: made by scripts/mirror from engine/file_verbs.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.mirror import Mirrored
from lamina.engine.asynchronous.threads import told_by_loop, transfer

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from typing import IO

    from lamina.engine.copying import Copied
    from lamina.engine.copying_in import Source
    from lamina.engine.file_verbs import FileVerbs


class MirroredFileVerbs(Mirrored):
    """The verbs of `FileVerbs` that a thread does."""

    if TYPE_CHECKING:
        _sync: FileVerbs

    async def copy_out(
        self,
        path: str,
        target: str | os.PathLike[str] | int | IO[bytes],
        *,
        archive: bool = False,
        follow: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> Copied:
        """Copy *path* of the container to the path *target* here, or as a tar archive to that descriptor or file
        object, with the rules of `docker cp`. *archive*: keep the owners; *follow*: where *path* is a symbolic link,
        what it leads to. *progress* is told how many bytes were copied so far, but of an archive.

        Raises NotFound, Conflict, Unsupported (a user's over this system that does not run), InvalidInput, KernelError.
        """
        tell_progress = told_by_loop(progress)
        return await transfer(
            self._do(
                lambda: self._sync.copy_out(
                    path, target, archive=archive, follow=follow, progress=tell_progress
                )
            )
        )

    async def copy_in(
        self,
        source: Source,
        path: str,
        *,
        archive: bool = False,
        follow: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> Copied:
        """Copy *source*, a path here, to *path* of the container, with the rules of `docker cp`; it may run or not. A
        descriptor or file object is a tar archive instead, compressed or not, to be unpacked in the directory *path*.

        The copies are the container's root's and have no set-id bits; *archive*: they keep both, and their attributes,
        as what is in an archive does. *follow*: where *source* is a symbolic link, what it leads to. *progress* is told
        how many bytes were copied so far. A file appears whole, or not at all; after an error those before it stay.
        Raises NotFound, Conflict (read-only, a directory for a file, it has ended meanwhile), Unsupported,
        InvalidInput, Corrupt, KernelError.
        """
        tell_progress = told_by_loop(progress)
        return await transfer(
            self._do(
                lambda: self._sync.copy_in(
                    source, path, archive=archive, follow=follow, progress=tell_progress
                )
            )
        )
