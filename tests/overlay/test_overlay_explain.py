"""Which layer a path comes from and why, for every reason there is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lamina.errors import KernelError
from lamina.overlay.explain import Explanation, explain
from lamina.overlay.layer import TRUSTED
from lamina.overlay.layer import USER as USER_MARKS
from lamina.overlay.spec import MountSpec
from support.grow import WHITEOUT, XWHITEOUT, Metacopy, To, grow, moved, opaque

FOLLOW = (("redirect_dir", "on"), ("metacopy", "on"))


def ask(
    place: Path, path: str, *layers: object, user: bool = True, data: int = 0, options: object = FOLLOW
) -> Explanation:
    marks = USER_MARKS if user else TRUSTED
    paths = [bytes(grow(place / f"layer{n}", layer, marks)) for n, layer in enumerate(layers)]  # type: ignore[arg-type]
    lowers = paths[1:]
    spec = MountSpec(
        tuple(lowers[: len(lowers) - data]), paths[0], datadirs=tuple(lowers[len(lowers) - data :]), userxattr=user,
        options=() if user else options,  # type: ignore[arg-type]
    )  # fmt: skip
    return explain(spec, path)


def rows(found: Explanation) -> list[tuple[object, ...]]:
    return [(row.layer, os.fsdecode(row.path), row.answer, row.part, row.hidden_by) for row in found.rows]


def test_a_file_hides_those_below(tmp_path: Path) -> None:
    found = ask(tmp_path, "a", {}, {"a": "1"}, {"a": "2"})
    assert rows(found) == [
        (0, "a", "absent", "", None),
        (1, "a", "file", "wins", None),
        (2, "a", "file", "hidden", 1),
    ]
    assert (found.exists, found.type, found.winner) == (True, "file", 1)
    assert found.rows[2].why == "layer 1 has a file at a"
    assert found.why == "layer 1's file wins"


def test_directories_merge(tmp_path: Path) -> None:
    found = ask(tmp_path, "/d/", {"d": {}}, {"d": "a file"}, {"d": {}})
    assert rows(found) == [
        (0, "d", "directory", "wins", None),
        (1, "d", "file", "hidden", 0),
        (2, "d", "directory", "hidden", 1),
    ]
    found = ask(tmp_path / "2", "d", {"d": {}}, {}, {"d": {}})
    assert [row.part for row in found.rows] == ["wins", "", "merged"]
    assert found.why == "the upper's directory wins, merged with layer 2"


@pytest.mark.parametrize("whiteout", [WHITEOUT, XWHITEOUT])
def test_a_whiteout_deletes(tmp_path: Path, whiteout: object) -> None:
    found = ask(tmp_path, "a", {}, {"a": whiteout}, {"a": "2"})
    assert rows(found) == [
        (0, "a", "absent", "", None),
        (1, "a", "whiteout", "deletes", None),
        (2, "a", "file", "hidden", 1),
    ]
    assert not found.exists
    assert found.why == "deleted by layer 1"


def test_a_whiteout_of_a_directory_above_deletes_too(tmp_path: Path) -> None:
    found = ask(tmp_path, "d/e/f", {"d": WHITEOUT}, {"d": {"e": {"f": "1"}}}, {})
    assert rows(found) == [
        (0, "d", "whiteout", "deletes", None),
        (1, "d/e/f", "file", "hidden", 0),
        (2, "d/e/f", "absent", "", None),
    ]
    assert found.rows[1].why == "the upper has a whiteout at d"


def test_an_opaque_directory_above_hides(tmp_path: Path) -> None:
    found = ask(tmp_path, "d/f", {"d": opaque()}, {"d": {"f": "1"}})
    assert rows(found) == [(0, "d/f", "absent", "", None), (1, "d/f", "file", "hidden", 0)]
    assert found.why == "not there: the upper's d is opaque"
    found = ask(tmp_path / "2", "d", {"d": opaque()}, {"d": {}})
    assert found.rows[0].marks == ("opaque",)
    assert found.rows[1].hidden_by == 0


def test_a_file_where_a_directory_is_looked_for(tmp_path: Path) -> None:
    found = ask(tmp_path, "f/x", {"f": "a file"}, {"f": {"x": "1"}})
    assert rows(found) == [(0, "f", "file", "", None), (1, "f/x", "file", "hidden", 0)]
    assert found.why == "not there: the upper has a file at f"


@pytest.mark.root
def test_a_redirect_is_followed(tmp_path: Path) -> None:
    found = ask(
        tmp_path, "new/x", {"new": moved("/old")}, {"old": {"x": "1"}, "new": {"x": "hidden"}}, user=False
    )
    assert rows(found) == [(0, "new/x", "absent", "", None), (1, "old/x", "file", "wins", None)]
    found = ask(tmp_path / "2", "new", {"new": moved("/old")}, {"old": {"x": "1"}}, user=False)
    assert found.rows[0].redirect == b"/old"
    assert found.rows[0].marks == ("redirect",)
    assert found.rows[0].why == "goes on below as /old"


@pytest.mark.root
def test_a_metacopy_names_the_layer_of_its_content(tmp_path: Path) -> None:
    found = ask(tmp_path, "f", {"f": Metacopy(1)}, {}, {"f": "2"}, user=False)
    assert [row.part for row in found.rows] == ["wins", "", "content"]
    assert found.why == "the upper's file wins, with the content of layer 2"


@pytest.mark.root
def test_content_in_data_only_layers(tmp_path: Path) -> None:
    layers: tuple[object, ...] = (
        {},
        {"f": Metacopy(1, b"/o/1")},
        {},
        {},
        {"o": {"1": "x"}},
        {"o": {"1": "y"}},
    )
    found = ask(tmp_path, "f", *layers, user=False, data=3)
    assert [(row.role, row.part, row.hidden_by) for row in found.rows] == [
        ("upper", "", None),
        ("lower", "wins", None),
        ("lower", "", None),
        ("data", "", None),
        ("data", "content", None),
        ("data", "hidden", 4),
    ]
    assert "content of layer 4" in found.why


@pytest.mark.root
def test_what_a_mount_refuses_is_said(tmp_path: Path) -> None:
    found = ask(tmp_path, "f", {"f": Metacopy(1)}, {"f": "1"}, user=False, options=(("metacopy", "off"),))
    assert not found.exists
    assert found.why.startswith("a mount fails there: a metacopy")


def test_nothing_anywhere(tmp_path: Path) -> None:
    found = ask(tmp_path, "a/b", {}, {})
    assert (found.exists, found.type, found.winner, found.why) == (False, "absent", None, "in no layer")


def test_links_of_directories_are_followed_the_last_is_not(tmp_path: Path) -> None:
    layers = ({"d": {"f": "1", "l": To("f")}}, {"link": To("/d")})
    found = ask(tmp_path, "link/f", *layers)
    assert (found.path, found.resolved, found.winner) == (b"link/f", b"d/f", 0)
    found = ask(tmp_path / "2", "link/l", *layers)
    assert found.type == "symlink"
    assert found.rows[0].entry is not None
    assert found.rows[0].entry.target == b"f"


def test_the_root(tmp_path: Path) -> None:
    found = ask(tmp_path, "/", {}, {})
    assert [row.part for row in found.rows] == ["wins", "merged"]
    assert ask(tmp_path, "..", {}, {}).type == "directory"


def test_it_can_be_written_down(tmp_path: Path) -> None:
    found = ask(tmp_path, "odd\n\udcff", {"odd\n\udcff": "1"}, {"odd\n\udcff": "2"})
    written = json.loads(json.dumps(found.as_dict()))
    assert written["winner"] == 0
    assert written["layers"][0]["entry"]["size"] == 1
    assert written["layers"][1]["hidden_by"] == 0
    assert os.fsencode(written["path"]) == b"odd\n\xff"
    lines = str(found).splitlines()
    assert len(lines) == 3, "a newline in a name does not make a row"
    assert lines[1].startswith("upper ")
    assert lines[2].startswith("lower 1")


def test_a_missing_layer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="none"):
        explain(MountSpec((bytes(tmp_path / "none"),)), "a")
