"""JSON from outside: bounded, unambiguous, typed.

A document is refused where two readers could see two things in it: twice the same name in one object, text that is no
Unicode, numbers that are none. Its size and the counts in it have limits, which `Limits` names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, TypeVar

import msgspec

from lamina.errors import InvalidInput
from lamina.values import value

__all__ = ["DEFAULT_LIMITS", "Limits", "check_layers", "read_json"]

T = TypeVar("T")
MOST_NESTED = 500


@value
class Limits:
    """How large what describes an image may be. Each is named in the error that refuses what is larger."""

    document: int = (
        4 << 20
    )  # bytes of a manifest, an index or a config; registries take no more (distribution)
    manifests: int = 500  # entries of an index
    layers: int = (
        5000  # more than overlayfs stacks: what starts on them has them made fewer (engine/shallow.py)
    )
    history: int = 5000  # entries of a config's history
    volumes: int = 500  # of a config: each becomes a mount
    nested: int = 2  # indexes within indexes


DEFAULT_LIMITS = Limits()


def check_layers(names: Sequence[str], what: str, limits: Limits = DEFAULT_LIMITS) -> None:
    """Refuse an image of more layers than are believed in, by what names them: before anything of it is fetched.

    Raises InvalidInput.
    """
    if len(names) > limits.layers:
        raise InvalidInput(
            f"read {what}: an image of {len(names)} layers, at most {limits.layers} are allowed",
            remedy="build it with fewer: 'podman build --squash-all', or several commands in one RUN",
        )


def read_json(data: bytes, kind: type[T], what: str, limits: Limits = DEFAULT_LIMITS) -> T:
    """*data* as a *kind*; *what* is its name in errors ("manifest of debian:12"). Raises InvalidInput."""
    if len(data) > limits.document:
        raise InvalidInput(f"read {what}: {len(data)} bytes, at most {limits.document} are allowed")
    try:
        read: T = msgspec.json.decode(data, type=kind)
        _refuse_ambiguous(data)
    except RecursionError:
        raise InvalidInput(f"read {what}: nested too deeply") from None
    except msgspec.ValidationError as error:
        raise InvalidInput(f"read {what}: {_worded(error)}") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise InvalidInput(f"read {what}: not JSON: {_worded(error)}{_looks_like(data)}") from None
    return read


def _refuse_ambiguous(data: bytes) -> None:
    """Raise ValueError if an object has a name twice: readers differ in which of them counts; RecursionError if it is
    nested deeper than MOST_NESTED: how deep Python itself reads differs from one to the next.
    """
    level = [json.loads(data, object_pairs_hook=_object, parse_constant=_no_number)]
    for _ in range(MOST_NESTED):
        if not level:
            return
        level = [part for one in level for part in _parts(one)]
    if level:
        raise RecursionError


def _parts(one: object) -> Iterable[object]:
    return one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice[:100]!r} is there twice in one object")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON's")


def _worded(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if text[1:2].islower():
        text = text[:1].lower() + text[1:]
    return text[:400]


def _looks_like(data: bytes) -> str:
    start = data.lstrip()[:200].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<")):
        return " (it looks like a web page: a proxy, or not a registry at all)"
    return " (it is empty)" if not start else ""
