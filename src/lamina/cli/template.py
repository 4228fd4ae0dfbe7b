"""The part of Go's templates that docker users type into --format: `{{.Names}}`, `{{json .}}`, `table {{.ID}}`.

Fields are looked up in plain values; anything beyond fields, `json`, `index`, `upper`, `lower`, `join` and `len` is
refused with a message rather than guessed at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lamina.errors import InvalidInput

_PART = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\S+')
_ESCAPES = {"\\t": "\t", "\\n": "\n"}


def check(text: str) -> str:
    """*text* if it is `table`, `json` or a template; raises ValueError with the reason (a converter of options)."""
    if text in ("table", "json"):
        return text
    if "{{" not in text:
        raise ValueError("neither table, json nor a template such as '{{.Names}}'")
    try:
        Template(text)
    except InvalidInput as error:
        raise ValueError(error.message) from None
    return text


class Template:
    """A parsed template. `render` gives the line of one record; `headings` those of a `table` template."""

    def __init__(self, text: str) -> None:
        self.is_table = text.startswith("table ")
        body = text.removeprefix("table ") if self.is_table else text
        for typed, meant in _ESCAPES.items():
            body = body.replace(typed, meant)
        self.parts: list[str | list[str]] = []
        for number, piece in enumerate(_PART.split(body)):
            if "{{" in piece and not number % 2:
                raise InvalidInput(
                    f"--format: {piece[piece.index('{{') :]} is not closed", remedy="write {{.Names}}"
                )
            self.parts.append(_action(piece) if number % 2 else piece)

    def render(self, record: Mapping[str, Any]) -> str:
        """The record as the template says; raises InvalidInput for a field it does not have."""
        return "".join(part if isinstance(part, str) else _say(evaluate(part, record)) for part in self.parts)

    def headings(self) -> str:
        """The template with every field's name in its place, as docker heads such tables."""
        named = [part if isinstance(part, str) else _heading(part[-1]) for part in self.parts]
        return "".join(named)


def _action(inside: str) -> list[str]:
    words = _WORD.findall(inside.strip().strip("-"))
    known = len(words) == 1 or (words and words[0] in FUNCTIONS)
    if not known or not any(word.startswith(".") for word in words):
        raise InvalidInput(
            f"--format: {{{{{inside}}}}} is not understood",
            remedy="fields such as {{.Names}} and {{json .}} are; the whole record is --format json",
        )
    return words


def evaluate(words: Sequence[str], record: Mapping[str, Any]) -> Any:
    """The value of one action: a field, or a function of one."""
    if len(words) == 1:
        return field(words[0], record)
    arguments = [_argument(word, record) for word in words[1:]]
    try:
        return FUNCTIONS[words[0]](*arguments)
    except (TypeError, IndexError):
        raise InvalidInput(f"--format: {{{{{' '.join(words)}}}}}: wrong arguments for {words[0]}") from None


def _argument(word: str, record: Mapping[str, Any]) -> Any:
    return json.loads(word) if word[0] == '"' else int(word) if word.isdecimal() else field(word, record)


def _index(value: Any, *keys: Any) -> Any:
    """As in Go: what a mapping does not have is nothing; what a list does not have is an error."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None if value is None else value[key]
    return value


def field(path: str, record: Any) -> Any:
    """`.State.Status` in nested mappings; `.` is everything."""
    value = record
    for name in filter(None, path.split(".")):
        if not isinstance(value, Mapping) or name not in value:
            known = ", ".join(f".{key}" for key in value) if isinstance(value, Mapping) else "nothing"
            raise InvalidInput(f"--format: there is no field {path}", remedy=f"there is {known}")
        value = value[name]
    return value


def _say(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _heading(path: str) -> str:
    """`.RunningFor` is headed RUNNING FOR."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", path.rpartition(".")[2]).upper()


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": lambda value: json.dumps(value, ensure_ascii=False, default=str),
    "upper": lambda value: _say(value).upper(),
    "lower": lambda value: _say(value).lower(),
    "join": lambda values, between: between.join(map(_say, values)),
    "len": lambda value: len(value),
    "index": _index,
}
