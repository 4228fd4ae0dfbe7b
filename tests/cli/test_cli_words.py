"""Names, times, templates and listings as they are shown."""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.cli import durations, output, when
from lamina.cli.listing import Listing
from lamina.cli.quoting import join, quote
from lamina.cli.reviewing import summary
from lamina.cli.style import Style
from lamina.cli.template import Template, check
from lamina.errors import InvalidInput
from lamina.values import replace, value


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"/etc/motd", "/etc/motd"),
        (b"/a b", "'/a b'"),
        (b"", "''"),
        (b"it's", "$'it\\'s'"),
        (b"/a\nb\t\x1b[31m", "$'/a\\nb\\t\\e[31m'"),
        (b"/\xff", "$'/\\xff'"),
        ("/größe".encode(), "/größe"),
        ("/a\u202eb".encode(), "$'/a\\xe2\\x80\\xaeb'"),
        (b"a*b", "'a*b'"),
        (b"~root", "'~root'"),
        (b"-rf", "-rf"),
    ],
)
def test_odd_names_are_quoted(name: bytes, shown: str) -> None:
    assert quote(name) == shown


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_a_quoted_name_is_one_printable_word(name: bytes) -> None:
    shown = quote(name)
    assert shown.isprintable()
    if shown[0] != "$":
        assert shlex.split(shown) == [os.fsdecode(name)]


def test_a_shell_reads_a_quoted_name_as_it_was() -> None:
    names = [bytes([byte]) + b"f'\\x" for byte in range(1, 256) if byte != 47]
    script = "".join(f"printf '%s\\0' {quote(name)}\n" for name in names)
    printed = subprocess.run(["bash"], input=script.encode(), capture_output=True, check=True).stdout
    assert printed.split(b"\0")[:-1] == names


