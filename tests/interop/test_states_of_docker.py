"""What docker does to a container in each state: the table that our own verbs are held to, but for `dead`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.engines import Docker
from support.peers import PATIENCE, PeerRoot
from support.states import LONG, NAME, differences, rest_of_pause, table

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.peer("unshare", "nsenter", "mount", "busybox")]

LIVES = ("--network", "none", "box", "sleep", "1000")
# its network's sandbox is not there then, and it does not look: "sandbox ... not found" (docker 26)
BROKEN = {("rename", "restarting")}
# its numbers take two seconds each time
ENOUGH = {("stats", "created"), ("stats", "paused"), ("stats", "restarting")}


class Box:
    """As that of tests/cli/test_cli_states.py, docker's."""

    def __init__(self, docker: Docker, state: str) -> None:
        self.docker, self.state, self.name = docker, state, NAME

    def now(self) -> str:
        form = "{{.State.Status}} {{.RestartCount}} {{.State.FinishedAt}}"
        done = self.docker("inspect", "-f", form, self.name)
        if done.returncode:
            return "gone"
        state, restarts, ended = done.stdout.split()
        self.rest = rest_of_pause(int(restarts), ended)
        return state

    def ready(self) -> None:
        self.docker("rm", "-f", self.name)
        if self.state == "restarting":
            self.name = spare.pop()
            until(lambda: self.now() == "restarting" and self.rest > LONG)
            return
        self.docker("create", "--name", NAME, *LIVES, check=True)
        if self.state != "created":
            self.docker("start", NAME, check=True)
        if self.state == "paused":
            self.docker("pause", NAME, check=True)
        elif self.state == "exited":
            self.docker("kill", NAME, check=True)


spare: list[str] = []


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_docker_does_what_the_table_says(peer_root: PeerRoot, tmp_path: Path) -> None:
    docker = Docker(peer_root, tmp_path)
    spare[:] = [f"spare{number}" for number in range(6)]
    for name in spare:  # the pauses grow meanwhile
        docker(
            "run",
            "-d",
            "--name",
            name,
            "--restart",
            "always",
            "--network",
            "none",
            "box",
            "sh",
            "-c",
            "exit 1",
            check=True,
        )

    found: list[str] = []
    for state, cells in table().items():
        if state == "dead":  # docker's own is a removal that failed
            continue
        box = Box(docker, state)

        def do(*words: str, box: Box = box) -> tuple[int, str]:
            done = docker(*(word.replace(NAME, box.name) for word in words), errors="replace")
            return done.returncode, done.stderr

        asked = {verb: cell for verb, cell in cells.items() if (verb, state) not in BROKEN | ENOUGH}
        found += differences(asked, state, box.ready, do, box.now, docker=True)
        docker("rm", "-f", box.name)
    docker("rm", "-f", *spare)
    assert found == []
