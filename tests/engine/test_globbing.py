"""Patterns, compared with those of pathlib on a real directory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.engine.globbing import globbed

NAMES = ("a", "b", "ab", ".a", "a.b", "[a]")
PATTERNS = (*NAMES, "*", "?", "a*", "*.b", "[ab]", "[!a]", ".*", "**")


class Listed:
    """A directory of this machine."""

    def __init__(self, top: Path) -> None:
        self.top = top

    def scan(self, parts: tuple[str, ...]) -> Sequence[tuple[str, str]]:
        try:
            with os.scandir(self.top.joinpath(*parts)) as found:
                return [
                    (e.name, "l" if e.is_symlink() else "d" if e.is_dir(follow_symlinks=False) else "")
                    for e in found
                ]
        except OSError:
            return ()

    def exists(self, parts: tuple[str, ...]) -> bool:
        return self.top.joinpath(*parts).exists()


paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3)
patterns = st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3).filter(lambda p: p[-1] != "**")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(paths, st.sampled_from(["file", "directory", "link"])), max_size=8), patterns)
def test_as_pathlib_has_it(made: list[tuple[list[str], str]], pattern: list[str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        top = Path(place)
        for parts, kind in made:
            path = top.joinpath(*parts)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind == "directory":
                    path.mkdir()
                elif kind == "link":
                    path.symlink_to("a")
                else:
                    path.touch()
            except OSError:
                continue
        expected = {str(path.relative_to(top)) for path in top.glob("/".join(pattern))}
        found = ["/".join(parts) for parts in globbed(Listed(top), tuple(pattern))]
        # of links that lead nowhere, Python 3.12 and 3.13 each give others than 3.11
        nowhere = {path for path in {*found, *expected} if not (top / path).exists()}
        assert sorted(path for path in found if path not in nowhere) == sorted(expected - nowhere)


def test_directories_may_be_of_any_depth() -> None:
    """Deeper than Python calls functions."""

    class Deep(Listed):
        def scan(self, parts: tuple[str, ...]) -> Sequence[tuple[str, str]]:
            return [("d", "d"), ("f", "")] if len(parts) < 1500 else []

    found = list(globbed(Deep(Path("/nowhere")), ("**", "f*")))
    assert [len(parts) for parts in found] == list(range(1, 1501))
