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
    # the json package's own, in C; who writes a record has read one, so it is there already
    from _json import encode_basestring_ascii, make_encoder

    write = make_encoder(None, _as_text, encode_basestring_ascii, None, ":", ",", False, False, False)
    try:
        return "".join(write(value, 0))
    except ValueError as error:  # an infinity
        raise TypeError(f"a record cannot hold {error}") from None


def _as_text(value: object) -> str:
    if isinstance(value, bytes):
        return os.fsdecode(value)
    raise TypeError(f"a record cannot hold {value!r}")


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
