"""Which of a container's changes are meant: paths, globs, exclusions, and what has to come with them.

Pure: nothing here touches a file. A pattern is an absolute path as `lamina diff` shows it. It selects what is there and
everything below. Within a name `*`, `?` and `[...]` (`[!...]`) match as in a shell, but also a leading dot; `**` as a
whole name matches any number of directories; a backslash takes the next character as it is. A pattern that is,
character by character, the path of a change or of a directory above one is that path, whatever characters it has.
"""

from __future__ import annotations

import os
import re

from lamina.engine.apply.values import HostChange
from lamina.errors import InvalidInput, NotFound
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    Matcher = Callable[[bytes], object]


@value
class Selection:
    """What to apply. `changes` in tree order (see `tree_order`); `parents` and `kept` as in `values.Applied`.

    `covers` says whether a path, changed or not, is selected.
    """

    changes: tuple[HostChange, ...]
    parents: tuple[bytes, ...]
    kept: tuple[bytes, ...]
    covers: Callable[[bytes], bool]


def tree_order(path: bytes) -> bytes:
    """A sorting key: parents first, and everything below a directory directly behind it."""
    return path.replace(b"/", b"\0")


def ancestors(path: bytes) -> list[bytes]:
    """The directories above an absolute path, nearest first, down to b"/"; none of b"/" itself."""
    found = []
    while len(path) > 1:
        path = path[: path.rindex(b"/")] or b"/"
        found.append(path)
    return found


def select(
    changes: Sequence[HostChange], paths: Iterable[str | bytes] = (), exclude: Iterable[str | bytes] = ()
) -> Selection:
    """Those of *changes* that *paths* select (all if there are none) and *exclude* does not, and what must come along.

    Raises NotFound (naming a pattern that matches no change), InvalidInput (a pattern that is no absolute path; a
    selection that cannot be made without something that was not selected).
    """
    ordered = sorted(changes, key=lambda c: tree_order(c.path))
    by_path = {c.path: c for c in ordered}
    known = {*by_path, *(above for path in by_path for above in ancestors(path))}
    wanted = _matchers(paths, by_path, known, "select")
    unwanted = _matchers(exclude, by_path, known, "exclude")

    def covers(path: bytes) -> bool:
        return (not wanted or any(m(path) for m in wanted)) and not any(m(path) for m in unwanted)

    chosen = {path for path in by_path if covers(path)}
    if ordered and not chosen:
        raise NotFound("select changes: --exclude leaves none of them", remedy="exclude less")
    _check_replaced(by_path, chosen)
    parents = _parents(by_path, chosen)
    kept = _kept(by_path, chosen)
    chosen = (chosen | parents) - kept
    return Selection(
        changes=tuple(c for c in ordered if c.path in chosen),
        parents=tuple(sorted(parents)),
        kept=tuple(sorted(kept)),
        covers=covers,
    )


def _matchers(
    patterns: Iterable[str | bytes], changed: Iterable[bytes], known: set[bytes], verb: str
) -> list[Matcher]:
    matchers = []
    for pattern in patterns:
        matches = matcher(pattern, known)
        if not any(map(matches, changed)):
            raise NotFound(
                f"{verb} {os.fsdecode(pattern)}: the container changed nothing there",
                remedy="'lamina diff' lists the changes; quote patterns so that the shell leaves them alone",
            )
        matchers.append(matches)
    return matchers


def matcher(pattern: str | bytes, literally: Collection[bytes] = ()) -> Matcher:
    """A function that says whether *pattern* selects a path. Raises InvalidInput unless it is an absolute path."""
    shown, plain = os.fsdecode(pattern), os.fsencode(pattern)
    if not plain.startswith(b"/") or b"\0" in plain:
        raise InvalidInput(
            f"select {shown!r}: not an absolute path", remedy="paths are absolute, as in the container"
        )
    names = [name for name in plain.split(b"/") if name not in (b"", b".")]
    if b".." in names:
        raise InvalidInput(
            f"select {shown!r}: '..' has no meaning here", remedy="write the path without '..'"
        )
    exact = b"/" + b"/".join(names)
    if exact in literally:
        expression = re.escape(exact.rstrip(b"/"))
    else:
        expression = b"".join(_translated(name, last=at == len(names)) for at, name in enumerate(names, 1))
    try:
        return re.compile(expression + rb"(?:/.*)?", re.DOTALL).fullmatch
    except re.error as error:
        raise InvalidInput(f"select {shown!r}: {error.msg}") from None


def _translated(name: bytes, *, last: bool) -> bytes:
    """One name of a pattern, with the slash before it, as a regular expression."""
    if name == b"**":
        return rb"/.+" if last else rb"(?:/[^/]+)*"
    expression, at = b"/", 0
    while at < len(name):
        char = name[at : at + 1]
        at += 1
        if char == b"\\" and at < len(name):
            expression += re.escape(name[at : at + 1])
            at += 1
        elif char == b"*":
            expression += rb"[^/]*"
        elif char == b"?":
            expression += rb"[^/]"
        elif char == b"[" and (end := name.find(b"]", at + 1 + (name[at : at + 1] in (b"!", b"^")))) > 0:
            inside = name[at:end]
            negated = inside[:1] in (b"!", b"^")
            inside = re.sub(rb"([\\\[\]^&~|]|--)", rb"\\\1", inside[negated:])
            expression += b"(?!/)[" + b"^" * negated + inside + b"]"
            at = end + 1
        else:
            expression += re.escape(char)
    return expression


def _check_replaced(by_path: dict[bytes, HostChange], chosen: set[bytes]) -> None:
    """A directory cannot make way for a file while something in it stays, nor the other way round."""
    for path, change in by_path.items():
        for above in ancestors(path):
            top = by_path.get(above)
            if top is None or top.kind != "replaced":
                continue
            stays, goes = (path, above) if change.kind == "deleted" else (above, path)
            if goes in chosen and stays not in chosen:
                raise InvalidInput(
                    f"select {os.fsdecode(goes)}: not possible without {os.fsdecode(stays)}, "
                    f"because {os.fsdecode(above)} becomes another type of file",
                    remedy=f"select or exclude all of {os.fsdecode(above)}",
                )


def _parents(by_path: dict[bytes, HostChange], chosen: set[bytes]) -> set[bytes]:
    """Added directories that are needed for something chosen in them."""
    return {
        above
        for path in chosen
        if by_path[path].kind != "deleted"
        for above in ancestors(path)
        if above not in chosen and above in by_path and by_path[above].kind == "added"
    }


def _kept(by_path: dict[bytes, HostChange], chosen: set[bytes]) -> set[bytes]:
    """Chosen deletions of directories in which something was not chosen."""
    return {
        above
        for path, change in by_path.items()
        if path not in chosen and change.kind == "deleted"
        for above in ancestors(path)
        if above in chosen and by_path[above].kind == "deleted"
    }
