"""Pictures of stacks: well-formed, with everything escaped that a layer may be called, and nothing that runs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lamina.cli.graph import BASE, Node, draw
from lamina.engine.explaining import ENTRIES, instruction, look
from lamina.engine.provenance import IMAGE, Maker, Provenance
from lamina.engine.whiteboard import fitted, shown
from lamina.overlay.layer import USER
from lamina.overlay.spec import MountSpec
from support.grow import WHITEOUT, grow, opaque

HOSTILE = (
    "<script>alert(1)</script>", '"><svg onload=x>', "a\u202eb", "\x1b[2J", "new\nline", "caf\udce9", "&amp;", "]]>",
    "漢字" * 40,
)  # fmt: skip
SVG = "{http://www.w3.org/2000/svg}"


def pictured(place: Path, path: bytes, *layers: dict[str, object], said: str = "RUN make") -> Provenance:
    lowers = tuple(bytes(grow(place / str(number), layer, USER)) for number, layer in enumerate(layers))
    spec = MountSpec(lowers[1:], lowers[0], userxattr=True)
    found, sums, entries, more = look(spec, path, True)
    makers = tuple(
        Maker(IMAGE, name=said, step=said, message=said, number=1, of=2, created=1.0) for _ in found.rows
    )
    return Provenance(said, b"/" + path, b"/", found, makers, sums, entries, more, said)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    entries: dict[str, object] = {name.replace("/", "∕"): "1" for name in HOSTILE}
    for number, said in enumerate(HOSTILE):
        place = tmp_path / str(number)
        found = pictured(place, b"", {"d": {}}, {"d": opaque(x="1"), **entries}, said=said)
        for text in (found.svg(), found.html()):
            assert not re.search(r"[\x00-\x09\x0b-\x1f\u202a-\u202e\ud800-\udfff]", text)
            assert "<script" not in text
            text.encode("utf-8")
        root = ElementTree.fromstring(found.svg())
        tags = {element.tag.removeprefix(SVG) for element in root.iter()}
        assert tags <= {"svg", "title", "desc", "style", "rect", "text", "path", "g"}
        for element in root.iter():
            assert not [name for name in element.attrib if name.startswith("on") or "href" in name]
        page = found.html()
        assert "default-src 'none'" in page
        assert not re.search(r"(?:src|href)=|url\(|@import", page)


def test_what_the_picture_says(tmp_path: Path) -> None:
    found = pictured(
        tmp_path, b"etc",
        {"etc": {"motd": "new", "gone": WHITEOUT}},
        {"etc": {"motd": "old", "only": "1"}},
        {},
        {},
        {"etc": {"gone": "1", "motd": "oldest"}},
    )  # fmt: skip
    root = ElementTree.fromstring(found.svg())
    words = [element.text for element in root.iter(f"{SVG}text")]
    assert {"merged", "motd", "gone", "only", "⋯ 2 layers that have nothing of it"} <= set(words)
    assert words.count("motd") == 4  # merged, and three layers
    described = root.find(f"{SVG}desc")
    assert described is not None
    assert described.text is not None
    assert "gone: whiteout in" in described.text
    assert root.get("role") == "img"
    share = found.share(4)
    assert share is not None
    assert (share.shown, share.hidden, share.hidden_bytes, share.deletes) == (0, 2, 7, 0)
    assert found.share(0) is not None
    assert found.share(0).deletes == 1  # type: ignore[union-attr]
    assert found.copy_up == 1


def test_many_entries_and_layers_stay_a_picture(tmp_path: Path) -> None:
    names: dict[str, object] = {f"n{number}": "1" for number in range(60)}
    between: list[dict[str, object]] = [{f"n{n}": "2"} for n in range(50)]
    found = pictured(tmp_path, b"", {"changed": "1"}, *between, names)
    assert len(found.entries) == ENTRIES
    assert found.more == 61 - ENTRIES
    root = ElementTree.fromstring(found.svg())
    assert int(root.get("height", "0")) < 5000
    assert any("more" in (element.text or "") for element in root.iter(f"{SVG}text"))


@pytest.mark.parametrize(
    ("created_by", "said"),
    [
        ('/bin/sh -c #(nop)  CMD ["sh"]', 'CMD ["sh"]'),
        ("/bin/sh -c apt-get update", "RUN apt-get update"),
        ("RUN /bin/sh -c make # buildkit", "RUN /bin/sh -c make"),
        ("", ""),
    ],
)
def test_instructions(created_by: str, said: str) -> None:
    assert instruction(created_by) == said


def test_names_are_cut_in_the_middle() -> None:
    assert fitted("short", 100, 12, 0.6) == "short"
    assert fitted("a" * 30 + "b" * 30, 72, 12, 0.6) == "aaaaa…bbbb"
    assert shown(os.fsencode("é\udcff\u202e")) == "é\\xff\\u202e"


def drawn(*nodes: tuple[str, str]) -> list[str]:
    return [rails for rails, _ in draw([Node(name, parent, "●", name) for name, parent in nodes], "base")]


def test_rails() -> None:
    assert drawn() == ["┴"]
    assert drawn(("c", "b"), ("b", "a"), ("a", BASE)) == ["●", "●", "●", "┴"]
    assert drawn(("d", "a"), ("c", "a"), ("b", "a"), ("a", BASE)) == ["●", "│ ●", "│ │ ●", "├─┴─╯", "●", "┴"]
    # two that began with the image, one of them with a branch of its own that is between them
    assert drawn(("e", "c"), ("d", "a"), ("b", "c"), ("c", BASE), ("a", BASE)) == [
        "●", "│ ●", "│ │ ●", "├─┼─╯", "● │", "│ ●", "├─╯", "┴",
    ]  # fmt: skip
