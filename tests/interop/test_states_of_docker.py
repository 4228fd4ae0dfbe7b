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

LIVES = ("sleep", "1000")
# its network's sandbox is not there then, and it does not look: "sandbox ... not found" (docker 26)
BROKEN = {("rename", "restarting")}
# its numbers take two seconds each time
ENOUGH = {("stats", "created"), ("stats", "paused"), ("stats", "restarting")}


class Box:
    """As that of tests/cli/test_cli_states.py, docker's."""

    def __init__(self, docker: Docker, state: str) -> None:
        self.docker, self.state, self.name = docker, state, NAME

    def now(self) -> str:
        status, found = self.docker.ask("GET", f"/containers/{self.name}/json")
        if status == 404:
            return "gone"
        self.rest = rest_of_pause(found["RestartCount"], found["State"]["FinishedAt"])
        return str(found["State"]["Status"])

    def ready(self) -> None:
        remove(self.docker, self.name)
        if self.state == "restarting":
            self.name = spare.pop()
            until(lambda: self.now() == "restarting" and self.rest > LONG)
            return
        make(self.docker, NAME, *LIVES)
        if self.state != "created":
            done(self.docker, NAME, "start")
        if self.state == "paused":
            done(self.docker, NAME, "pause")
        elif self.state == "exited":
            done(self.docker, NAME, "kill")


# what is to be there before a verb is tried is asked of the daemon: only the verbs are docker's command
def make(docker: Docker, name: str, *words: str, **restart: str) -> None:
    config = {"NetworkMode": "none", "RestartPolicy": restart}
    document = {"Image": "box", "Cmd": words, "HostConfig": config}
    status, answer = docker.ask("POST", f"/containers/create?name={name}", document)
    assert status == 201, answer


def done(docker: Docker, name: str, verb: str) -> None:
    status, answer = docker.ask("POST", f"/containers/{name}/{verb}")
    assert status == 204, answer


def remove(docker: Docker, name: str) -> None:
    status, answer = docker.ask("DELETE", f"/containers/{name}?force=1")
    assert status in (204, 404), answer


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
        make(docker, name, "sh", "-c", "exit 1", Name="always")
        done(docker, name, "start")

    found: list[str] = []
    for state, cells in table().items():
        if state == "dead":  # docker's own is a removal that failed
            continue
        box = Box(docker, state)

        def do(*words: str, box: Box = box) -> tuple[int, str]:
            ended = docker(*(word.replace(NAME, box.name) for word in words), errors="replace")
            return ended.returncode, ended.stderr

        asked = {verb: cell for verb, cell in cells.items() if (verb, state) not in BROKEN | ENOUGH}
        found += differences(asked, state, box.ready, do, box.now, docker=True)
        remove(docker, box.name)
    for name in spare:
        remove(docker, name)
    assert found == []