def test_a_command_can_be_pasted() -> None:
    assert join(["sh", "-c", "echo hi; ls"]) == "sh -c 'echo hi; ls'"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (61, "About a minute"),
        (600, "10 minutes"),
        (3700, "About an hour"),
        (7200, "2 hours"),
        (90_000, "25 hours"),
        (172_800, "2 days"),
        (6e7, "23 months"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert durations.lasting(seconds) == said


def test_moments() -> None:
    assert when.moment("1714564800.5") == 1714564800.5
    assert when.moment("2024-05-01T12:00:00Z") == 1714564800
    assert when.moment("1h30m") == pytest.approx(when.moment("90m"), abs=60)
    assert when.timestamp(1714564800.25) == "2024-05-01T12:00:00.250000Z"
    for text in (
        "",
        "tomorrow",
        "10x",
        "m",
        "99999999999999h",
        "9" * 20,
        "-" + "9" * 400,
        "0001-01-01T00:00:00",
    ):
        with pytest.raises(ValueError, match="not a time"):
            when.moment(text)


RECORD = {"Names": "a", "ExitCode": 3, "State": {"Running": True}, "Labels": ["x", "y"], "None": None}


@pytest.mark.parametrize(
    ("template", "line"),
    [
        ("{{.Names}}", "a"),
        ("{{ .Names }}={{.ExitCode}}", "a=3"),
        ("{{.State.Running}}", "true"),
        ("{{json .State}}", '{"Running":true}'),
        (r"{{.Names}}\t{{.None}}|", "a\t|"),
        ('{{join .Labels ","}}', "x,y"),
        ("{{upper .Names}} {{len .Labels}}", "A 2"),
        ('{{index .Labels 1}}{{index .State "Running"}}{{index .State "None"}}{{index .None 0}}', "ytrue"),
    ],
)
def test_templates(template: str, line: str) -> None:
    assert Template(check(template)).render(RECORD) == line


def test_an_unknown_field_names_the_known() -> None:
    with pytest.raises(InvalidInput, match=r"no field \.Nmae.*\.Names, \.ExitCode"):
        Template("{{.Nmae}}").render(RECORD)


@value
class Node:
    type: str = "file"
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    target: bytes | None = None
    rdev: int = 0
    nlink: int = 1


@value
class Difference:  # as lamina.engine.apply.values.HostChange
    path: bytes
    kind: str
    what: frozenset[str] = frozenset()
    before: Any = None
    after: Any = None
    implied: bool = False
    link_to: bytes | None = None
    incidental: bool = False
    capabilities: bool = False
    gives: tuple[str, ...] = ()


FILE, DIRECTORY = Node(size=1234), Node(type="directory", mode=0o755)
CHANGES: list[Any] = [
    Difference(b"/etc", "changed", frozenset({"times"}), DIRECTORY, DIRECTORY, incidental=True),
    Difference(b"/etc/link", "added", after=Node(type="symlink", target=b"a b")),
    Difference(b"/etc/mode", "changed", frozenset({"mode"}), FILE, replace(FILE, mode=0o600)),
    Difference(b"/etc/motd", "changed", frozenset({"content", "times"}), FILE, replace(FILE, size=12)),
    Difference(b"/etc/new", "added", after=FILE),
    Difference(b"/etc/same", "added", after=FILE, link_to=b"/etc/new"),
    Difference(b"/kind", "replaced", before=DIRECTORY, after=FILE),
    Difference(b"/kind/x", "deleted", before=FILE, implied=True),
    Difference(b"/usr", "deleted", before=DIRECTORY),
    Difference(b"/usr/a", "deleted", before=DIRECTORY, implied=True),
    Difference(b"/usr/a/b", "deleted", before=FILE, implied=True),
]


def test_a_line_a_change() -> None:
    assert list(Listing(CHANGES).lines(Style())) == [
        "A /etc/link  → 'a b'",
        "C /etc/mode  (mode 644 → 600)",
        "C /etc/motd",
        "A /etc/new",
        "A /etc/same  = /etc/new",
        "R /kind  (directory → file)  (and 1 below it deleted)",
        "D /usr/  (and 2 below it deleted)",
    ]


def test_nothing_is_left_out_of_the_full_listing() -> None:
    lines = list(Listing(CHANGES, full=True).lines(Style()))
    assert len(lines) == len(CHANGES) - 1
    assert "D /usr/a/b" in lines


def test_what_is_lost_comes_first() -> None:
    letters = [line[0] for line in Listing(CHANGES).by_kind(Style())]
    assert letters == ["D", "R", "C", "C", "A", "A", "A"]


def test_everything_is_counted() -> None:
    assert Listing(CHANGES).total(Style()) == "4 deleted, 1 replaced, 2 changed, 3 added (2.5 kB written)"
    assert Listing([]).total(Style()) == "nothing changed"


def added(path: str, node: Node = FILE, **more: Any) -> Any:
    return Difference(path.encode(), "added", after=node, **more)


CLONE: list[Any] = [
    Difference(b"/etc/motd", "changed", frozenset({"content"}), FILE, FILE),
    added("/srv/file"),
    added("/srv/project", DIRECTORY),
    *(added(f"/srv/project/{number}") for number in range(10)),
    added("/srv/project/bin", DIRECTORY),
    added("/srv/project/bin/su", replace(FILE, mode=0o4755), gives=("setuid: runs as uid 0",)),
    *(added(f"/srv/project/bin/{number}") for number in range(10)),
    added("/srv/project/pipe", Node(type="fifo")),
    added("/srv/project.log"),
]


def test_what_is_new_in_a_new_directory_is_counted_at_it_where_a_summary_would_be_long() -> None:
    assert summary(CLONE, "it", Style()) == [
        "A /srv/project/bin/su  (setuid: runs as uid 0)  +1.2 kB",
        "C /etc/motd  1.2 kB → 1.2 kB",
        "A /srv/file  +1.2 kB",
        "A /srv/project/  (and 21 below it)  +24.7 kB",
        "A /srv/project/pipe  (fifo)",
        "A /srv/project.log  +1.2 kB",
        "  every path: lamina diff --stat it",
        "1 changed, 26 added (29.6 kB written)",
    ]
    assert len(list(Listing(CLONE).lines(Style()))) == len(CLONE)
    # what fits is told as it is
    few = CLONE[:13]
    assert summary(few, "it", Style()) == [
        *(Listing(few).line(c, Style(), sizes=True) for c in few),
        Listing(few).total(Style()),
    ]


def test_what_is_cut_from_a_summary_is_counted() -> None:
    changes: list[Any] = [added(f"/srv/{number:02}") for number in range(30)]
    changes += [added("/srv/d", DIRECTORY), *(added(f"/srv/d/{number}") for number in range(5))]
    *_, cut, where, total = summary(changes, "it", Style())
    assert cut == "  and 16 more changed or added, in /srv (11), /srv/d (5)"
    assert where == "  every path: lamina diff --stat it"
    assert total.startswith("36 added")
    assert summary(changes, "", Style())[-2].startswith("  every path: -k instead of -n keeps it")


def test_a_directory_that_was_emptied_and_made_again_has_a_line() -> None:
    changes: list[Any] = [
        Difference(b"/a", "deleted", before=FILE),
        Difference(b"/etc", "changed", frozenset({"times"}), DIRECTORY, DIRECTORY, incidental=True),
        Difference(b"/etc/apt", "deleted", before=DIRECTORY, implied=True),
        Difference(b"/etc/apt/x", "deleted", before=FILE, implied=True),
        Difference(b"/etc/motd", "changed", frozenset({"content"}), FILE, FILE),
    ]
    listing = Listing(changes)
    assert [line.split("  ")[:2] for line in listing.by_kind(Style())] == [
        ["D /a", "-1.2 kB"],
        ["C /etc/", "(and 2 below it deleted)"],
        ["C /etc/motd", "1.2 kB → 1.2 kB"],
    ]
    assert listing.total(Style()).startswith("3 deleted, 1 changed")
    assert [listing.is_grave(change) for change in listing.ranked()] == [True, True, False]


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=6) | st.sampled_from(
    ["", "日本", "é"]
)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=5), st.booleans())
def test_columns_are_as_wide_as_a_terminal_shows_their_widest_cell(
    rows: list[tuple[str, str, str]], headed: bool
) -> None:
    headings = ["A", "BB", "CCC"] if headed else []
    written: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "text", lambda data, end="": written.append(data + end))
        patch.setattr(output, "is_coloured", lambda: False)
        output.columns(headings, rows)
    table = [*([tuple(headings)] if headed else []), *rows]
    widths = [max(map(output.width, column)) for column in zip(*table, strict=True)]
    lines = [
        "   ".join(
            cell + " " * (most - output.width(cell)) for cell, most in zip(row, widths, strict=True)
        ).rstrip()
        for row in table
    ]
    assert written == ["\n".join(lines) + ("\n" if lines else "")]


def test_json_lines_are_a_document_each(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    found: list[dict[str, Any]] = [{"a": "é\udcff"}, {"b": [1, None, b"c"]}, {}]
    output.records(found, "json", {})
    output.records([], "json", {})
    for one in found:
        output.json_line(one)
    out = capfdbinary.readouterr().out.splitlines()
    assert out == [b'{"a": "\xc3\xa9\\udcff"}', b'{"b": [1, null, "c"]}', b"{}"] * 2
