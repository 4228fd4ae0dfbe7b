"""`lamina-runtime` as an ordinary user: in a user namespace, with one id or with the subordinate ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from support.oci import COMMAND, Bundle
from support.rootless import Rootless

pytestmark = pytest.mark.userns


class Ordinary:
    """The command as an ordinary user, with a bundle whose ids are mapped."""

    def __init__(self, user: Rootless) -> None:
        self.user = user
        self.place = user.mkdir("oci")
        self.root = self.place / "state"

    def bundle(self, *args: str) -> Path:
        """The path of a bundle of this user's."""
        directory = self.place / "bundle"
        directory.mkdir()
        bundle = Bundle(directory, *args)
        linux = bundle.config["linux"]
        linux["namespaces"].append({"type": "user"})
        linux.pop("cgroupsPath", None)
        uid, gid = self.user.uid, self.user.gid
        linux["uidMappings"] = [{"containerID": 0, "hostID": uid, "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": gid, "size": 1}]
        bundle.write()
        self.user.give(directory)
        return directory

    def __call__(self, *words: str | Path, **options: Any) -> Any:
        command = [sys.executable, "-m", "lamina.runtime_cli", "--root", self.root, *words]
        return self.user.run(*command, **options)


@pytest.fixture
def ordinary(rootless: Rootless) -> Ordinary:
    """Whose containers are deleted by the tests themselves."""
    return Ordinary(rootless)


def test_a_life_without_root(ordinary: Ordinary) -> None:
    bundle = ordinary.bundle("sh", "-c", "id -u; hostname; cat /proc/self/uid_map; exec sleep 600")
    log = ordinary.place / "out"
    log.touch()
    ordinary.user.give(log)
    with open(log, "w") as output:
        created = ordinary("create", "--bundle", bundle, "c", stdout=output, stderr=output)
    assert created.returncode == 0, log.read_text()
    assert json.loads(ordinary("state", "c").stdout)["status"] == "created"
    assert ordinary("start", "c").returncode == 0
    done = ordinary("exec", "c", "sh", "-c", "id -u; hostname; readlink /proc/self/ns/user")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["0", "box"]
    end = time.monotonic() + 100
    while len(said := log.read_text().split()) < 5:  # it need not have been faster than the other one
        assert time.monotonic() < end, said
        time.sleep(0.02)
    assert ordinary("kill", "c", "KILL").returncode == 0
    assert ordinary("delete", "--force", "c").returncode == 0
    assert said[:2] == ["0", "box"]
    assert said[2:] == ["0", str(ordinary.user.uid), "1"]
    assert ordinary("list", "-q").stdout == ""


def test_another_process_of_a_container_in_the_user_namespace_of_another_one(ordinary: Ordinary) -> None:
    """Where nobody may change groups: who execs later finds that out as well, also when the other one is gone."""
    first = ordinary.bundle("sleep", "600")
    config = json.loads((first / "config.json").read_text())
    log = ordinary.place / "out"
    log.touch()
    ordinary.user.give(log)
    with open(log, "w") as output:
        try:
            for name in ("a", "b"):
                created = ordinary("create", "--bundle", first, name, stdout=output, stderr=output)
                assert created.returncode == 0, log.read_text()
                assert ordinary("start", name).returncode == 0
                pid = json.loads(ordinary("state", name).stdout)["pid"]
                [user] = (one for one in config["linux"]["namespaces"] if one["type"] == "user")
                gone, user["path"] = Path(user.get("path") or "/a/b").parents[1], f"/proc/{pid}/ns/user"
                for key in ("uidMappings", "gidMappings"):
                    config["linux"].pop(key, None)
                (first / "config.json").write_text(json.dumps(config))
            assert ordinary("delete", "--force", "a").returncode == 0
            end = time.monotonic() + 100
            while gone.exists():  # until it is reaped
                assert time.monotonic() < end, gone
                time.sleep(0.02)
            done = ordinary("exec", "b", "id", "-u")
            assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr
        finally:
            for name in ("a", "b"):
                ordinary("delete", "--force", name)


