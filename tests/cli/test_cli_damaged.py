"""Containers whose records are damaged, or another version's: verbs say so or do it, and `rm` removes it.

A few verbs and fields by chance; all of them with LAMINA_STRESS=full.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from lamina import Engine
from lamina.cli.verbs import stats
from lamina.engine import settling
from support.leaks import Leaks
from support.lives import place_of, until
from support.namespaces import in_mount_namespace
from support.said import Said, accident
from support.workers import FULL

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]

RECORDS = ("container.json", "state.json", "exit.json", "failed.json", "spec.json", "ends")
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "garbage": lambda data: os.urandom(300),
    "list": lambda data: b"[]\n",
    "nothing in it": lambda data: b"{}\n",
    "deep": lambda data: b"[" * 100_000,
    "number": lambda data: b"1e999\n",
}
VERBS = (
    "ps -a", "ps -a --filter status=exited", "ps -a --filter ancestor=host", "inspect box", "logs box", "exec box true",
    "top box", "stats --no-stream box", "port box", "pause box", "unpause box", "rename box other", "rename other box",
    "update --pids-limit 99 box", "cp box:/etc/hostname -", "diff box", "attach --no-stdin --sig-proxy=false nosuch",
    "kill -s CONT box", "system df", "system check", "container prune --force --filter until=240h", "commit box x",
    "export -o /dev/null box", "stop -t 0 box", "start box", "restart -t 0 box", "stop -t 0 box", "wait box",
)  # fmt: skip


class Damaged:
    """A container called box, in one of its states, whose records are damaged again and again."""

    def __init__(self, root: Path, place: Path, state: str, random: Random) -> None:
        self.engine, self.state, self.said, self.random = Engine(root), state, Said(place), random
        self.problems: list[str] = []
        # of this process, which is a test's own; for who looks after one whose records are whole it waits longer
        stats.EVERY, settling.LETTING_GO = 0.01, 1.0

    def make(self) -> Path:
        box = self.engine.create("host", ["sh", "-c", "echo x; exec sleep 1000"], name="box")
        if self.state != "created":
            box.start()
        if self.state == "exited":
            box.kill()
            until(lambda: not box._home.is_looked_after())
        return place_of(box)

    def look(self, what: str) -> None:
        """Verbs, all of them or a few by chance, and then it must be possible to get rid of it."""
        for line in VERBS if FULL else [line for line in VERBS if self.random.random() < 0.25]:
            if line.startswith("wait") and self.engine_says_it_lives():
                continue
            status, text = self.said(*line.split())
            if problem := accident(status, text):
                self.problems.append(f"{what}: {line} {problem}")
        for name in ("box", *(one.id for one in self.engine.containers(all=True))):
            status, text = self.said("rm", "-f", name)
            if status != 0 and "no such container" not in text:
                self.problems.append(f"{what}: rm -f {name[:12]} exits with {status}: {text}")
        self.engine.create("host", ["true"], name="box").remove()

    def engine_says_it_lives(self) -> bool:
        try:
            return self.engine.container("box").is_alive
        except Exception:
            return True


@pytest.mark.parametrize("state", ["created", "running", "exited"])
@pytest.mark.parametrize("record", RECORDS)
def test_a_record_that_is_not_what_was_written(
    state: str, record: str, tmp_path: Path, store_root: Path, untouched_host: Leaks, seed: int
) -> None:
    def all_of_them() -> list[str]:
        damaged = Damaged(store_root, tmp_path, state, Random(seed))
        for name, change in DAMAGES.items():
            path = damaged.make() / record
            if path.exists():
                path.write_bytes(change(path.read_bytes()))
            elif name in ("empty", "garbage"):
                path.write_bytes(change(b""))
            damaged.look(f"{record} {name}")
        return damaged.problems

    assert in_mount_namespace(all_of_them, timeout=250) == []


def _others(value: object) -> list[Any]:
    """What a field is not: of other types."""
    return [
        other
        for other in (None, "x", -7, 2.5, [], {}, [None], {"x": 1}, True)
        if type(other) is not type(value)
    ]


@pytest.mark.parametrize("state", ["created", "running", "exited"])
@pytest.mark.parametrize("record", ["container.json", "state.json", "exit.json"])
def test_a_field_that_means_something_else(
    state: str, record: str, tmp_path: Path, store_root: Path, untouched_host: Leaks, seed: int
) -> None:
    """As a newer version may write it, which knows more fields, and others by the same names."""
    random = Random(seed)

    def all_of_them() -> list[str]:
        damaged = Damaged(store_root, tmp_path, state, random)
        path = damaged.make() / record
        fields = [*json.loads(path.read_text())] if path.exists() else []
        if not FULL:
            fields = random.sample(fields, min(len(fields), 6))
        damaged.look("unharmed")
        for field in fields:
            path = damaged.make() / record
            found = json.loads(path.read_text())
            other = random.choice([*_others(found[field]), "gone"])
            found = {key: value for key, value in found.items() if key != field}
            if other != "gone":
                found[field] = other
            path.write_text(json.dumps({**found, "of a newer version": {"x": [1]}}))
            damaged.look(f"{record} {field}={other!r}")
        return damaged.problems

    assert in_mount_namespace(all_of_them, timeout=250) == []


@pytest.mark.parametrize(("another", "field"), [(False, "boot"), (True, "start_time")])
def test_what_runs_is_removed_though_its_record_does_not_tell_it_from_others(
    field: str, another: bool, tmp_path: Path, store_root: Path, untouched_host: Leaks
) -> None:
    def remove() -> list[str]:
        damaged = Damaged(store_root, tmp_path, "running", Random(0))
        path = damaged.make() / "state.json"
        found = json.loads(path.read_text())
        other = {"boot": "another", "start_time": 7}[field] if another else None
        path.write_text(json.dumps({**found, field: other}))
        assert damaged.said("rm", "-f", "box")[0] == 0
        return [one.id for one in damaged.engine.containers(all=True)]

    assert in_mount_namespace(remove, timeout=200) == []


def test_a_damaged_record_is_shown_with_the_rest_and_has_a_remedy(
    tmp_path: Path, store_root: Path, untouched_host: Leaks
) -> None:
    def look() -> list[object]:
        damaged = Damaged(store_root, tmp_path, "running", Random(0))
        path = damaged.make() / "state.json"
        damaged.engine.create("host", ["true"], name="other")
        assert damaged.said("system", "check")[0] == 0
        path.write_text("{")
        short = path.parent.name[:12]
        remedy = f"'lamina rm -f {short}' removes the container"
        found: list[object] = []
        for words in ("ps", "ps -a", "ps -a --filter status=running", "ps -a --format json"):
            status, text = damaged.said(*words.split())
            names = [one.name for one in damaged.engine.containers(all="-a" in words)]
            found.append((words, status, names, remedy in text))
        checked = damaged.engine.storage.check().findings
        found += [(one.severity, one.what, one.problem.partition(": Exp")[0], one.remedy) for one in checked]
        status, text = damaged.said("stop", "box")
        found.append((status, remedy in text))
        for name in ("box", "other"):
            assert damaged.said("rm", "-f", name)[0] == 0
        return found

    assert in_mount_namespace(look, timeout=200) == [
        ("ps", 0, ["box"], True), ("ps -a", 0, ["box", "other"], True),
        ("ps -a --filter status=running", 0, ["box", "other"], True),
        ("ps -a --format json", 0, ["box", "other"], True),
        ("damaged", "box", "state.json: not a record", "lamina rm -f box"), (1, True),
    ]  # fmt: skip


def test_the_end_of_one_whose_record_a_newer_version_wrote_is_written_down(
    tmp_path: Path, store_root: Path, untouched_host: Leaks
) -> None:
    def end() -> list[object]:
        damaged = Damaged(store_root, tmp_path, "running", Random(0))
        path = damaged.make() / "container.json"
        found = json.loads(path.read_text())
        path.write_text(json.dumps({**found, "options": {**found["options"], "newer": 1}}))
        status, text = damaged.said("restart", "-t", "0", "box")
        box = damaged.engine.container("box")
        said: list[object] = [status, "which this Lamina does not know" in text, box.state]
        said += [damaged.said("stop", "box")[0], box.state, box.exit_code]
        assert damaged.said("rm", "-f", "box")[0] == 0
        return said

    assert in_mount_namespace(end, timeout=200) == [1, True, "running", 0, "exited", 143]
