"""A container's control groups by way of the command: paused, changed, counted, killed as a whole, and gone."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.groups import eventually
from support.oci import Runtime

pytestmark = pytest.mark.root
MEGABYTE = 1 << 20
COUNTING = "i=0; while :; do i=$((i+1)); echo $i; done"


def groups(runtime: Runtime, identity: str) -> dict[str, Path]:
    """The container's groups, as its record has them."""
    record = json.loads((runtime.root / identity / "state.json").read_text())
    return {name: Path(place) for name, place in record["cgroup"]["paths"].items()}


def file_of(runtime: Runtime, identity: str, controller: str, v1: str, v2: str) -> str:
    paths = groups(runtime, identity)
    return (paths[controller] / v1 if controller in paths else paths[""] / v2).read_text().strip()


def said(runtime: Runtime, *words: str) -> str:
    done = runtime.ask(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_paused_container_stands_still(runtime: Runtime) -> None:
    runtime.begin("c", runtime.shell(COUNTING))
    output = runtime.directory / "c.out"
    eventually(lambda: output.stat().st_size > 1000)
    said(runtime, "pause", "c")
    assert runtime.state("c")["status"] == "paused"
    stopped = output.stat().st_size
    with pytest.raises(AssertionError):
        eventually(lambda: output.stat().st_size != stopped, timeout=0.3)
    assert runtime.ask("exec", "c", "true").returncode != 0
    said(runtime, "resume", "c")
    eventually(lambda: output.stat().st_size != stopped)
    assert runtime.state("c")["status"] == "running"


def test_a_paused_container_is_killed(runtime: Runtime) -> None:
    runtime.begin("c", runtime.bundle("sleep", "600"))
    said(runtime, "pause", "c")
    said(runtime, "kill", "c", "KILL")
    eventually(lambda: runtime.state("c")["status"] == "stopped")


def test_limits_are_changed_while_it_runs(runtime: Runtime) -> None:
    bundle = runtime.bundle("sleep", "600")
    bundle.config["linux"]["resources"] = {"memory": {"limit": 64 * MEGABYTE}, "pids": {"limit": 50}}
    runtime.begin("c", bundle)
    assert file_of(runtime, "c", "pids", "pids.max", "pids.max") == "50"
    said(runtime, "update", "--pids-limit", "60", "--memory", "128m", "--cpu-quota", "20000", "c")
    assert file_of(runtime, "c", "pids", "pids.max", "pids.max") == "60"
    assert file_of(runtime, "c", "memory", "memory.limit_in_bytes", "memory.max") == str(128 * MEGABYTE)
    assert file_of(runtime, "c", "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "20000"
    # as docker writes it: everything that was not asked for is zero
    asked = {
        "memory": {"limit": 0, "reservation": 0},
        "cpu": {"shares": 0, "cpus": ""},
        "blockIO": {"weight": 0},
    }
    done = runtime.ask("update", "--resources", "-", "c", input=json.dumps(asked), stdin=None)
    assert done.returncode == 0, done.stderr
    assert file_of(runtime, "c", "memory", "memory.limit_in_bytes", "memory.max") == str(128 * MEGABYTE)


def test_limits_beside_a_file_that_says_nothing_of_them(runtime: Runtime) -> None:
    runtime.begin("c", runtime.bundle("sleep", "600"))
    words = ["update", "--resources", "-", "--memory", "64m", "--pids-limit", "60", "c"]
    done = runtime.ask(*words, input=json.dumps({"memory": None, "pids": {"limit": 50}}), stdin=None)
    assert done.returncode == 0, done.stderr
    assert file_of(runtime, "c", "memory", "memory.limit_in_bytes", "memory.max") == str(64 * MEGABYTE)
    assert file_of(runtime, "c", "pids", "pids.max", "pids.max") == "60"


@pytest.mark.parametrize(
    "resources",
    [{"memory": 5}, {"memory": {"limit": "1"}}, {"devices": [None]}, {"blockIO": {"weightDevice": "x"}}],
    ids=repr,
)
def test_limits_that_cannot_be_meant_are_refused(runtime: Runtime, resources: dict[str, Any]) -> None:
    runtime.begin("c", runtime.bundle("sleep", "600"))
    refused = runtime.ask("update", "--resources", "-", "c", stdin=None, input=json.dumps(resources))
    assert (refused.returncode, "read resources: " in refused.stderr) == (1, True)


def test_limits_of_a_container_that_had_none(runtime: Runtime) -> None:
    bundle = runtime.bundle("sleep", "600")
    bundle.config["linux"]["resources"] = None
    runtime.begin("c", bundle)
    said(runtime, "update", "--pids-limit", "44", "c")
    assert file_of(runtime, "c", "pids", "pids.max", "pids.max") == "44"


def test_what_it_uses_is_said_in_numbers(runtime: Runtime) -> None:
    bundle = runtime.shell("i=0; while [ $i -lt 5000 ]; do i=$((i+1)); done; echo done; sleep 600")
    bundle.config["linux"]["resources"] = {"memory": {"limit": 64 * MEGABYTE}, "pids": {"limit": 50}}
    runtime.begin("c", bundle)
    eventually(lambda: runtime.output("c") == "done\n")
    # what it does after that is begun a moment later
    eventually(lambda: len(json.loads(said(runtime, "ps", "--format", "json", "c"))) == 2)
    (event,) = [json.loads(line) for line in said(runtime, "events", "--stats", "c").splitlines()]
    assert (event["type"], event["id"]) == ("stats", "c")
    assert event["data"]["cpu"]["usage"]["total"] > 0
    assert event["data"]["memory"]["usage"]["limit"] == 64 * MEGABYTE
    assert event["data"]["memory"]["usage"]["usage"] > 0
    assert event["data"]["pids"] == {"current": 2, "limit": 50}


def test_a_memory_hog_is_an_event(runtime: Runtime) -> None:
    bundle = runtime.shell(
        "while [ ! -e /tmp/go ]; do sleep 0.05; done; head -c 500m /dev/zero | tail; sleep 600"
    )
    bundle.config["linux"]["resources"] = {"memory": {"limit": 32 * MEGABYTE, "swap": 32 * MEGABYTE}}
    runtime.begin("c", bundle)
    words = [*runtime.command, "--root", str(runtime.root), "events", "--interval", "200ms", "c"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as events:
        assert events.stdout is not None
        while json.loads(events.stdout.readline())["type"] != "stats":
            pass
        (bundle.rootfs / "tmp/go").touch()
        while (event := json.loads(events.stdout.readline()))["type"] != "oom":
            pass
        assert event == {"type": "oom", "id": "c"}
        # the shell may be dead already: before the first one's memory is free, head may be refused some as well
        runtime.ask("kill", "c", "KILL")
        assert events.wait(100) == 0


def test_everybody_is_killed(runtime: Runtime) -> None:
    runtime.begin("c", runtime.shell("sleep 600 & sleep 600 & echo ready; wait"))
    eventually(lambda: runtime.output("c") == "ready\n")
    pids = json.loads(said(runtime, "ps", "--format", "json", "c"))
    assert len(pids) == 3
    said(runtime, "kill", "--all", "c", "KILL")
    eventually(lambda: json.loads(said(runtime, "ps", "--format", "json", "c")) == [])
    runtime.wait("c")  # who dies leaves the group first
    said(runtime, "delete", "c")


def test_nothing_is_left(runtime: Runtime) -> None:
    runtime.begin("c", runtime.bundle("sleep", "600"))
    places = set(groups(runtime, "c").values())
    assert all(place.is_dir() for place in places)
    said(runtime, "delete", "--force", "c")
    assert not any(place.exists() or place.parent.exists() for place in places)


def test_devices_are_those_of_the_list(runtime: Runtime) -> None:
    """CAP_MKNOD makes the node; the group decides whether it leads anywhere."""
    bundle = runtime.shell("mknod /dev/kmsg c 1 11; ls /dev/kmsg; echo >/dev/null && exec 3</dev/kmsg")
    for kind in bundle.config["process"]["capabilities"].values():
        kind.append("CAP_MKNOD")
    bundle.config["linux"]["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    done = runtime("run", "--bundle", bundle.write(), "c", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.stdout == "/dev/kmsg\n"
    assert "cannot open /dev/kmsg: Operation not permitted" in done.stderr


@pytest.mark.cgroup_v1("memory")
@pytest.mark.parametrize("resources", [None, {}, {"devices": []}, {"pids": {"limit": 50}}], ids=repr)
def test_without_a_list_no_device_of_the_hosts_can_be_opened(
    runtime: Runtime, resources: dict[str, Any] | None
) -> None:
    """Neither one that the image brings along nor one that the container makes; but one that it is given."""
    names = "/dev/nothing /dev/given /dev/own /etc/brought"
    bundle = runtime.shell(
        "mknod /dev/own c 10 237; mknod /dev/nothing c 1 3; exec 2>/dev/null;"
        f"for name in {names}; do (exec 3< $name) && echo $name; done; echo over"
    )
    os.mknod(bundle.rootfs / "etc/brought", stat.S_IFCHR | 0o666, os.makedev(10, 237))
    bundle.config["linux"]["devices"] = [{"type": "c", "path": "/dev/given", "major": 10, "minor": 229}]
    for kind in ("bounding", "effective", "permitted"):
        bundle.config["process"]["capabilities"][kind] += ["CAP_MKNOD", "CAP_SYSLOG"]
    if resources is not None:
        bundle.config["linux"]["resources"] = resources
    done = runtime("run", "--bundle", bundle.write(), "c", capture_output=True)
    assert (done.returncode, done.stdout) == (0, "/dev/nothing\n/dev/given\nover\n")


@pytest.mark.cgroup_v1("memory")
def test_what_differs_from_what_was_asked_is_a_warning(runtime: Runtime, tmp_path: Path) -> None:
    """Kernels take a limit for their own memory and do nothing; older ones set it, and then there is nothing to say."""
    log = tmp_path / "log"
    logging = Runtime(tmp_path, [*runtime.command, "--log", str(log)])
    bundle = runtime.bundle("sleep", "600")
    bundle.config["linux"]["resources"] = {"memory": {"kernel": 64 * MEGABYTE}}
    logging.begin("c", bundle)
    kernel = (groups(runtime, "c")["memory"] / "memory.kmem.limit_in_bytes").read_text()
    told = log.exists() and "does not limit its own memory apart" in log.read_text()
    assert told is (kernel != f"{64 * MEGABYTE}\n")


def test_a_limit_that_this_host_cannot_set_leaves_nothing(runtime: Runtime) -> None:
    bundle = runtime.bundle("true")
    bundle.config["linux"]["resources"] = {"rdma": {"mlx5_0": {"hcaHandles": 1}}}
    with pytest.raises(AssertionError, match="rdma"):
        runtime.create("c", bundle)
    assert runtime.ask("state", "c").returncode != 0


def test_a_colon_in_an_absolute_path_is_part_of_a_name(runtime: Runtime) -> None:
    """In a relative one it stands between systemd's words, of whoever does not ask systemd."""
    for number, path in enumerate((f"/of-{os.getpid()}/a:b", f"of-{os.getpid()}:c:d")):
        bundle = runtime.bundle("sleep", "600")
        bundle.config["linux"]["cgroupsPath"] = path
        runtime.begin(f"c{number}", bundle)
    ends = [str(next(iter(groups(runtime, f"c{number}").values()))) for number in range(2)]
    assert ends[0].endswith(f"/of-{os.getpid()}/a:b")
    assert ends[1].endswith(f"/of-{os.getpid()}/c/d")


def test_who_asks_for_the_groups_of_another_container_does_it_no_harm(runtime: Runtime) -> None:
    """Also where their path begins as those of our own choice do."""
    first, second = runtime.bundle("sleep", "600"), runtime.bundle("sleep", "600")
    for bundle in (first, second):
        bundle.config["linux"]["cgroupsPath"] = f"/lamina-runtime/of-{os.getpid()}"
    runtime.begin("first", first)
    with pytest.raises(AssertionError, match="live there"):
        runtime.create("second", second)
    assert runtime.status("first") == "running"
    assert not (runtime.root / "second").exists()
