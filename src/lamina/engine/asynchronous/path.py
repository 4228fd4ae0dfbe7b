"""Files of a container in the words of pathlib, for event loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.begun import Begun
from lamina.engine.asynchronous.following import each
from lamina.engine.asynchronous.mirrored.files import MirroredContainerPath
from lamina.engine.asynchronous.threads import ending, in_thread
from lamina.engine.files import ContainerPath
from lamina.engine.pure_paths import PureContainerPath

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import PurePosixPath
    from types import TracebackType
    from typing import IO, Any, Self

    from lamina.engine.asynchronous.container import AsyncContainer


class AsyncContainerPath(PureContainerPath, MirroredContainerPath):
    """One path in a container: `AsyncContainer.files` and "/". What looks at files is to be awaited, names are not:
    `await (box.files / "etc/motd").read_text()`, `async for path in (box.files / "var/log").glob("*.log")`.
    """

    _container: AsyncContainer

    def __init__(self, container: AsyncContainer, path: str | PurePosixPath = "/") -> None:
        super().__init__(container, path)

    @property
    def _sync(self) -> ContainerPath:  # type: ignore[override]  # made for each call
        return ContainerPath(self._container._sync, self._pure)

    @property
    def container(self) -> AsyncContainer:
        """Whose it is."""
        return self._container

    # -- what is there

    async def resolve(self, strict: bool = False) -> Self:
        """The path of what it leads to, without links and "..": `ContainerPath.resolve`."""
        return self._at((await in_thread(lambda: self._sync.resolve(strict)))._pure)

    async def iterdir(self) -> AsyncIterator[Self]:
        """What is in the directory: `ContainerPath.iterdir`."""
        async for path in each(self._sync.iterdir):
            yield self._at(path._pure)

    async def walk(
        self,
        top_down: bool = True,
        on_error: Callable[[OSError], object] | None = None,
        follow_symlinks: bool = False,
    ) -> AsyncIterator[tuple[Self, list[str], list[str]]]:
        """Each directory with the names in it: `ContainerPath.walk`, but what is read ahead cannot be pruned.

        *on_error* is called by the loop.
        """
        errors: list[OSError] = []
        async for path, directories, others in each(
            lambda: self._sync.walk(top_down, errors.append, follow_symlinks)
        ):
            _tell(errors, on_error)
            yield self._at(path._pure), directories, others
        _tell(errors, on_error)

    async def glob(self, pattern: str) -> AsyncIterator[Self]:
        """What below it matches: `ContainerPath.glob`."""
        async for path in each(lambda: self._sync.glob(pattern)):
            yield self._at(path._pure)

    async def rglob(self, pattern: str) -> AsyncIterator[Self]:
        """As `glob`, with `**/` before the pattern."""
        async for path in each(lambda: self._sync.rglob(pattern)):
            yield self._at(path._pure)

    # -- reading and writing

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Begun[AsyncFile]:
        """`ContainerPath.open`: `await` it, or use it in an `async with`."""

        async def begin() -> AsyncFile:
            file = await in_thread(
                lambda: self._sync.open(mode, buffering, encoding, errors, newline),
                undo=lambda file: file.close(),
            )
            return AsyncFile(file)

        return Begun(begin())

    # -- changing what is there

    async def rename(self, target: str | PurePosixPath | PureContainerPath) -> Self:
        """Call it *target*: `ContainerPath.rename`. The new path."""
        return self._at((await in_thread(lambda: self._sync.rename(target)))._pure)

    replace = rename


def _tell(errors: list[OSError], on_error: Callable[[OSError], object] | None) -> None:
    while errors:
        error = errors.pop(0)
        if on_error is not None:
            on_error(error)


class AsyncFile:
    """An open file of a container, in a file's own words; a thread does each of them."""

    def __init__(self, file: IO[Any]) -> None:
        self._file = file

    async def read(self, size: int = -1) -> Any:
        """Up to *size* bytes or characters, or (negative) all."""
        return await in_thread(lambda: self._file.read(size))

    async def readline(self) -> Any:
        """A line with its end, nothing at the end."""
        return await in_thread(lambda: self._file.readline())

    async def write(self, data: Any) -> int:
        """Write *data*; how much that was."""
        return await in_thread(lambda: self._file.write(data))

    async def writelines(self, lines: Iterable[Any]) -> None:
        """Write all of them."""
        await in_thread(lambda: self._file.writelines(lines))

    async def seek(self, offset: int, whence: int = 0) -> int:
        """Go on there; where that is."""
        return await in_thread(lambda: self._file.seek(offset, whence))

    async def tell(self) -> int:
        """Where it goes on."""
        return await in_thread(self._file.tell)

    async def truncate(self, size: int | None = None) -> int:
        """Cut it there, or where it goes on."""
        return await in_thread(lambda: self._file.truncate(size))

    async def flush(self) -> None:
        """Write what is buffered."""
        await in_thread(self._file.flush)

    async def close(self) -> None:
        """Write what is buffered, and close it."""
        await ending(self._file.close)

    @property
    def closed(self) -> bool:
        """Whether it is."""
        return self._file.closed

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if not (line := await self.readline()):
            raise StopAsyncIteration
        return line

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


__all__ = ["AsyncContainerPath", "AsyncFile"]
