"""Completion where it is used: zsh with its line editor on a terminal, fish itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from lamina import Engine
from support.peers import PeerRoot

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.peer("unshare", "nsenter", "mount")]


@pytest.fixture
def place(tmp_path: Path, store_root: Path) -> Path:
    """With a command `lamina`, and its completion for each shell; in its store is a volume."""
    engine = Engine(store_root)
    engine.create_volume("data")
    program = tmp_path / "lamina"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m lamina "$@"\n')
    program.chmod(0o755)
    return tmp_path


def environment(place: Path) -> dict[str, str]:
    return {
        "PATH": f"{place}:/usr/bin:/bin",
        "HOME": str(place),
        "PYTHONPATH": os.environ["PYTHONPATH"],
        "LAMINA_WARM": "0",
        "LAMINA_ROOT": os.environ["LAMINA_ROOT"],
        "TERM": "dumb",
    }


def script(peer_root: PeerRoot, place: Path, shell: str) -> str:
    return peer_root.run([place / "lamina", "completion", shell], env=environment(place), check=True).stdout


def test_fish(peer_root: PeerRoot, place: Path) -> None:
    text = script(peer_root, place, "fish")
    for typed, offered in (
        ("lamina volume rm ", ["data"]),
        ("lamina volume i", ["inspect"]),
        ("lamina run --restart a", ["always"]),
    ):
        words = ["fish", "--no-config", "-c", f"{text}\ncomplete -C '{typed}'"]
        done = peer_root.run(words, env=environment(place))
        assert [line.split("\t")[0] for line in done.stdout.splitlines()] == offered, done


def test_zsh(peer_root: PeerRoot, place: Path, store_root: Path) -> None:
    """Typed are the beginning of a word and a tab: what is executed is the whole."""
    (place / "completion").write_text(script(peer_root, place, "zsh"))
    lines = (
        "autoload -U compinit; compinit -u -D",
        f"source {place}/completion",
        "lamina vol\tins\tda\t > volume",
        "lamina volume rm \t",
        "exit",
    )
    words = ["script", "-qec", "zsh -f -i", "/dev/null"]
    done = peer_root.run(
        words, env=environment(place), cwd=place, input="".join(f"{line}\n" for line in lines)
    )
    assert '"data"' in (place / "volume").read_text(), done.stdout
    assert Engine(store_root).volumes() == [], done.stdout
