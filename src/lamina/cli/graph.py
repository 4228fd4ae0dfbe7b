"""A tree of states drawn beside its list, the newest first: a rail for each branch, as `git log --graph` has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

BASE = ""  # what all begin with


class Node(NamedTuple):
    """A state: what it came from (BASE of those that came from no other), the sign that stands for it, its line."""

    id: str
    parent: str
    sign: str
    line: str


def draw(nodes: Iterable[Node], base: str) -> Iterator[tuple[str, str]]:
    """Rails and text, a pair for each line. *nodes*: children before what they came from. *base* is said at the end."""
    rails: list[str | None] = []  # of each column, which state it leads to; None: free
    for node in (*nodes, None):
        wanted = BASE if node is None else node.id
        columns = [column for column, leads_to in enumerate(rails) if leads_to == wanted]
        if not columns:
            columns = [_free(rails)]
        own = columns[0]
        if len(columns) > 1:
            yield _joined(rails, columns), ""
        for column in columns[1:]:
            rails[column] = None
        if node is None:
            yield "┴", base
            return
        rails[own] = node.parent
        signs = [node.sign if column == own else "│" if leads_to is not None else " "
                 for column, leads_to in enumerate(rails)]  # fmt: skip
        yield " ".join(signs).rstrip(), node.line
        while rails and rails[-1] is None:
            rails.pop()


def _free(rails: list[str | None]) -> int:
    for column, leads_to in enumerate(rails):
        if leads_to is None:
            return column
    rails.append(None)
    return len(rails) - 1


def _joined(rails: list[str | None], columns: list[int]) -> str:
    """The line on which several rails become the leftmost of them."""
    first, last = columns[0], columns[-1]
    out = []
    for column, leads_to in enumerate(rails):
        if column == first:
            sign = "├"
        elif column == last:
            sign = "╯"
        elif column in columns:
            sign = "┴"
        elif first < column < last:
            sign = "┼" if leads_to is not None else "─"
        else:
            sign = "│" if leads_to is not None else " "
        out.append(sign + ("─" if first <= column < last else " "))
    return "".join(out).rstrip()
