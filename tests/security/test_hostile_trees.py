"""Trees that a container makes to hurt whoever looks at them afterwards: their size is bounded, or their cost is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.errors import Unsupported
from lamina.overlay.changes import changes
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
