"""What has to be seen before somebody says yes: a listing that leaves a privilege out has hidden it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from support.attacker import Attacker

# struct vfs_cap_data (linux/capability.h), revision 2: CAP_NET_RAW permitted and effective
GIVE = """
import os
import re, struct, sys
place = sys.argv[1]
def file(name, mode, content=b"x"):
    path = os.path.join(place, name)
    with open(path, "wb") as made:
        made.write(content)
    os.chmod(path, mode)
    return path
file("as-owner", 0o4755)
file("as-group", 0o2755)
file("as-group-but-not", 0o2644)  # mandatory locking, once
file("kept", 0o4711, b"changed")
file("opened", 0o666, b"changed as well")
os.setxattr(file("capable", 0o755), "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))
os.mkfifo(os.path.join(place, "fifo"))
os.mkdir(os.path.join(place, "a-decoys"))
for number in range(100):
    file(f"a-decoys/{number}", 0o644)
"""
HOSTILE = [
    b"\x1b[2J",
    b"line\nbreak",
    "\u202egpj.exe".encode(),
    b"\x9b31m",
    b"\xff",
    b"tab\t",
    b"\x7f",
    b"a\rb",
]


def lines(text: str) -> dict[str, str]:
    """The remark on each path, by the last part of it."""
    found = {}
    for line in text.splitlines():
        path, _, rest = line[2:].partition("  ")
        found[path.rstrip("/").rpartition("/")[2]] = rest
    return found


@pytest.fixture
def place(attacker: Attacker) -> Path:
    place = attacker.place / "place"
    place.mkdir()
    for name in ("kept", "opened"):
        (place / name).write_text("before")
        (place / name).chmod(0o644)
    if attacker.user is not None:
        attacker.user.give(place)
    return place


def owner(attacker: Attacker) -> int:
    return 0 if attacker.user is None else attacker.user.uid


def test_what_would_run_with_others_rights_is_said(attacker: Attacker, place: Path) -> None:
    done = attacker.lamina("run", "--name", "made", "host", "--", sys.executable, "-c", GIVE, place)
    assert done.returncode == 0, done.stdout
    uid = owner(attacker)
    for words in (("diff",), ("diff", "--stat"), ("apply", "--dry-run")):
        told = lines(attacker.lamina(*words, "made").stdout)
        assert f"setuid: runs as uid {uid}" in told["as-owner"], words
        assert f"setgid: runs as gid {uid}" in told["as-group"]
        assert "runs as" not in told["as-group-but-not"]
        assert "file capabilities" in told["capable"]
        assert "mode 644 → 4711" in told["kept"] and f"setuid: runs as uid {uid}" in told["kept"]
        assert "mode 644 → 666" in told["opened"]
        assert "fifo" in told["fifo"]
        assert "(" not in told["17"]
    assert f"# {place}/capable: has file capabilities" in attacker.lamina("diff", "-p", "made").stdout
    listed = json.loads(attacker.lamina("diff", "--format", "json", "made").stdout)
    assert [Path(c["path"]).name for c in listed if c["capabilities"]] == ["capable"]
    assert attacker.lamina("rm", "made").returncode == 0


def test_a_privilege_cannot_hide_behind_many_files(attacker: Attacker, place: Path) -> None:
    """`try` folds its list, and cuts it; what gives a privilege comes before what may be cut."""
    said = attacker.lamina("try", "-n", sys.executable, "-c", GIVE, place).stdout
    assert re.search(r"\(and \d+ below it\)", said)
    told = lines(said)
    assert {"as-owner", "as-group", "capable", "kept"} <= told.keys()


def test_names_cannot_speak_to_the_terminal(attacker_root: Attacker, tmp_path: Path) -> None:
    """Names, links, arguments, attributes: nothing that a terminal obeys, or that looks like another line."""
    place = tmp_path / "place"
    place.mkdir()
    code = (
        "import os, sys\n"
        "place, hostile = os.fsencode(sys.argv[1]), [bytes.fromhex(word) for word in sys.argv[2:]]\n"
        "for name in hostile:\n"
        "    open(place + b'/' + name, 'wb').write(b'x')\n"
        "    os.setxattr(place + b'/' + name, b'user.' + name, name)\n"
        "    os.symlink(name, place + b'/link-' + name.hex().encode())\n"
        "    os.mkdir(place + b'/directory-' + name)\n"
    )
    words = [name.hex() for name in HOSTILE]
    done = attacker_root.lamina(
        "run", "--name", "made", "host", "--", sys.executable, "-c", code, place, *words
    )
    assert done.returncode == 0, done.stdout
    asked = [
        ("diff", "made"),
        ("diff", "--all", "--stat", "made"),
        ("apply", "--dry-run", "made"),
        ("ps", "-a"),
        ("inspect", "made"),
        ("plan", "host", "\x1b[2J\u202e\n"),
        ("run", "host", "--", "\x1b[2J\u202e"),
        ("run", "-w", "/\x1b[2J\u202e/\n", "--read-only", "host", "--", "true"),
        ("rm", "\x1b[2J\u202e"),
        ("diff", "made", "/\x1b[2J\u202e"),
        ("apply", "made", "/\x1b[2J\u202e"),
        ("explain", "made", place),
        ("explain", "--html", "-", "made", place),
        *(("explain", "made", f"{place}/{os_name(name)}") for name in HOSTILE),
        ("explain", "--svg", "-", "made", f"{place}/{os_name(HOSTILE[0])}"),
        ("snapshot", "create", "made", "-m", "\x1b[2J\u202e\nbox  now"),
        ("log", "made"),
        ("snapshot", "ls", "--tree"),
        ("diff", "made", "made@\x1b[2J\u202e"),
        ("diff", "made", "\x1b[2J\u202e@first"),
        ("why", "made@\x1b[2J\u202e", "/"),
        ("\x1b[2J\u202e",),
        ("run", "--\x1b[2J\u202e", "host"),
        ("run", "--memory", "\x1b[2J\u202e", "host", "true"),
        ("overlay", "explain", "-o", f"lowerdir={place}", os_name(HOSTILE[0])),
        ("overlay", "explain", "-o", "lowerdir=/\x1b[2J\u202e", "x"),
        ("overlay", "mount", "-o", "lowerdir=/\x1b[2J\u202e", "/\x1b[2J\u202e"),
        ("--root", f"{place}/\x1b[2J\u202e", "diff", "nothing"),
    ]
    for attempt in asked:
        said = attacker_root.lamina(*attempt, errors="surrogateescape").stdout
        bad = [c for c in said if c != "\n" and not c.isprintable()]
        assert bad == [], (attempt, said)
    assert attacker_root.lamina("rm", "made").returncode == 0


def os_name(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
