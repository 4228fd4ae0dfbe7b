"""Forks that come together, and many snapshots, of an ordinary user's container: its files have subordinate ids."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.engine.squashing import DEEP
from support.lives import until
from support.rootless import Rootless
from support.small_images import busybox_tree

pytestmark = [pytest.mark.userns, pytest.mark.peer("busybox")]


@pytest.fixture
def user(rootless: Rootless) -> Iterator[Rootless]:
    tree = rootless.mkdir("rootfs")
    busybox_tree(tree)
    for directory, _, names in os.walk(tree):
        rootless.give(Path(directory), *(Path(directory, name) for name in names))
    rootless.ok("image", "from-dir", tree, "tiny", "-c", "ENV PATH=/bin")
    yield rootless
    rootless.remove_all()
    shutil.rmtree(tree)


def home(user: Rootless, name: str) -> Path:
    return user.tmp / "data/lamina/containers" / user.ok("inspect", "-f", "{{.Id}}", name).strip()


def record(user: Rootless, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home(user, name) / "container.json").read_text())
    return found


def test_forks_come_together(user: Rootless) -> None:
    script = "mkdir -p /w; echo a >/w/a; chown 5:6 /w/a; mkdir -m 700 /w/d; echo x >/w/d/x; chown 7:7 /w/d"
    user.ok("run", "--name", "box", "tiny", "sh", "-c", script)
    user.ok("fork", "-n", "2", "box", "try")
    note = user.mkdir("notes") / "note"
    note.write_text("note\n")
    user.give(note)
    user.ok("cp", note, "try-1:/w/d/one")
    user.ok("cp", note, "try-2:/w/two")
    assert (
        user.ok("merge", "--dry-run", "box", "try-1", "try-2") == "take /w/d/one try-1\ntake /w/two try-2\n"
    )
    user.ok("merge", "--name", "both", "box", "try-1", "try-2")
    assert user.ok("diff", "box", "/w").splitlines() == [
        "A /w/", "A /w/a", "A /w/d/", "A /w/d/one", "A /w/d/x", "A /w/two",
    ]  # fmt: skip
    user.ok("cp", note, "try-2:/w/won")
    user.ok("promote", "try-2")
    assert user.ok("diff", "box@both", "box").splitlines() == ["D /w/d/one", "A /w/won"]
    user.ok("rebase", "--force", "box", "tiny")
    assert len(user.ok("squash", "-q", "box").split()) == 1
    assert user.ok("diff", "box", "/w").splitlines() == [
        "A /w/", "A /w/a", "A /w/d/", "A /w/d/x", "A /w/two", "A /w/won",
    ]  # fmt: skip
    assert len(record(user, "box")["overlays"][0]["frozen"]) == 1
    user.ok("gc")
    user.ok("system", "check")


def test_many_snapshots(user: Rootless) -> None:
    user.ok(
        "run",
        "--name",
        "box",
        "tiny",
        "sh",
        "-c",
        "mkdir -m 700 /w; chown 5:6 /w; echo a >/w/a; chown 7:8 /w/a",
    )
    note = user.mkdir("notes") / "note"
    for number in range(DEEP):
        note.write_text(f"{number}\n")
        user.give(note)
        user.ok("cp", note, f"box:/w/{number % 5}")
        user.ok("snapshot", "create", "box", f"s{number}")
    until(lambda: record(user, "box").get("squashed"))
    user.ok("cp", note, "box:/w/last")
    user.ok("snapshot", "create", "box")
    assert len(record(user, "box")["overlays"][0]["frozen"]) == 2
    assert not (home(user, "box") / "squash.error").exists()
    assert user.ok("diff", "box@s1", "box").splitlines() == [
        "C /w/0", "C /w/1", "A /w/2", "A /w/3", "A /w/4", "A /w/last",
    ]  # fmt: skip
    user.ok("gc")
    user.ok("system", "check")
