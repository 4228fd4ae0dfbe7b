"""Frozen value classes for the rooms that a container start passes through.

`@value` gives what `@dataclass(frozen=True)` gives: a constructor from the annotations, equality, hash and
`repr`. It exists because importing `dataclasses` costs 12 ms, more than starting a container does.
`replace()` is the functional edit.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar, dataclass_transform

    T = TypeVar("T")

    @dataclass_transform(frozen_default=True)
    def value(cls: type[T]) -> type[T]: ...

else:

    def value(cls):
        """Turn *cls* into a frozen value whose fields are its annotations, in order."""
        inherited = getattr(cls.__base__, "__match_args__", ())
        names = inherited + tuple(n for n in cls.__annotations__ if n not in inherited)
        exactly = frozenset(names)
        defaults = {n: getattr(cls, n) for n in names if hasattr(cls, n)}

        def __init__(self, *args, **kwargs):
            fields = self.__dict__
            fields.update(defaults)
            fields.update(zip(names, args))  # noqa: B905  too many are found out below, for less
            fields.update(kwargs)
            if fields.keys() != exactly or len(args) > len(names):
                raise TypeError(_complaint(cls, names, defaults, args, kwargs))

        cls.__init__ = __init__
        cls.__match_args__ = names
        cls.__setattr__ = cls.__delattr__ = _frozen
        cls.__eq__ = _equal
        cls.__hash__ = _hash
        if cls.__repr__ is object.__repr__:
            cls.__repr__ = _repr
        return cls

    class Generic:
        """typing.Generic without its price: what is in the brackets matters to type checkers alone."""

        def __class_getitem__(cls, _):
            return cls


def _complaint(
    cls: type, names: tuple[str, ...], defaults: dict[str, Any], args: Any, kwargs: dict[str, Any]
) -> str:
    given = set(names[: len(args)]) | set(kwargs)
    missing = [n for n in names if n not in given and n not in defaults]
    unknown = [n for n in kwargs if n not in names]
    if len(args) > len(names):
        return f"{cls.__name__} takes {len(names)} values, {len(args)} were given"
    return f"{cls.__name__}: missing {missing}, unknown {unknown}"


def _frozen(self: object, *_: object) -> None:
    raise AttributeError(f"{type(self).__name__} is a frozen value; use lamina.values.replace()")


def _equal(self: Any, other: object) -> Any:
    return self.__dict__ == other.__dict__ if type(self) is type(other) else NotImplemented


def _hash(self: Any) -> int:
    fields = self.__dict__
    return hash((type(self), *[fields[n] for n in type(self).__match_args__]))


def _repr(self: Any) -> str:
    fields = ", ".join(f"{n}={getattr(self, n)!r}" for n in type(self).__match_args__)
    return f"{type(self).__name__}({fields})"


def replace(old: T, **changes: Any) -> T:
    """A copy of the value *old* with some fields changed."""
    return type(old)(**{**vars(old), **changes})
