"""Limits and policies changed, while it runs and for its next start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lamina import Container, Engine
from lamina.errors import InvalidInput
from lamina.runtime.cgroups import Cgroup, reopen
from support.leaks import Leaks
from support.lives import state_of, until
from support.running import running

pytestmark = pytest.mark.root

MIB = 1 << 20


def group(box: Container) -> Cgroup:
    return reopen(state_of(box)["cgroup"])


def processors(box: Container) -> float | None:
    """How many it may use, by the kernel."""
    paths = group(box).paths
    if "cpu" in paths:
        quota, period = (
            int(Path(f"{paths['cpu'].decode()}/cpu.cfs_{name}_us").read_text())
            for name in ("quota", "period")
        )
        return None if quota < 0 else quota / period
    most, _, period_ = Path(paths[""].decode(), "cpu.max").read_text().partition(" ")
    return None if most == "max" else int(most) / int(period_)


def limits(box: Container) -> tuple[int | None, int | None, float | None]:
    stats = group(box).stats()
    assert stats.memory is not None
    assert stats.pids is not None
    return stats.memory.limit_bytes, stats.pids.limit, processors(box)


def test_limits_change_at_once_and_stay(engine: Engine) -> None:
    box = engine.start("host", ["sleep", "1000"], memory="64m", name="box")
    assert limits(box) == (64 * MIB, None, None)
    assert box.update(memory="128m", pids_limit=50, cpus=0.5) == []
    assert limits(box) == (128 * MIB, 50, 0.5)
    asked = box.inspect()["HostConfig"]
    assert (asked["Memory"], asked["PidsLimit"], asked["CpuQuota"]) == (128 * MIB, 50, 50_000)
    box.restart(timeout=0)
    assert limits(box) == (128 * MIB, 50, 0.5)
    box.update(memory="32m")
    assert limits(box) == (32 * MIB, 50, 0.5)
    box.update(memory=0, pids_limit=0, cpus=0)
    assert limits(box) == (None, None, None)
    box.restart(timeout=0)
    assert limits(box) == (None, None, None)


def test_what_is_rarely_asked_for_changes_too(engine: Engine) -> None:
    box = engine.start("host", ["sleep", "1000"], memory="64m")
    box.update(memory_swap="96m", cpu_shares=512)
    place = group(box).paths.get("cpu")
    if place is not None:
        assert Path(place.decode(), "cpu.shares").read_text() == "512\n"
    box.restart(timeout=0)
    stats = group(box).stats()
    assert stats.memory is not None
    assert (stats.memory.limit_bytes, stats.memory.swap_limit_bytes) in (
        (64 * MIB, 32 * MIB),
        (64 * MIB, None),  # swap is not counted on this machine
    )
    if place is not None:
        assert Path(group(box).paths["cpu"].decode(), "cpu.shares").read_text() == "512\n"


def test_every_limit_that_docker_changes(engine: Engine) -> None:
    box = engine.start("host", ["sleep", "1000"], memory="64m", blkio_weight=100, cpuset_cpus="0-1")
    place = group(box).paths.get("blkio")
    box.update(memory_reservation="32m", cpu_period=50_000, cpu_quota=25_000, cpuset_cpus="0")
    assert processors(box) == 0.5
    memory, cpuset = (group(box).paths.get(name) for name in ("memory", "cpuset"))
    if memory is not None:
        assert Path(memory.decode(), "memory.soft_limit_in_bytes").read_text() == f"{32 * MIB}\n"
    if cpuset is not None:
        assert Path(cpuset.decode(), "cpuset.cpus").read_text() == "0\n"
    box.update(memory_reservation=0, cpu_quota=0)
    assert processors(box) is None
    if memory is not None:
        assert int(Path(memory.decode(), "memory.soft_limit_in_bytes").read_text()) > 1 << 40
    if place is not None:
        box.update(blkio_weight=300)
        found = [Path(place.decode(), name) for name in ("blkio.bfq.weight", "blkio.weight")]
        assert any(path.exists() and "300" in path.read_text() for path in found)
    box.restart(timeout=0)
    if cpuset is not None:
        assert Path(group(box).paths["cpuset"].decode(), "cpuset.cpus").read_text() == "0\n"
    for change in (lambda: box.update(cpuset_cpus=""), lambda: box.update(blkio_weight=0)):
        with pytest.raises(InvalidInput, match="it can be changed, and not be lifted"):
            change()


def cpus(box: Container) -> list[str]:
    """Where each process of it may run."""
    found = [line[1] for line in box.top(["-ef"])["Processes"]]
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in found]
    return [text.partition("Cpus_allowed_list:\t")[2].split("\n")[0] for text in statuses]


FAMILY = ["sh", "-c", "sleep 1000 & sleep 1000 & wait"]


def test_a_limit_of_a_controller_that_it_began_without(engine: Engine, untouched_host: Leaks) -> None:
    """Nobody asked for processors at its start: so there is no such group yet, and there is one afterwards."""
    box = engine.start("host", FAMILY)
    until(lambda: len(cpus(box)) == 3)
    box.update(cpuset_cpus="0", blkio_weight=200)
    assert cpus(box) == ["0"] * 3
    assert box.state == "running"
    box.pause()
    box.update(cpuset_cpus="0")
    assert box.state == "paused"
    box.remove(force=True)
    assert untouched_host.left() == []


def test_of_one_in_the_foreground_as_well(engine: Engine, untouched_host: Leaks) -> None:
    with running(engine, *FAMILY, image="host") as box:
        until(lambda: len(cpus(box)) == 3)
        box.update(cpuset_cpus="0", blkio_weight=200)
        assert cpus(box) == ["0"] * 3
    assert untouched_host.left() == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"cpuset_cpus": ""}, "update: cpuset cpus: it can be changed, and not be lifted"),
        ({"blkio_weight": 0}, "update: blkio weight: it can be changed, and not be lifted"),
        ({"memory_swap": "32m"}, "update: memory swap without a memory limit"),
    ],
)
def test_what_cannot_be_is_said_of_one_that_is_removed_with_its_command_as_well(
    engine: Engine, untouched_host: Leaks, given: dict[str, Any], said: str
) -> None:
    with running(engine, *FAMILY, image="host", options=("--rm",)) as box:
        with pytest.raises(InvalidInput) as raised:
            box.update(**given)
        assert raised.value.message.startswith(said)
    assert untouched_host.left() == []


def test_one_that_rests_has_them_at_its_next_start(engine: Engine) -> None:
    box = engine.create("host", ["sleep", "1000"])
    box.update(memory="64m")
    assert box.state == "created"
    box.start()
    assert limits(box)[0] == 64 * MIB
    box.pause()
    box.update(pids_limit=9)
    assert limits(box)[:2] == (64 * MIB, 9)


def test_a_policy_counts_from_now_on(engine: Engine) -> None:
    box = engine.start("host", ["sh", "-c", "sleep 1000 & wait"])
    box.update(restart="always")
    first = box.inspect()["State"]["Pid"]
    assert box.inspect()["HostConfig"]["RestartPolicy"]["Name"] == "always"
    box.kill("HUP")  # not what asks it to stay stopped
    until(lambda: box.state == "running" and box.inspect()["State"]["Pid"] not in (0, first))
    second = box.inspect()["State"]["Pid"]
    box.update(restart="no")
    box.kill("HUP")
    until(lambda: box.state == "exited")
    assert second != first


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "update: nothing to change"),
        ({"memory": "lots"}, "update: memory lots: not a size"),
        ({"memory_swap": "32m"}, "update: memory swap is less than memory"),
        ({"restart": "sometimes"}, "update: restart policy sometimes"),
        ({"cpu_shares": -1}, "update: cpu shares"),
    ],
)
def test_what_cannot_be_changes_nothing(engine: Engine, given: dict[str, Any], said: str) -> None:
    box = engine.start("host", ["sleep", "1000"], memory="64m")
    before = box.inspect()["HostConfig"]
    with pytest.raises(InvalidInput) as raised:
        box.update(**given)
    assert raised.value.message.startswith(said)
    assert (limits(box)[0], box.inspect()["HostConfig"]) == (64 * MIB, before)


def test_one_that_is_removed_at_its_end_is_not_started_again(engine: Engine) -> None:
    box = engine.start("host", ["sleep", "1000"], rm=True)
    with pytest.raises(InvalidInput, match="contradict"):
        box.update(restart="always")
    box.update(memory="64m")
    assert limits(box)[0] == 64 * MIB
    box.stop()
    until(lambda: not engine.containers(all=True))


def test_a_limit_that_is_not_known_is_a_type_error(engine: Engine) -> None:
    box = engine.create("host", ["true"])
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        box.update(colour="red")  # type: ignore[call-arg]
