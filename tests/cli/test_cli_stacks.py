"""`lamina overlay ...`: the walk-through of three directories, as it is typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.namespaces import in_mount_namespace

Lamina = Callable[..., "subprocess.CompletedProcess[str]"]
STACK = "lowerdir=A:B,upperdir=C,workdir=worker"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with A (a, b, c), B (a, d) and C (b, e), in which the commands run."""
    for layer, names in {"A": "abc", "B": "ad", "C": "be", "worker": "", "merged": ""}.items():
        (tmp_path / layer).mkdir()
        for name in names:
            (tmp_path / layer / name).write_text(f"{name} of {layer}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_overlay_diff(lamina: Lamina, place: Path) -> None:
    done = lamina("overlay", "diff", "-o", STACK)
    assert done.stdout == "C /b\nA /e\n", done.stderr
    assert (
        lamina("overlay", "diff", "-o", "lowerdir=A:B", "-o", "upperdir=C,workdir=worker").stdout
        == done.stdout
    )
    assert lamina("overlay", "diff", "-o", STACK, "--stat").stdout.splitlines()[-1] == (
        "1 changed, 1 added (14 B written)"
    )
    kinds = {
        c["path"]: c["kind"]
        for c in json.loads(lamina("overlay", "diff", "-o", STACK, "--format", "json").stdout)
    }
    assert kinds["/b"] == "changed"
    assert kinds["/e"] == "added"
    assert "+b of C" in lamina("overlay", "diff", "-p", "-o", STACK).stdout.splitlines()


def test_overlay_explain(lamina: Lamina, place: Path) -> None:
    lines = lamina("overlay", "explain", "-o", STACK, "b").stdout.splitlines()
    assert lines[0] == "/b: the upper's file wins"
    assert lines[1].split() == ["LAYER", "DIRECTORY", "PATH", "ANSWER", "WHY"]
    assert [line.split()[0] for line in lines[2:]] == ["upper", "lower", "lower"]
    document = json.loads(lamina("overlay", "explain", "-o", STACK, "--format", "json", "/a").stdout)
    assert (document["winner"], document["exists"]) == (1, True)
    assert [row["answer"] for row in document["layers"]] == ["absent", "file", "file"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["diff"], "read overlay options: lowerdir is missing"),
        (["diff", "-o", "lowerdir=A,upperdr=C"], "read overlay option 'upperdr=C': there is no such option"),
        (["diff", "-o", "lowerdir=nowhere:A,upperdir=C,workdir=worker"], ""),
        (["explain", "-o", "lowerdir=nowhere:A", "a"], ""),
        (["umount", "nowhere"], "unmount nowhere: "),
        (["umount", "/proc"], "unmount /proc: not an overlay"),
    ],
)
def test_bad_stacks(lamina: Lamina, place: Path, argv: list[str], message: str) -> None:
    done = lamina("overlay", *argv)
    assert done.returncode in (1, 125)
    assert done.stderr.startswith(f"lamina: {message}")
    assert len(done.stderr.splitlines()) <= 2
    assert "internal error" not in done.stderr


def typed(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lamina", "overlay", *argv], capture_output=True, text=True, timeout=200
    )


@pytest.mark.root
@pytest.mark.parametrize(
    "way",
    [
        ["-o", STACK, "merged"],
        ["-t", "overlay", "overlay", "-o", STACK, "merged"],
        ["-o", STACK, "-o", "nosuid", "merged"],
    ],
)
def test_overlay_mount_and_umount(place: Path, way: list[str]) -> None:
    def play() -> list[str]:
        mounted = typed("mount", *way)
        assert mounted.returncode == 0, mounted.stderr
        seen = [(place / "merged" / name).read_text().strip() for name in sorted(os.listdir("merged"))]
        (place / "merged/d").unlink()
        gone = typed("umount", "merged")
        assert gone.returncode == 0, gone.stderr
        assert os.listdir("merged") == []
        again = typed("umount", "merged")
        assert again.returncode == 1
        assert again.stderr.startswith("lamina: unmount merged: ")
        return seen

    assert in_mount_namespace(play) == ["a of A", "b of C", "c of A", "d of B", "e of C"]
    assert typed("diff", "-o", STACK).stdout == "C /b\nD /d\nA /e\n"


@pytest.mark.root
def test_overlay_mount_says_why_not(place: Path) -> None:
    def play() -> tuple[int, str]:
        done = typed("mount", "-o", "lowerdir=A:B,upperdir=A,workdir=worker", "merged")
        return done.returncode, done.stderr

    status, said = in_mount_namespace(play)
    assert status == 125
    assert said.startswith("lamina: mount overlay on merged: ")
    assert typed("mount", "-o", STACK, "a", "b", "c").returncode == 125
