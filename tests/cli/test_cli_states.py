"""Every verb with a container in every state: what docs/containers.md says, or a clear error."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.cli.verbs import stats
from lamina.errors import NotFound
from support.busybox import write_archive
from support.leaks import Leaks
from support.lives import command, remove_all, until
from support.namespaces import in_mount_namespace
from support.said import Said, accident
from support.states import LONG, NAME, differences, rest_of_pause, table

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox"), pytest.mark.slow]

TABLE = table()
LIVES = ["sleep", "1000"]


def test_the_table_has_every_state() -> None:
    assert list(TABLE) == ["created", "running", "paused", "restarting", "exited", "dead"]
    assert len(TABLE["running"]) > 20
    assert TABLE["dead"] == TABLE["exited"]


class Box:
    """A container called NAME that is brought into one of the states again and again."""

    def __init__(self, root: Path, state: str) -> None:
        self.engine, self.state = Engine(root), state
        if state == "restarting":  # it takes a while until a pause is long enough to look at: all at once
            self.spare = [f"spare{number}" for number in range(6)]
            for name in self.spare:
                self.engine.start("box", ["sh", "-c", "exit 1"], name=name, restart="always")

    def now(self) -> str:
        try:
            return self.engine.container(NAME).state
        except NotFound:
            return "gone"

    def rests(self, box: Container) -> bool:
        """Whether it will not be started again while it is looked at."""
        return rest_of_pause(box.restarts, box.attrs["State"]["FinishedAt"]) > LONG

    def ready(self) -> None:
        if self.now() != "gone":
            self.engine.container(NAME).remove(force=True)
        if self.state == "restarting":
            box = self.engine.container(self.spare.pop())
            until(lambda: box.state == "restarting" and self.rests(box))
            box.rename(NAME)
            return
        if self.state == "dead":
            with command(
                "--root", str(self.engine.store.path, "utf-8"), "run", "--name", NAME, "box", *LIVES
            ):
                until(lambda: self.now() == "running")
            until(lambda: self.now() == "dead")
            return
        box = self.engine.create("box", LIVES, name=NAME)
        if self.state != "created":
            box.start()
        if self.state == "paused":
            box.pause()
        elif self.state == "exited":
            box.kill()


@pytest.mark.parametrize("state", TABLE)
def test_every_verb(state: str, tmp_path: Path, store_root: Path, untouched_host: Leaks) -> None:
    write_archive(tmp_path / "image.tar")
    Engine(store_root).load(tmp_path / "image.tar")

    def all_of_them() -> list[str]:
        stats.EVERY = 0.001
        box, said, broken = Box(store_root, state), Said(tmp_path), []

        def do(*words: str) -> tuple[int, str]:
            status, text = said(*words)
            if what := accident(status, text):
                broken.append(f"{' '.join(words)} {what}")
            return status, text

        try:
            return [*differences(TABLE[state], state, box.ready, do, box.now), *broken]
        finally:
            remove_all(box.engine)

    assert in_mount_namespace(all_of_them) == []