def test_everybody_in_a_container_is_found_without_control_groups(ordinary: Ordinary) -> None:
    """Those who are in its pid namespace, whoever made them: children of the first process, and of an `exec`."""
    # process 1 ends by TERM because it answers, the others because they do not
    bundle = ordinary.bundle("sh", "-c", "trap 'exit 9' TERM; sleep 600 & sleep 600 & while :; do wait; done")
    log = ordinary.place / "out"
    log.touch()
    ordinary.user.give(log)
    with open(log, "w") as output:
        assert ordinary("create", "--bundle", bundle, "c", stdout=output, stderr=output).returncode == 0
        assert ordinary("start", "c").returncode == 0
        done = ordinary("exec", "--detach", "c", "sleep", "600", stdout=output, stderr=output)
        assert done.returncode == 0, log.read_text()
    try:
        end, names = time.monotonic() + 100, [""]
        while names != ["sh", "sleep", "sleep", "sleep"]:  # each is a shell until it executes
            assert time.monotonic() < end, names
            pids = json.loads(ordinary("ps", "--format", "json", "c").stdout)
            names = sorted(Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids)
        assert ordinary("kill", "--all", "c", "TERM").returncode == 0
        while any(map(is_alive, pids)):
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        assert ordinary("delete", "--force", "c").returncode == 0


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_who_is_in_a_shared_pid_namespace_is_not_known_without_control_groups(ordinary: Ordinary) -> None:
    directory = ordinary.bundle("sleep", "600")
    config = json.loads((directory / "config.json").read_text())
    config["linux"]["namespaces"].remove({"type": "pid"})
    config["mounts"] = [m for m in config["mounts"] if m["type"] != "proc"]
    (directory / "config.json").write_text(json.dumps(config))
    log = ordinary.place / "out"
    log.touch()
    ordinary.user.give(log)
    with open(log, "w") as output:
        done = ordinary("create", "--bundle", directory, "c", stdout=output, stderr=output)
    assert done.returncode == 0, log.read_text()
    try:
        if not json.loads((ordinary.root / "c/state.json").read_text())["cgroup"]:
            for words in (["ps", "c"], ["kill", "--all", "c", "TERM"]):
                refused = ordinary(*words)
                assert refused.returncode == 1
                assert "shares its pid namespace" in refused.stderr
    finally:
        assert ordinary("delete", "--force", "c").returncode == 0


def test_run_without_root(ordinary: Ordinary) -> None:
    done = ordinary("run", "--bundle", ordinary.bundle("sh", "-c", "echo hi; exit 3"), "c")
    assert (done.returncode, done.stdout) == (3, "hi\n"), done.stderr


def test_what_a_mount_that_is_refused_means(ordinary: Ordinary) -> None:
    """A new sysfs shows the network namespace that it is mounted in, which must be the user's own."""
    directory = ordinary.bundle("true")
    config = json.loads((directory / "config.json").read_text())
    config["linux"]["namespaces"].remove({"type": "network"})
    config["mounts"].append({"destination": "/sys", "type": "sysfs", "source": "sysfs"})
    (directory / "config.json").write_text(json.dumps(config))
    refused = ordinary("create", "--bundle", directory, "c")
    assert refused.returncode == 1
    assert "mount sysfs at /sys: this host does not permit a new sysfs" in refused.stderr
    assert "step" not in refused.stderr


@pytest.mark.parametrize("further", [[], [{"type": "user"}]], ids=["in it", "in another one"])
def test_root_of_a_user_namespace_is_no_more_than_that(tmp_path: Path, further: list[Any]) -> None:
    """As podman without root runs it: with every capability, but only over what belongs to its user namespace."""
    bundle = Bundle(tmp_path, "sh", "-c", "ulimit -Hn; echo $(cat /proc/self/uid_map)")
    namespaces = bundle.config["linux"]["namespaces"]
    bundle.config["linux"]["namespaces"] = [n for n in namespaces if n["type"] != "cgroup"] + further
    if further:
        one = [{"containerID": 0, "hostID": 0, "size": 1}]
        bundle.config["linux"].update(uidMappings=one, gidMappings=one)
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if m["type"] != "devpts"]
    entered = ["unshare", "-Urmp", "--fork", "--mount-proc", "sh", "-c", 'ulimit -n 300; exec "$@"', "sh"]
    command = [*COMMAND, "--root", str(tmp_path / "state"), "run", "c", "--bundle", str(bundle.write())]
    done = subprocess.run([*entered, *command], capture_output=True, text=True, timeout=200)
    assert done.stderr == ""
    assert done.stdout == f"300\n0 {os.geteuid() if not further else 0} 1\n"
