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
    ok(rootless, "image", "from-dir", tree, "tiny", "-c", "ENV PATH=/bin")
    yield rootless
    names_ = rootless.lamina("ps", "-aq").stdout.split()
    if names_:
        rootless.lamina("rm", "-f", *names_)
    shutil.rmtree(tree)


def ok(user: Rootless, *words: str | Path) -> str:
    done = user.lamina(*words)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def home(user: Rootless, name: str) -> Path:
    return user.tmp / "data/lamina/containers" / ok(user, "inspect", "-f", "{{.Id}}", name).strip()


def record(user: Rootless, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home(user, name) / "container.json").read_text())
    return found


def test_forks_come_together(user: Rootless) -> None:
    script = "mkdir -p /w; echo a >/w/a; chown 5:6 /w/a; mkdir -m 700 /w/d; echo x >/w/d/x; chown 7:7 /w/d"
    ok(user, "run", "--name", "box", "tiny", "sh", "-c", script)
    ok(user, "fork", "-n", "2", "box", "try")
    note = user.mkdir("notes") / "note"
    note.write_text("note\n")
    user.give(note)
    ok(user, "cp", note, "try-1:/w/d/one")
    ok(user, "cp", note, "try-2:/w/two")
    assert (
        ok(user, "merge", "--dry-run", "box", "try-1", "try-2") == "take /w/d/one try-1\ntake /w/two try-2\n"
    )
    ok(user, "merge", "--name", "both", "box", "try-1", "try-2")
    assert ok(user, "diff", "box", "/w").splitlines() == [
        "A /w/", "A /w/a", "A /w/d/", "A /w/d/one", "A /w/d/x", "A /w/two",
    ]  # fmt: skip
    ok(user, "cp", note, "try-2:/w/won")
    ok(user, "promote", "try-2")
    assert ok(user, "diff", "box@both", "box").splitlines() == ["D /w/d/one", "A /w/won"]
    ok(user, "rebase", "--force", "box", "tiny")
    assert len(ok(user, "squash", "-q", "box").split()) == 1
    assert ok(user, "diff", "box", "/w").splitlines() == [
        "A /w/", "A /w/a", "A /w/d/", "A /w/d/x", "A /w/two", "A /w/won",
    ]  # fmt: skip
    assert len(record(user, "box")["overlays"][0]["frozen"]) == 1
    ok(user, "gc")
    ok(user, "system", "check")


def test_many_snapshots(user: Rootless) -> None:
    ok(
        user,
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
        ok(user, "cp", note, f"box:/w/{number % 5}")
        ok(user, "snapshot", "create", "box", f"s{number}")
    until(lambda: record(user, "box").get("squashed"))
    ok(user, "cp", note, "box:/w/last")
    ok(user, "snapshot", "create", "box")
    assert len(record(user, "box")["overlays"][0]["frozen"]) == 2
    assert not (home(user, "box") / "squash.error").exists()
    assert ok(user, "diff", "box@s1", "box").splitlines() == [
        "C /w/0", "C /w/1", "A /w/2", "A /w/3", "A /w/4", "A /w/last",
    ]  # fmt: skip
    ok(user, "gc")
    ok(user, "system", "check")
