"""Trees that a container makes to hurt whoever looks at them afterwards: their size is bounded, or their cost is."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from lamina.errors import Unsupported
from lamina.overlay.changes import changes
from lamina.overlay.copying import same_content
from lamina.overlay.spec import MountSpec
from lamina.store.tree import remove_tree
from support.attacker import Attacker

CHAIN = """
import os, sys
os.mkdir(sys.argv[1])
os.chdir(sys.argv[1])
for _ in range(int(sys.argv[2])):
    os.mkdir("x" * 200)
    os.chdir("x" * 200)
"""


def chain(top: Path, depth: int, name: str) -> None:
    """A directory in a directory in a directory ..."""
    top.mkdir(parents=True)
    held = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=held)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=held)
        os.close(held)
        held = below
    os.close(held)


@pytest.mark.parametrize("side", ["upper", "lower"])
def test_a_chain_of_directories_costs_no_more_than_a_bound(tmp_path: Path, side: str) -> None:
    """6,000 directories in one another were 3.6 GB of paths, and hours of lookups; now they are an error."""
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    chain((lower if side == "lower" else upper) / "top", 400, "x" * 200)
    lower.mkdir(exist_ok=True)
    upper.mkdir(exist_ok=True)
    if side == "lower":
        os.mkdir(upper / "top")
        os.setxattr(upper / "top", "user.overlay.opaque", b"y")
    spec = MountSpec(lowerdirs=(os.fsencode(lower),), upperdir=os.fsencode(upper), userxattr=True)
    with pytest.raises(Unsupported, match=r"a path of more than 16384 bytes, which begins with /top/xxx"):
        list(changes(spec))
    for path in (lower, upper):
        remove_tree(os.fsencode(path))
        assert not path.exists()


def test_what_is_deeper_than_any_path_but_not_absurd_is_listed(tmp_path: Path) -> None:
    chain(tmp_path / "upper/top", 80, "x" * 200)
    (tmp_path / "lower").mkdir()
    upper = tmp_path / "upper"
    spec = MountSpec(
        lowerdirs=(os.fsencode(tmp_path / "lower"),), upperdir=os.fsencode(upper), userxattr=True
    )
    assert len([change for change in changes(spec) if change.kind == "added"]) == 81
    remove_tree(os.fsencode(upper))


def test_an_absurd_chain_in_a_container(attacker: Attacker) -> None:
    place = attacker.place / "top"
    done = attacker.lamina("run", "--name", "deep", "host", "--", "python3", "-c", CHAIN, place, "300")
    assert done.returncode == 0, done.stdout
    for words in (("diff", "deep"), ("diff", "-p", "deep"), ("apply", "deep")):
        done = attacker.lamina(*words)
        assert done.returncode == 125
        assert "a path of more than" in done.stdout and "lamina rm" in done.stdout
    assert not place.exists()
    assert attacker.lamina("rm", "deep").returncode == 0


FORGE = """
import os, sys
place = sys.argv[1]
for family in ("user", "trusted"):
    for name, value in (
        ("opaque", b"y"), ("opaque", b"x"), ("redirect", b"/etc"), ("metacopy", b""), ("whiteout", b"y"),
        ("origin", bytes(29)), ("overlay.opaque", b"y"), ("nlink", b"U+1"), ("upper", bytes(29)), ("protattr", b"i"),
    ):
        for target in ("directory", "directory/file", "empty"):
            try:
                os.setxattr(os.path.join(place, target), f"{family}.overlay.{name}", value)
            except OSError:
                pass
print(*sorted(os.listdir(place + "/directory")), os.path.getsize(place + "/directory/file"))
"""


def test_marks_of_an_overlay_cannot_be_forged(attacker: Attacker) -> None:
    """What a container writes under overlayfs' own names must not say "deleted", "moved" or "the rest is in /etc"."""
    place = attacker.place / "place"
    (place / "directory").mkdir(parents=True)
    (place / "directory/file").write_text("content")
    (place / "directory/other").write_text("other")
    (place / "empty").touch()
    if attacker.user is not None:
        attacker.user.give(place)
    done = attacker.lamina("run", "--name", "forged", "host", "--", "python3", "-c", FORGE, place)
    assert (done.returncode, done.stdout) == (0, "file other 7\n")
    listed = json.loads(attacker.lamina("diff", "--format", "json", "--all", "forged").stdout)
    assert {change["kind"] for change in listed} <= {"changed"}
    assert {what for change in listed for what in change["what"]} <= {"xattrs", "times"}
    assert attacker.lamina("apply", "forged").returncode == 0
    assert (place / "directory/file").read_text() == "content"
    assert sorted(os.listdir(place / "directory")) == ["file", "other"]
    for path in (place / "directory", place / "directory/file", place / "empty"):
        assert not [name for name in os.listxattr(path) if name.startswith("trusted.")]
    assert attacker.lamina("rm", "forged").returncode == 0


def test_the_hosts_sockets_and_fifos_are_not_behind_their_names(attacker: Attacker) -> None:
    """A file of either kind that is seen through an overlay is another one, at which nobody listens."""
    place = attacker.place / "place"
    place.mkdir()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(place / "socket"))
    listener.listen()
    os.mkfifo(place / "fifo")
    reader = os.open(place / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    for name in ("socket", "fifo"):
        (place / name).chmod(0o777)
    if attacker.user is not None:
        attacker.user.give(place)
    code = (
        "import os, socket\n"
        f"place = {str(place)!r}\n"
        "for attempt in (\n"
        "    lambda: socket.socket(socket.AF_UNIX).connect(place + '/socket'),\n"
        "    lambda: os.open(place + '/fifo', os.O_WRONLY | os.O_NONBLOCK),\n"
        "):\n"
        "    try: attempt(); print('REACHED')\n"
        "    except OSError as error: print(error.strerror)\n"
    )
    try:
        assert attacker.python(code).stdout == "Connection refused\nNo such device or address\n"
    finally:
        os.close(reader)
        listener.close()


def test_holes_are_not_read_to_compare_files(tmp_path: Path) -> None:
    """A file of terabytes costs whoever makes it nothing, and would cost who compares two states the whole night."""
    vast = 1 << 42
    files = [tmp_path / name for name in ("one", "other")]
    for file in files:
        file.write_bytes(b"begin")
        os.truncate(file, vast)

    def write(file: Path, at: int, text: bytes) -> None:
        with file.open("r+b") as opened:
            os.pwrite(opened.fileno(), text, at)

    def same() -> bool:
        with files[0].open("rb") as one, files[1].open("rb") as other:
            return same_content(one.fileno(), other.fileno())

    assert same()
    write(files[0], vast >> 1, bytes(100_000))  # zeros are what a hole has
    assert same()
    for file in files:
        write(file, vast - 3, b"end")
    assert same()
    write(files[1], vast >> 2, b"x")
    assert not same()
    write(files[0], vast >> 2, b"x")
    assert same()
    os.truncate(files[0], vast - 1)
    assert not same()
    os.truncate(files[0], vast + 1)
    assert not same()
    os.truncate(files[0], 0)
    os.truncate(files[1], 0)
    assert same()
