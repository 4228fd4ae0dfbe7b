"""What a thread does of `ContainerPath`: made by scripts/mirror from engine/files.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.mirror import Mirrored
from lamina.engine.asynchronous.threads import in_thread

if TYPE_CHECKING:
    import os
    from pathlib import PurePosixPath

    from lamina.engine.files import ContainerPath
    from lamina.engine.pure_paths import PureContainerPath


class MirroredContainerPath(Mirrored):
    """The verbs of `ContainerPath` that a thread does."""

    if TYPE_CHECKING:
        _sync: ContainerPath

    async def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """As os.stat(); owners are those that the container sees, 65534 for whom it does not know."""
        return await in_thread(self._do(lambda: self._sync.stat(follow_symlinks=follow_symlinks)))

    async def lstat(self) -> os.stat_result:
        """As `stat`, of a symbolic link itself."""
        return await in_thread(self._do(lambda: self._sync.lstat()))

    async def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether anything is there."""
        return await in_thread(self._do(lambda: self._sync.exists(follow_symlinks=follow_symlinks)))

    async def is_file(self) -> bool:
        """Whether it is, or leads to, a regular file."""
        return await in_thread(self._do(lambda: self._sync.is_file()))

    async def is_dir(self) -> bool:
        """Whether it is, or leads to, a directory."""
        return await in_thread(self._do(lambda: self._sync.is_dir()))

    async def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return await in_thread(self._do(lambda: self._sync.is_symlink()))

    async def is_fifo(self) -> bool:
        """Whether it is, or leads to, a fifo."""
        return await in_thread(self._do(lambda: self._sync.is_fifo()))

    async def is_socket(self) -> bool:
        """Whether it is, or leads to, a socket."""
        return await in_thread(self._do(lambda: self._sync.is_socket()))

    async def is_block_device(self) -> bool:
        """Whether it is, or leads to, a block device."""
        return await in_thread(self._do(lambda: self._sync.is_block_device()))

    async def is_char_device(self) -> bool:
        """Whether it is, or leads to, a character device."""
        return await in_thread(self._do(lambda: self._sync.is_char_device()))

    async def readlink(self) -> PurePosixPath:
        """What is written in the symbolic link, which may be relative: `path.parent / path.readlink()`."""
        return await in_thread(self._do(lambda: self._sync.readlink()))

    async def samefile(self, other: str | PurePosixPath | PureContainerPath) -> bool:
        """Whether it and *other*, a path in the same container (a relative one as in `rename`), lead to the same."""
        return await in_thread(self._do(lambda: self._sync.samefile(other)))

    async def read_bytes(self) -> bytes:
        """Its content, as far as it went when it was opened: a file that grows without end does not keep one here."""
        return await in_thread(self._do(lambda: self._sync.read_bytes()))

    async def read_text(
        self, encoding: str | None = None, errors: str | None = None, newline: str | None = None
    ) -> str:
        """Its content as text, UTF-8 unless *encoding* says otherwise."""
        return await in_thread(self._do(lambda: self._sync.read_text(encoding, errors, newline)))

    async def write_bytes(self, data: bytes | bytearray | memoryview) -> int:
        """Make *data* its content, as `open("wb")` does."""
        return await in_thread(self._do(lambda: self._sync.write_bytes(data)))

    async def write_text(
        self, data: str, encoding: str | None = None, errors: str | None = None, newline: str | None = None
    ) -> int:
        """Make *data* its content, as `open("w")` does."""
        return await in_thread(self._do(lambda: self._sync.write_text(data, encoding, errors, newline)))

    async def touch(self, mode: int = 420, exist_ok: bool = True) -> None:
        """Make an empty file, or give the one that is there the time of now."""
        await in_thread(self._do(lambda: self._sync.touch(mode, exist_ok)))

    async def mkdir(self, mode: int = 493, parents: bool = False, exist_ok: bool = False) -> None:
        """Make it as a directory; with *parents* those above it as well, with *exist_ok* unless it is one."""
        await in_thread(self._do(lambda: self._sync.mkdir(mode, parents, exist_ok)))

    async def rmdir(self) -> None:
        """Remove it, an empty directory."""
        await in_thread(self._do(lambda: self._sync.rmdir()))

    async def unlink(self, missing_ok: bool = False) -> None:
        """Remove it, which is no directory."""
        await in_thread(self._do(lambda: self._sync.unlink(missing_ok)))

    async def symlink_to(
        self, target: str | PurePosixPath | PureContainerPath, target_is_directory: bool = False
    ) -> None:
        """Make it a symbolic link to *target*, which is written down as it is."""
        await in_thread(self._do(lambda: self._sync.symlink_to(target, target_is_directory)))

    async def hardlink_to(self, target: str | PurePosixPath | PureContainerPath) -> None:
        """Make it another name of the file *target*, a relative one as in `rename`."""
        await in_thread(self._do(lambda: self._sync.hardlink_to(target)))

    async def chmod(self, mode: int) -> None:
        """Change its permissions, or those of what it leads to."""
        await in_thread(self._do(lambda: self._sync.chmod(mode)))
