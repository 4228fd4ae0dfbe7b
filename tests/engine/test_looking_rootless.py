"""States of an ordinary user's containers, whose files he may not even read himself, compared and explained."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from support.image_archives import ImageSource, old_docker, tar, tree_tar
from support.rootless import SUBORDINATE, Rootless
from support.small_images import busybox_tree

pytestmark = [pytest.mark.root, pytest.mark.userns, pytest.mark.peer("busybox", "newuidmap")]


def test_states_with_files_of_other_ids(rootless: Rootless, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    busybox_tree(tree)
    (tree / "closed").mkdir(mode=0o700)
    (tree / "closed/in").write_text("before\n")
    for path in (tree / "closed", tree / "closed/in"):
        os.chown(path, 1000, 100)
    archive = rootless.tmp / "in.tar"
    archive.write_bytes(tar(*old_docker((ImageSource(tree_tar(tree), config={"Cmd": ["sh"]}), ["tool:1"]))))
    rootless.give(archive)

    def does(*words: str | Path) -> str:
        done = rootless.lamina(*words)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    does("load", "-i", archive)
    script = (
        "echo after >/closed/in; echo new >/closed/new; chown 1000:100 /closed/new; chmod 600 /closed/new"
    )
    does("run", "--name", "box", "tool:1", "sh", "-c", script)
    assert does("diff", "tool:1", "box").splitlines() == ["C /closed/in", "A /closed/new"]
    does("snapshot", "create", "box", "first")
    assert does("diff", "tool:1", "box@first").splitlines() == ["C /closed/in", "A /closed/new"]
    assert does("diff", "box@first", "box") == ""
    assert "-before\n+after\n" in does("diff", "-p", "tool:1", "box@first", "/closed/in")
    found = json.loads(does("explain", "--format", "json", "box@first", "/closed/in"))
    assert [row["made_by"]["kind"] for row in found["layers"]] == ["state", "image"]
    assert found["layers"][0]["entry"]["uid"] == SUBORDINATE[0] + 999
    assert json.loads(does("explain", "--format", "json", "box", "/closed"))["copy_up_bytes"] == 10

    assert does("log", "box").splitlines()[1].startswith("◉  first")
