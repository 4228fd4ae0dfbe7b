"""The functions of templates: Go's own, and those that docker adds (`json`, `join`, `upper`, ...)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from lamina.cli.durations import go
from lamina.cli.quoting import text_of_go
from lamina.errors import InvalidInput

_VERB = re.compile(r"%([-+ #0]*)(\d{1,3})?(?:\.(\d{1,3}))?(.)", re.DOTALL)


class Struct(dict[str, Any]):
    """A mapping that is a struct there, and prints as one: `{no 0}`."""


class Sparse(Struct):
    """One whose empty fields JSON leaves out, as Go's `omitempty` has it."""


class Duration(int):
    """Nanoseconds that print as a duration there: `1m30s`."""


def is_true(value: Any) -> bool:
    """Go's: everything but false, 0, nil, and what is empty."""
    return bool(value)


def show(value: Any) -> str:
    """As Go's fmt prints it with %v; nothing for nil."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Duration):
        return go(value)
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e21 else repr(value)
    if isinstance(value, Struct):
        return f"{{{' '.join(map(show, value.values()))}}}"
    if isinstance(value, Mapping):
        return f"map[{' '.join(f'{show(key)}:{show(value[key])}' for key in sorted(value))}]"
    if isinstance(value, (list, tuple)):
        return f"[{' '.join(map(show, value))}]"
    return str(value)


def _json(value: Any) -> str:
    return json.dumps(_written(value), ensure_ascii=False, default=str, separators=(",", ":"))


def _written(value: Any) -> Any:
    """*value* with what JSON says of it."""
    if isinstance(value, Sparse):
        return {key: _written(one) for key, one in value.items() if one}
    if isinstance(value, dict):
        return {key: _written(one) for key, one in value.items()}
    return [_written(one) for one in value] if isinstance(value, list) else value


def _index(value: Any, *keys: Any) -> Any:
    """What a mapping does not have is nothing; what a list does not have is an error."""
    for key in keys:
        if value is None:
            return None
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(key, bool) or not isinstance(key, int) or key < 0:
            raise TypeError(key)
        else:
            value = value[key]
    return value


def _slice(value: Any, *bounds: int) -> Any:
    if len(bounds) > 2 or any(isinstance(one, bool) or not 0 <= one <= len(value) for one in bounds):
        raise IndexError
    start, end = (*bounds, len(value))[:2] if len(bounds) else (0, len(value))
    if start > end:
        raise IndexError
    return value[start:end]


def _len(value: Any) -> int:
    return 0 if value is None else len(value.encode()) if isinstance(value, str) else len(value)


def _join(values: Any, between: str) -> str:
    if isinstance(values, (str, Mapping)):
        raise TypeError
    return between.join(map(show, values or ()))


def _split(text: str, between: str) -> list[str]:
    return text.split(between) if between else list(text)


def _truncate(text: str, length: int) -> str:
    return text[: max(0, length)]


def _pad(text: str, before: int, after: int) -> str:
    if not text:
        return text
    if max(before, after) > 10_000:
        raise ValueError
    return " " * before + text + " " * after


def _print(*values: Any) -> str:
    """A space between two of which neither is text."""
    out = ""
    for number, one in enumerate(values):
        if number and not isinstance(one, str) and not isinstance(values[number - 1], str):
            out += " "
        out += show(one)
    return out


def _println(*values: Any) -> str:
    return " ".join(map(show, values)) + "\n"


def _printf(form: str, *values: Any) -> str:
    left = list(values)

    def shown(match: re.Match[str]) -> str:
        flags, width, precision, verb = match.groups()
        if verb == "%" and match[0] == "%%":
            return "%"
        if verb not in "vsdqtxXfeg":
            raise InvalidInput(
                f"--format: printf {match[0]}: not supported", remedy="%s %v %d %q %t %x %f are"
            )
        if not left:
            raise InvalidInput(f"--format: printf {form!r}: there is nothing for {match[0]}")
        text = _shown(left.pop(0), verb, precision)
        if "+" in flags and verb in "dfeg" and not text.startswith("-"):
            text = "+" + text
        wide = int(width or 0)
        if "-" in flags:
            return text.ljust(wide)
        if "0" in flags and verb in "dxXfeg":
            sign = text[:1] if text[:1] in "+-" else ""
            return sign + text[len(sign) :].rjust(wide - len(sign), "0")
        return text.rjust(wide)

    out = _VERB.sub(shown, form)
    if left:
        raise InvalidInput(f"--format: printf {form!r}: there is nothing to take {show(left[0])[:40]!r}")
    return out


def _shown(value: Any, verb: str, precision: str | None) -> str:
    if verb in "feg":
        if isinstance(value, (bool, str)):
            _refuse(value, verb)
        number = float(value)
        found = f"{number:.{6 if precision is None and verb != 'g' else precision or 6}{verb}}"
        return found if verb != "g" or precision is not None else show(number)
    if verb == "d" or (verb in "xX" and not isinstance(value, str)):
        if isinstance(value, bool) or not isinstance(value, int):
            _refuse(value, verb)
        return f"{value:{verb}}"
    if verb in "xX":
        data: bytes = value.encode("utf-8", "surrogateescape")
        return data.hex().upper() if verb == "X" else data.hex()
    if verb == "t" and not isinstance(value, bool):
        _refuse(value, verb)
    if verb == "q":
        return text_of_go(show(value))
    text = show(value)
    return text if precision is None else text[: int(precision)]


def _refuse(value: Any, verb: str) -> NoReturn:
    raise InvalidInput(f"--format: printf %{verb} of {show(value)[:40]!r}: it is not of that kind")


def _same(one: Any, *others: Any) -> bool:
    if not others:
        raise TypeError
    return any(_equal(one, other) for other in others)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, (Mapping, list, tuple)) or isinstance(other, (Mapping, list, tuple)):
        raise TypeError("lists and mappings are not compared")
    if one is None or other is None:
        return one is other
    if isinstance(one, bool) != isinstance(other, bool) or isinstance(one, str) != isinstance(other, str):
        raise InvalidInput(f"--format: {show(one)[:40]!r} and {show(other)[:40]!r} are of different kinds")
    return bool(one == other)


def _less(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool) or isinstance(one, str) != isinstance(other, str):
        raise InvalidInput(f"--format: {show(one)[:40]!r} and {show(other)[:40]!r} cannot be compared")
    return bool(one < other)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": _json,
    "upper": lambda value: show(value).upper(),
    "lower": lambda value: show(value).lower(),
    "title": lambda value: re.sub(r"(?<!\w)\w", lambda match: match[0].upper(), show(value)),
    "join": _join,
    "split": _split,
    "truncate": _truncate,
    "pad": _pad,
    "len": _len,
    "index": _index,
    "slice": _slice,
    "print": _print,
    "println": _println,
    "printf": _printf,
    "not": lambda value: not is_true(value),
    "eq": _same,
    "ne": lambda one, other: not _equal(one, other),
    "lt": _less,
    "le": lambda one, other: _less(one, other) or _equal(one, other),
    "gt": lambda one, other: not _less(one, other) and not _equal(one, other),
    "ge": lambda one, other: not _less(one, other),
}
# while the headings of a table are made, a field's heading stands for its value
OF_HEADINGS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("json", "upper", "lower", "title", "join", "split", "truncate", "pad", "index", "slice"),
                    lambda heading, *_: heading),
    **dict.fromkeys(("len", "not", "eq", "ne", "lt", "le", "gt", "ge"), lambda heading, *_: heading),
    "print": _print,
    "println": _println,
    "printf": lambda form, *values: re.sub(r"%[-+ #0]*\d*(\.\d+)?[a-zA-Z]", "%s", form) % values,
}  # fmt: skip
