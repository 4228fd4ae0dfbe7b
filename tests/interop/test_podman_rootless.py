"""podman 5 of an ordinary user with `lamina-runtime`: in podman's own user namespace, and in one more with keep-id."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.busybox import write_archive
from support.engines import CONTAINERS, POLICY, STORAGE
from support.peers import PeerRoot, lamina_runtime
from support.rootless import NAME, SUBORDINATE, UID
from support.sources import SRC

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.peer("unshare", "nsenter", "mount", "busybox")]

Podman = Callable[..., "subprocess.CompletedProcess[str]"]
FIRST, COUNT = SUBORDINATE


@pytest.fixture
def podman(make_peer_root: Callable[..., PeerRoot], tmp_path: Path) -> Iterator[Podman]:
    """podman of a user who has subordinate ids, in a view of the peers root that knows him."""
    root = make_peer_root()
    place = tmp_path / "user"
    place.mkdir()
    write_archive(place / "image.tar")
    files = {"storage.conf": STORAGE.replace("/run/containers", "{place}/run"), "containers.conf": CONTAINERS}
    for name, text in files.items():
        (place / name).write_text(text.format(place=place, runtime=lamina_runtime(place)))
    accounts = f"""
        set -e
        echo '{NAME}:x:{UID}:{UID}::{place}:/bin/sh' >>/etc/passwd
        echo '{NAME}:x:{UID}:' >>/etc/group
        for file in subuid subgid; do echo '{NAME}:{FIRST}:{COUNT}' >>/etc/$file; done
        mkdir -p /etc/containers; echo '{POLICY}' >/etc/containers/policy.json
        mkdir -m 700 {place}/run {place}/tmp
        chown -R {UID}:{UID} {place}
        for path in {sys.prefix} {sys.base_prefix} {SRC} {place}; do
            while [ "$path" != / ]; do chmod -f o+x "$path" || true; path=$(dirname "$path"); done
        done
    """
    root.run(["sh", "-c", accounts], check=True)
    env = {
        "HOME": str(place), "XDG_RUNTIME_DIR": f"{place}/run", "TMPDIR": f"{place}/tmp",
        "CONTAINERS_STORAGE_CONF": f"{place}/storage.conf", "CONTAINERS_CONF": f"{place}/containers.conf",
    }  # fmt: skip

    def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        become = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "podman", *words]
        return root.run(become, env=env, cwd=place, **options)

    run("load", "-q", "-i", f"{place}/image.tar", check=True)
    yield run
    run("rm", "-af", "-t", "0")
    run("system", "reset", "-f")


def test_it_lives_and_ends(podman: Podman) -> None:
    said = podman(
        "run", "--rm", "box", "sh", "-c", "id -u; cat /proc/self/uid_map", check=True
    ).stdout.split()
    assert said[:4] == ["0", "0", str(UID), "1"]
    counting = "trap 'exit 4' TERM; while :; do sleep 0.1; done"
    podman("run", "-d", "--name", "box", "box", "sh", "-c", counting, check=True)
    assert podman("exec", "box", "sh", "-c", "echo through; exit 5").returncode == 5
    podman("stop", "-t", "100", "box", check=True)
    state = json.loads(podman("inspect", "--format", "{{json .State}}", "box", check=True).stdout)
    assert (state["Status"], state["ExitCode"]) == ("exited", 4)
    podman("start", "box", check=True)
    podman("kill", "box", check=True)
    assert podman("wait", "box", check=True).stdout == "137\n"
    podman("rm", "box", check=True)


def test_ids_are_podmans(podman: Podman) -> None:
    script = "id -u; cat /proc/self/uid_map"
    said = podman("run", "--rm", "--userns", "keep-id", "box", "sh", "-c", script, check=True).stdout.split()
    assert said[0] == str(UID)
    said = podman("run", "--rm", "--userns", "nomap", "box", "sh", "-c", script, check=True).stdout.split()
    assert said[:3] == ["0", "0", "1"]


def test_an_init_and_a_command_that_is_not_there(podman: Podman) -> None:
    assert podman("run", "--rm", "--init", "box", "sh", "-c", "exit 3").returncode == 3
    assert podman("run", "--rm", "box", "no-such").returncode == 127
