"""Standard output: text, JSON and tables, safe whatever the names in them consist of."""

from __future__ import annotations

import errno
import os
import sys

from lamina.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from rich.console import Console


def is_terminal(descriptor: int = 1) -> bool:
    """Whether there is a terminal to draw on (one that can move its cursor)."""
    try:
        return os.isatty(descriptor) and os.environ.get("TERM", "dumb") != "dumb"
    except OSError:
        return False


def is_coloured(descriptor: int = 1) -> bool:
    """Whether to use colours there (https://no-color.org)."""
    return is_terminal(descriptor) and not os.environ.get("NO_COLOR")


def console(descriptor: int = 1) -> Console:
    """rich's console on a terminal: plain where no colours are wanted (rich itself would leave bold type)."""
    from rich.console import Console

    plain = not is_coloured(descriptor)
    return Console(stderr=descriptor == 2, highlight=False, color_system=None if plain else "auto")


def write(data: bytes) -> None:
    """Write to standard output, now. Raises BrokenPipeError when the reader has left, KernelError."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise KernelError("write", error.errno or errno.EIO, "standard output") from None


def text(data: str, end: str = "") -> None:
    """Write text in UTF-8; lone bytes come out as they were."""
    write((data + end).encode("utf-8", "surrogateescape"))


def line(data: str = "") -> None:
    """Write a line."""
    text(data, "\n")


def lines(all_of_them: Iterable[str]) -> None:
    """Write lines as they come, some hundreds at a time: a patch may be longer than the memory."""
    from itertools import islice

    source = iter(all_of_them)
    while piece := list(islice(source, 512)):
        text("\n".join(piece), "\n")


def json_document(document: Any) -> None:
    """Write JSON, for reading and for programs.

    A byte that is not UTF-8 is written as the escape of a lone surrogate (`\\udc80` to `\\udcff`), which Python's
    `json.loads` and `os.fsencode` turn back into the byte.
    """
    import json

    body = json.dumps(document, indent=2, ensure_ascii=False, default=plain)
    write(body.encode("utf-8", "backslashreplace") + b"\n")


def plain(thing: Any) -> Any:
    """What JSON has no word for: bytes as text, sets as sorted lists, values by their fields."""
    if isinstance(thing, bytes):
        return os.fsdecode(thing)
    if isinstance(thing, (set, frozenset)):
        return sorted(thing)
    if isinstance(thing, os.PathLike):
        return os.fsdecode(thing)
    if hasattr(thing, "__dict__"):
        return vars(thing)
    return str(thing)


def columns(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table in aligned columns, the last one ragged; wide characters are counted as a terminal shows them."""
    table = [headings, *rows] if headings else [*rows]
    filled = [_filled(column) for column in zip(*table, strict=True)]
    out = [line.rstrip() for line in map("   ".join, zip(*filled, strict=True))]
    if headings and is_coloured():
        out[0] = f"\033[1m{out[0]}\033[0m"
    text("\n".join(out), "\n" if out else "")


def _filled(column: Sequence[str]) -> list[str]:
    """Its cells, each as wide as the widest of them."""
    if all(map(str.isascii, column)):
        most = max(map(len, column))
        return [cell.ljust(most) for cell in column]
    most = max(map(width, column))
    return [padded(cell, most) for cell in column]


def padded(cell: str, columns: int) -> str:
    """*cell* and as many spaces as it takes to fill so many *columns* of a terminal."""
    return cell.ljust(columns) if cell.isascii() else cell + " " * (columns - width(cell))


def width(cell: str) -> int:
    """How many columns of a terminal *cell* takes."""
    if cell.isascii():
        return len(cell)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in cell)


def json_line(document: Any) -> None:
    """Write JSON on one line: one record of a stream."""
    json_lines((document,))


def json_lines(documents: Iterable[Any]) -> None:
    """Write JSON, a line each."""
    from json import JSONEncoder

    encode = JSONEncoder(ensure_ascii=False, default=plain).encode
    body = "".join([f"{encode(one)}\n" for one in documents])
    if body:
        write(body.encode("utf-8", "backslashreplace"))


def records(found: Sequence[dict[str, Any]], form: str, headings: Mapping[str, str]) -> None:
    """Write records as `--format` says: a table of the fields that have a heading, JSON lines, or by a template."""
    if form == "table":
        columns([*headings.values()], [[one[key] for key in headings] for one in found])
    elif form == "json":
        json_lines(found)
    else:
        templated(form, found, headings)


def templated(
    template: str, found: Sequence[dict[str, Any]], headings: Mapping[str, str] | None = None
) -> None:
    """Write a line a record as a `--format` template says; `table ...` aligns them under *headings*, or the names."""
    from lamina.cli.template import Template

    parsed = Template(template)
    lines = [parsed.render(record) for record in found]
    if parsed.is_table:
        columns(parsed.headings(headings).split("\t"), [shown.split("\t") for shown in lines])
    else:
        text("".join(f"{shown}\n" for shown in lines))
