"""The verbs of a container for its files: copied out and in, and one by one in the words of pathlib."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

    from lamina.engine.container import Container
    from lamina.engine.copying import Copied
    from lamina.engine.copying_in import Source
    from lamina.engine.files import ContainerPath


class FileVerbs:
    """What `Container` does with its files."""

    @property
    def _this(self) -> Container:
        return self  # type: ignore[return-value]  # nothing else is made of this

    @property
    def files(self) -> ContainerPath:
        """Its root directory: `container.files / "etc/motd"` is a file to be used as one of pathlib's."""
        from lamina.engine.files import ContainerPath

        return ContainerPath(self._this)

    def copy_out(
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
        from lamina.engine.copying import copy_out, copy_to_file, copy_to_stream

        if isinstance(target, int):
            return copy_to_stream(self._this, path, target, follow=follow)
        if not isinstance(target, (str, os.PathLike)):
            return copy_to_file(self._this, path, target, follow=follow)
        return copy_out(self._this, path, target, archive=archive, follow=follow, progress=progress)

    def copy_in(
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
        from lamina.engine.copying_in import copy_in

        return copy_in(self._this, source, path, archive=archive, follow=follow, progress=progress)
