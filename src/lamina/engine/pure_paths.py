"""Paths in containers as far as they are names: what is in common to those of a program and those of an event loop."""

from __future__ import annotations

from pathlib import PurePosixPath

from lamina.errors import InvalidInput, LaminaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol, Self

    class Owner(Protocol):
        """A container, as far as a path has to know it."""

        @property
        def id(self) -> str: ...
        @property
        def name(self) -> str: ...


class PureContainerPath:
    """An absolute path in a container, in the words of PurePosixPath. It looks at nothing."""

    __slots__ = ("_container", "_pure")

    _container: Any

    def __init__(self, container: Owner, path: str | PurePosixPath = "/") -> None:
        self._container = container
        self._pure = PurePosixPath("/", path)
        if "\0" in str(self._pure):
            raise InvalidInput(f"{str(self._pure)!r}: a path cannot have a NUL in it")

    # -- the path

    def __truediv__(self, other: str | PurePosixPath) -> Self:
        return self._at(self._pure / other)

    def joinpath(self, *others: str | PurePosixPath) -> Self:
        """The path with *others* behind it; an absolute one begins anew."""
        return self._at(self._pure.joinpath(*others))

    def _at(self, pure: PurePosixPath) -> Self:
        return type(self)(self._container, pure)

    @property
    def parts(self) -> tuple[str, ...]:
        """The names in it, "/" first."""
        return self._pure.parts

    @property
    def anchor(self) -> str:
        """ "/": a path in a container is absolute."""
        return self._pure.anchor

    root = anchor

    def is_absolute(self) -> bool:
        """True."""
        return True

    @property
    def parent(self) -> Self:
        """The directory of it."""
        return self._at(self._pure.parent)

    @property
    def parents(self) -> tuple[Self, ...]:
        """All directories on the way to it, the nearest first."""
        return tuple(self._at(pure) for pure in self._pure.parents)

    @property
    def name(self) -> str:
        """The last name, "" of the root."""
        return self._pure.name

    @property
    def stem(self) -> str:
        """The last name without its suffix."""
        return self._pure.stem

    @property
    def suffix(self) -> str:
        """The end of the last name from its last dot on, "" if there is none."""
        return self._pure.suffix

    @property
    def suffixes(self) -> list[str]:
        """All suffixes of the last name."""
        return self._pure.suffixes

    def with_name(self, name: str) -> Self:
        """The path with another last name."""
        return self._at(self._pure.with_name(name))

    def with_stem(self, stem: str) -> Self:
        """The path with another last name but the same suffix."""
        return self._at(self._pure.with_stem(stem))

    def with_suffix(self, suffix: str) -> Self:
        """The path with another suffix."""
        return self._at(self._pure.with_suffix(suffix))

    def relative_to(self, other: str | PurePosixPath | PureContainerPath) -> PurePosixPath:
        """What is left of it from *other* on. Raises ValueError."""
        return self._pure.relative_to(pure(other))

    def is_relative_to(self, other: str | PurePosixPath | PureContainerPath) -> bool:
        """Whether it is *other* or below that."""
        return self._pure.is_relative_to(pure(other))

    def match(self, pattern: str) -> bool:
        """Whether its last names match *pattern*, as PurePath.match has it."""
        return self._pure.match(pattern)

    def __bytes__(self) -> bytes:
        return bytes(self._pure)

    def as_posix(self) -> str:
        """The path in the container, as text."""
        return str(self._pure)

    def __str__(self) -> str:
        return str(self._pure)

    def __repr__(self) -> str:
        try:
            name = self._container.name
        except (LaminaError, OSError):  # it is gone
            name = self._container.id[:12]
        return f"<{type(self).__name__} {name}:{self._pure}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PureContainerPath):
            return NotImplemented
        return (self._container.id, self._pure) == (other._container.id, other._pure)

    def __lt__(self, other: PureContainerPath) -> bool:
        return self._key < other._key if isinstance(other, PureContainerPath) else NotImplemented

    def __le__(self, other: PureContainerPath) -> bool:
        return self._key <= other._key if isinstance(other, PureContainerPath) else NotImplemented

    def __gt__(self, other: PureContainerPath) -> bool:
        return self._key > other._key if isinstance(other, PureContainerPath) else NotImplemented

    def __ge__(self, other: PureContainerPath) -> bool:
        return self._key >= other._key if isinstance(other, PureContainerPath) else NotImplemented

    @property
    def _key(self) -> tuple[str, PurePosixPath]:
        return self._container.id, self._pure

    def __hash__(self) -> int:
        return hash((self._container.id, self._pure))


def pure(path: str | PurePosixPath | PureContainerPath) -> PurePosixPath:
    """The path without its container."""
    return path._pure if isinstance(path, PureContainerPath) else PurePosixPath(path)
