"""The same health checks by docker and by Lamina: the same states, the same results, the same words."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.engines import Docker
from support.lives import Command
from support.peers import PATIENCE, PeerRoot
from support.small_images import small_image

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.peer("unshare", "nsenter", "mount", "busybox")]

Say = Callable[..., subprocess.CompletedProcess[str]]

OFTEN = ("--health-interval", "1s", "--health-retries", "2")
CHECKS: dict[str, tuple[str, ...]] = {
    "well": ("--health-cmd", "echo looked; [ ! -e /tmp/bad ]", *OFTEN),
    "hangs": ("--health-cmd", "echo begun; sleep 100; true", "--health-timeout", "3s", *OFTEN),
    "writes": ("--health-cmd", "head -c 5000 /dev/zero; exit 3", *OFTEN),
    "starts": (
        "--health-cmd",
        "exit 1",
        "--health-start-period",
        "1h",
        "--health-start-interval",
        "1s",
        *OFTEN,
    ),
    "off": ("--no-healthcheck",),
}
ENDS = {"well": "healthy", "hangs": "unhealthy", "writes": "unhealthy", "starts": "starting"}


def seen(say: Say) -> dict[str, Any]:
    """What an engine shows of containers with CHECKS, and of one that falls ill and ends."""
    found: dict[str, Any] = {}
    for name, words in CHECKS.items():
        say("run", "-d", "--name", name, *words, IMAGE[say], "sleep", "1000", check=True)
    for name, status in ENDS.items():
        found[name] = summary(until(say, name, partial(has_come_to, status)))
    found["off"] = look(say, "off").get("Health")
    found["said"] = {name: told(say, name) for name in CHECKS}
    say("exec", "well", "sh", "-c", "echo >/tmp/bad", check=True)
    found["ill"] = summary(until(say, "well", lambda health: health["Status"] == "unhealthy"))
    found["filtered"] = say("ps", "--filter", "health=unhealthy", "--format", "{{.Names}}").stdout.split()
    found["configured"] = json.loads(say("inspect", "-f", "{{json .Config.Healthcheck}}", "well").stdout)
    found["events"] = changes(say, "well")
    found["looks"] = {
        line for line in actions(say, "well") if line.startswith(("exec_create", "exec_start", "exec_die"))
    }
    say("stop", "-t", "0", "well", check=True)
    found["ended"] = look(say, "well")["Health"]["Status"]
    say("rm", "-f", *CHECKS, check=True)
    return found


def actions(say: Say, name: str) -> list[str]:
    """What events say of it."""
    since = ("--since", "10m", "--until", "0s")
    done = say("events", *since, "--filter", f"container={name}", "--format", "{{.Action}}", check=True)
    return done.stdout.splitlines()


def changes(say: Say, name: str) -> list[str]:
    """How its health changed, once it has become bad: an event may come a moment later than its reason."""
    end = time.monotonic() + PATIENCE
    while True:
        found = [line for line in actions(say, name) if line.startswith("health_status")]
        if "health_status: unhealthy" in found or time.monotonic() > end:
            return found
        time.sleep(0.1)


def has_come_to(status: str, health: dict[str, Any]) -> bool:
    return bool(health["Status"] == status and health["Log"])


def look(say: Say, name: str) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(say("inspect", "-f", "{{json .State}}", name, check=True).stdout)
    return state


def until(say: Say, name: str, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    end = time.monotonic() + PATIENCE
    while not condition(health := look(say, name)["Health"]):
        assert time.monotonic() < end, health
        time.sleep(0.1)
    return dict(health)


def summary(health: dict[str, Any]) -> dict[str, Any]:
    """Without what is a matter of the moment."""
    results = {(one["ExitCode"], one["Output"].replace("\0", "0")) for one in health["Log"]}
    return {
        "status": health["Status"],
        # when it was ill the last of these: earlier ones may have gone by now, or had no time to say anything
        "results": sorted(results) if health["Status"] != "unhealthy" else sorted(results)[-1:],
        "fields": sorted(health),
        "of each": sorted({key for one in health["Log"] for key in one}),
    }


def told(say: Say, name: str) -> str:
    """The end of its status: `(healthy)`."""
    line = say("ps", "--filter", f"name={name}", "--format", "{{.Status}}").stdout.strip()
    return line.partition(" (")[2]


IMAGE: dict[Say, str] = {}


def test_docker_and_lamina_say_the_same(
    peer_root: PeerRoot, tmp_path: Path, store_root: Path, lamina: Command
) -> None:
    small_image(store_root)
    docker = Docker(peer_root, tmp_path)

    def ours(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return lamina("--root", store_root, *words, **options)

    IMAGE.update({docker: "box", ours: "tiny"})
    with ThreadPoolExecutor(2) as pool:  # most of the time checks are waited for
        theirs, mine = pool.map(seen, (docker, ours))
    assert mine == theirs
