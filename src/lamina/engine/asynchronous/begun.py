"""What begins when it is awaited, or when a block is entered."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType


class _Block(Protocol):
    async def __aenter__(self) -> Any: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


T = TypeVar("T", bound=_Block)


class Begun(Coroutine[Any, Any, T], Generic[T]):
    """`await` it for the object itself, or use it in an `async with`, at whose end the object cleans up after itself.

    It is a coroutine as well, for asyncio.create_task and TaskGroup.create_task.
    """

    def __init__(self, beginning: Coroutine[Any, Any, T]) -> None:
        self._beginning = beginning
        self._object: T | None = None

    def __await__(self) -> Generator[Any, Any, T]:
        return self._beginning.__await__()

    async def __aenter__(self) -> T:
        self._object = await self._beginning
        await self._object.__aenter__()
        return self._object

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._object is not None:
            await self._object.__aexit__(kind, error, trace)

    def send(self, value: Any) -> Any:
        """As of a coroutine."""
        return self._beginning.send(value)

    def throw(self, *raised: Any) -> Any:
        """As of a coroutine."""
        return self._beginning.throw(*raised)

    def close(self) -> None:
        """As of a coroutine."""
        self._beginning.close()


__all__ = ["Begun"]
