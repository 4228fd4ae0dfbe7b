"""Patterns of pathlib over directories that somebody else lists."""

from __future__ import annotations

import re
from fnmatch import translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Protocol

    class Scanner(Protocol):
        """Where the names come from; paths are relative, as tuples of names."""

        def scan(self, parts: tuple[str, ...]) -> Sequence[tuple[str, str]]:
            """Names and kinds ("d", "l" for symbolic links, "") in a directory; nothing where there is none."""

        def exists(self, parts: tuple[str, ...]) -> bool:
            """Whether anything is there."""


_MAGIC = re.compile(r"[*?[]")


def globbed(scanner: Scanner, pattern: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Each path that matches, once. Links to directories are followed, but not by `**`."""
    seen: set[tuple[str, ...]] = set()
    for found in _below(scanner, (), pattern):
        if found not in seen:
            seen.add(found)
            yield found


def _below(scanner: Scanner, at: tuple[str, ...], pattern: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if not pattern:
        yield at
        return
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        for directory in _directories(scanner, at):
            yield from _below(scanner, directory, rest)
        return
    if not _MAGIC.search(first):
        if rest or scanner.exists((*at, first)):
            yield from _below(scanner, (*at, first), rest)
        return
    matches = re.compile(translate(first)).match
    for name, kind in scanner.scan(at):
        # what is below a name is looked for where it can be a directory
        if matches(name) and (not rest or kind in ("d", "l")):
            yield from _below(scanner, (*at, name), rest)


def _directories(scanner: Scanner, at: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """*at* and all directories below it, each before those in it. As deep as a container likes: no recursion."""
    waiting = [at]
    while waiting:
        directory = waiting.pop()
        yield directory
        below = [(*directory, name) for name, kind in scanner.scan(directory) if kind == "d"]
        waiting += reversed(below)
