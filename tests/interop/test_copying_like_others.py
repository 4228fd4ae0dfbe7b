"""`lamina cp` beside docker's and podman's: the same words said to all three, and what each has in the container then.

DIFFERENT is the table of where they differ, and why Lamina does what it does; docs/containers.md has it in words.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina import Engine as Lamina
from support.engines import ENGINES
from support.peers import PeerRoot
from support.running import running
from support.small_images import small_image

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.peer("unshare", "nsenter", "mount", "busybox")]

# of every case, in turn: one command in the container for all of them
MAKE = """
for t; do
mkdir -p $t/dir/sub $t/empty; echo old > $t/one; echo old > $t/dir/file; ln -s one $t/to-one; ln -s dir $t/to-dir
ln -s new $t/to-new; mkfifo $t/fifo; chmod 777 $t/empty
done
"""
SHOW = """
for t; do echo "-- $t $(stat -c %u:%g $t/empty/tree/one 2>/dev/null)"; cd $t; find . | sort | while read f; do
  if [ -L $f ]; then echo "$f -> $(readlink $f)"
  elif [ -f $f ]; then echo "$f $(stat -c %a $f) $(cat $f)"
  else echo "$f $(stat -c %a $f)"; fi
done; done
"""
# what is copied, where to below the directory of the case, options
CASES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "a file into a directory": ("file", "empty", ()),
    "a file into a directory/": ("file", "empty/", ()),
    "a file over a file": ("file", "one", ()),
    "a file to a new name": ("file", "new", ()),
    "a file to a new name/": ("file", "new/", ()),
    "a file below what is not there": ("file", "no/such", ()),
    "a file over a file/": ("file", "one/", ()),
    "a file over a link to a file": ("file", "to-one", ()),
    "a file over a link to nothing": ("file", "to-new", ()),
    "a file into a link to a directory": ("file", "to-dir", ()),
    "a file over a fifo": ("file", "fifo", ()),
    "a file/": ("file/", "empty", ()),
    "a file that is not there": ("nosuch", "empty", ()),
    "a directory into a directory": ("tree", "empty", ()),
    "a directory/ into a directory": ("tree/", "empty", ()),
    "the content of a directory": ("tree/.", "empty", ()),
    "a directory to a new name": ("tree", "new", ()),
    "the content to a new name": ("tree/.", "new", ()),
    "a directory over a file": ("tree", "one", ()),
    "a directory below what is not there": ("tree", "no/such", ()),
    "content over a directory for a file": ("clash/.", ".", ()),
    "content over a file for a directory": ("clash2/.", ".", ()),
    "a link": ("link", "empty", ()),
    "a link followed": ("link", "empty", ("-L",)),
    "a link to a directory followed": ("to-tree", "empty", ("-L",)),
    "a link to a directory/": ("to-tree/", "empty", ()),
    "kept": ("tree", "empty", ("-a",)),
    "over a directory that is there": ("tree/.", "dir", ()),
    "kept over a directory that is there": ("tree/.", "dir", ("-a",)),
}
MODE_KEPT = "what is there keeps its permissions, unless -a is given: /tmp stays open to everybody"
DIFFERENT: dict[str, dict[str, str]] = {
    "docker": {"over a directory that is there": MODE_KEPT},
    "podman": {
        "over a directory that is there": MODE_KEPT,
        "a link": "podman follows it always; we as docker does, with -L",
        "a link followed": "podman has no -L",
        "a link to a directory followed": "podman has no -L",
    },
}
# of a file of 7:8, without -a and with it. Docker documents 0:0 and 7:8, and keeps the numbers always.
WHOSE = {"docker": ("7:8", "7:8"), "podman": ("0:0", "0:0"), "lamina": ("0:0", "7:8")}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "what"
    (place / "tree/sub").mkdir(parents=True)
    (place / "file").write_text("new\n")
    (place / "tree/one").write_text("1\n")
    (place / "tree/sub/two").write_text("2\n")
    (place / "tree/link").symlink_to("one")
    (place / "link").symlink_to("file")
    (place / "to-tree").symlink_to("tree")
    (place / "clash").mkdir()
    (place / "clash/dir").write_text("a file for a directory\n")
    (place / "clash2/one").mkdir(parents=True)
    for path, mode in (("tree/sub", 0o750), ("file", 0o640), ("tree/one", 0o755)):
        os.chown(place / path, 7, 8)
        (place / path).chmod(mode)
    return place


Words = Callable[..., "subprocess.CompletedProcess[str]"]
Outcomes = dict[str, tuple[bool, str]]


def outcomes(engine: Words, place: Path) -> tuple[Outcomes, tuple[str, ...]]:
    """Of each case: whether it was done, and what is there then. And whose files are, without -a and with it."""
    tops = {case: f"/case{number}" for number, case in enumerate(CASES)}
    made = engine("exec", "box", "sh", "-c", MAKE, "sh", *tops.values())
    assert made.returncode == 0, made.stderr
    done = {
        case: engine("cp", *options, f"{place}/{source}", f"box:{tops[case]}/{target}").returncode == 0
        for case, (source, target, options) in CASES.items()
    }
    shown = engine("exec", "box", "sh", "-c", SHOW, "sh", *tops.values())
    assert shown.returncode == 0, shown.stderr
    found, owners = {}, {}
    for case, text in zip(CASES, ("\n" + shown.stdout).split("\n-- ")[1:], strict=True):
        heading, _, files = text.partition("\n")
        found[case], owners[case] = (done[case], files), heading.partition(" ")[2]
    return found, (owners["a directory into a directory"], owners["kept"])


def ours(store: Path, place: Path) -> tuple[Outcomes, tuple[str, ...]]:
    """Those of `lamina`."""
    small_image(store, env=["PATH=/bin:/usr/bin"])

    def lamina(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "lamina", "--root", str(store), *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=200)

    with running(Lamina(store), "sleep", "600"):
        return outcomes(lamina, place)


@pytest.mark.parametrize("program", sorted(ENGINES))
def test_the_same_words_to_each(program: str, peer_root: PeerRoot, tmp_path: Path, place: Path) -> None:
    engine = ENGINES[program](peer_root, tmp_path)
    made = engine("run", "-d", "--name", "box", "box", "sleep", "600")
    assert made.returncode == 0, made.stderr
    theirs, whose = outcomes(engine, place)
    assert engine("rm", "-f", "box").returncode == 0
    mine, whose_mine = ours(tmp_path / "store", place)
    different = {case: (theirs[case], mine[case]) for case in CASES if theirs[case] != mine[case]}
    assert different.keys() == DIFFERENT[program].keys(), different
    assert (whose, whose_mine) == (WHOSE[program], WHOSE["lamina"])
