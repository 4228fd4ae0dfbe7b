"""JSON without the json package, whose import takes longer than the mounts of a container.

Bytes that are not UTF-8 (a path, an argument) live in strings as Python's surrogate escapes do, and in the text as the
JSON escape of such a surrogate: `os.fsencode` of what was read gives the bytes back.
"""

from __future__ import annotations

import os

from lamina.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SPACE = " \t\n\r"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def encode(value: object) -> str:
    """*value* (dicts with string keys, lists, tuples, str, bytes, int, float, bool, None) as JSON text.

    Bytes are written as the string `os.fsdecode` makes of them. Raises TypeError for anything else.
    """
    kind = type(value)
    if kind is str:
        return _quote(value)  # type: ignore[arg-type]
    if kind is bytes:
        return _quote(os.fsdecode(value))  # type: ignore[arg-type]
    if value is None or kind is bool:
        return {None: "null", True: "true", False: "false"}[value]  # type: ignore[index]
    if isinstance(value, int):
        return int.__repr__(value)
    if kind is dict:
        return "{" + ",".join([_quote(k) + ":" + encode(v) for k, v in value.items()]) + "}"  # type: ignore[attr-defined]
    if kind is list or kind is tuple:
        return "[" + ",".join([encode(item) for item in value]) + "]"  # type: ignore[attr-defined]
    if kind is float and value - value == 0:  # type: ignore[operator]
        return float.__repr__(value)
    raise TypeError(f"a record cannot hold {value!r}")


def _quote(text: str) -> str:
    """A string as JSON. Most need no escape, and no module that knows them, which costs as much as it takes to write a
    record.
    """
    if (
        isinstance(text, str)
        and text.isascii()
        and text.isprintable()
        and '"' not in text
        and "\\" not in text
    ):
        return f'"{text}"'
    from _json import encode_basestring_ascii

    return encode_basestring_ascii(text)


class _Reading:
    """What the C scanner asks of json.JSONDecoder."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int = float, int
    memo: dict[str, str] = {}  # noqa: RUF012  the scanner has its own

    @staticmethod
    def parse_constant(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")


def decode(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object in *data*. Raises InvalidInput, naming *name* and the place, for anything else."""
    from _json import make_scanner

    try:
        text = data.removeprefix(_BYTE_ORDER_MARK).decode().strip(_SPACE)
        value, end = make_scanner(_Reading)(text, 0)  # type: ignore[arg-type]
    except RecursionError:
        raise InvalidInput(f"read {name}: not JSON: nested too deeply") from None
    except (StopIteration, SystemError, ValueError) as error:
        raise InvalidInput(f"read {name}: not JSON: {_complaint(data, error)}") from None
    if end != len(text):
        raise InvalidInput(f"read {name}: not JSON: more after the end of the document, at character {end}")
    if not isinstance(value, dict):
        raise InvalidInput(f"read {name}: not a JSON object")
    return value


def _complaint(data: bytes, error: Exception) -> str:
    """The json package's own words: without it the scanner cannot say what it dislikes."""
    from json import loads

    try:
        loads(data)
    except ValueError as said:
        return str(said)
    return str(error)
