"""Every limit of the running kernel: written, read back, and provoked; then frozen, killed, changed and removed.

The same tests run on this machine's hierarchies, whatever they are, and on cgroup v2 alone in the virtual machine of
`make test-vm`.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.errors import Conflict, KernelError, NotFound, TimeoutExpired, Unsupported
from lamina.runtime.cgroups import Layout, create, find, read_layout, reopen
from lamina.runtime.cgroups.delegation import own
from lamina.runtime.cgroups.tree import remove_tree
from support.groups import BUSY, Boxes, disk_below, eventually, file_of

pytestmark = pytest.mark.root
MEGABYTE = 1 << 20
COUNT = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"
HOG = "head -c 500m /dev/zero | tail"  # tail keeps its input
KILLED = (128 + signal.SIGKILL, -signal.SIGKILL)  # the hog, or the shell that waits for it
LAYOUT = read_layout()


@pytest.fixture
def boxes() -> Iterator[Boxes]:
    made = Boxes()
    try:
        yield made
    finally:
        made.close()


def both(v1: str, v2: str, controller: str) -> str:
    """The file's name where *controller* is."""
    return v1 if controller in LAYOUT.v1 else v2


# -- limits


def test_a_memory_hog_is_killed_and_reported(boxes):
    cgroup = boxes.make({"memory": {"limit": 32 * MEGABYTE, "swap": 32 * MEGABYTE}})
    limit = file_of(cgroup, "memory", both("memory.limit_in_bytes", "memory.max", "memory"))
    assert limit.read_text() == f"{32 * MEGABYTE}\n"
    assert cgroup.oom_kills() == 0
    with cgroup.watch_oom() as watch:
        poll = select.poll()
        poll.register(watch, watch.events)
        assert watch.kills() == 0
        done = boxes.run(cgroup, HOG)
        assert poll.poll(100_000)
        assert watch.kills() >= 1
        assert watch.kills() == 0
    assert done.returncode in KILLED
    assert cgroup.oom_kills() >= 1
    memory = cgroup.stats().memory
    assert memory is not None
    assert memory.limit_bytes == 32 * MEGABYTE
    assert memory.oom_kills == cgroup.oom_kills()
    assert memory.peak_bytes is None or memory.peak_bytes > 16 * MEGABYTE


def test_meeting_the_limit_is_counted(boxes):
    cgroup = boxes.make({"memory": {"limit": 32 * MEGABYTE}})
    boxes.run(cgroup, HOG)  # it may find a place in swap
    memory = cgroup.stats().memory
    assert memory is not None and memory.failures > 0


def test_kills_in_a_group_made_inside_are_counted(boxes):
    cgroup = boxes.make({"memory": {"limit": 32 * MEGABYTE, "swap": 32 * MEGABYTE}})
    inner = file_of(cgroup, "memory", "inner")
    inner.mkdir()
    procs = inner / "cgroup.procs"
    done = boxes.run(cgroup, f"echo 0 >{procs}; {HOG}")
    assert done.returncode in KILLED, done.stderr
    assert cgroup.oom_kills() >= 1


@pytest.mark.cgroup_v1("memory")
def test_what_only_v1_can_say_of_memory(boxes):
    cgroup = boxes.make({"memory": {"swappiness": 7, "disableOOMKiller": True, "kernelTCP": 1 << 20}})
    assert file_of(cgroup, "memory", "memory.swappiness").read_text() == "7\n"
    assert "oom_kill_disable 1\n" in file_of(cgroup, "memory", "memory.oom_control").read_text()
    assert file_of(cgroup, "memory", "memory.kmem.tcp.limit_in_bytes").read_text() == f"{1 << 20}\n"
    cgroup.update({"memory": {"disableOOMKiller": False, "kernel": 1 << 20}})
    assert "oom_kill_disable 0\n" in file_of(cgroup, "memory", "memory.oom_control").read_text()
    kernel = file_of(cgroup, "memory", "memory.kmem.limit_in_bytes").read_text()
    assert (kernel == f"{1 << 20}\n") is (cgroup.notes == [])  # newer kernels take it and do nothing


def test_a_fork_bomb_is_stopped(boxes):
    cgroup = boxes.make({"pids": {"limit": 8}})
    assert file_of(cgroup, "pids", "pids.max").read_text() == "8\n"
    bomb = boxes.start(cgroup, "bomb() { bomb | bomb & }; bomb; sleep 60")
    refused = file_of(cgroup, "pids", "pids.events")
    eventually(lambda: refused.read_text() != "max 0\n")
    pids = cgroup.stats().pids
    assert pids is not None
    assert pids.limit == 8
    assert pids.refused is not None and pids.refused > 0
    assert len(cgroup.processes()) <= 8
    cgroup.kill()
    assert cgroup.processes() == []
    bomb.wait(100)


def test_a_busy_loop_is_throttled(boxes):
    cgroup = boxes.make({"cpu": {"quota": 5_000, "period": 50_000, "shares": 2048}})
    if "cpu" in LAYOUT.v1:
        files = {"cpu.cfs_quota_us": "5000\n", "cpu.cfs_period_us": "50000\n", "cpu.shares": "2048\n"}
    else:
        files = {"cpu.max": "5000 50000\n", "cpu.weight": "174\n"}
    assert {name: file_of(cgroup, "cpu", name).read_text() for name in files} == files
    boxes.start(cgroup, BUSY)

    def throttled() -> bool:
        cpu = cgroup.stats().cpu
        return cpu is not None and cpu.throttled_periods > 2 and cpu.throttled_ns > 0 and cpu.periods > 2

    eventually(throttled)


def test_burst_and_idle(boxes):
    cgroup = boxes.make({"cpu": {"quota": 20_000, "period": 50_000, "burst": 10_000, "idle": 1}})
    assert file_of(cgroup, "cpu", both("cpu.cfs_burst_us", "cpu.max.burst", "cpu")).read_text() == "10000\n"
    assert file_of(cgroup, "cpu", "cpu.idle").read_text() == "1\n"
    assert cgroup.stats().cpu.bursts == 0
    cgroup.update({"cpu": {"idle": 0, "shares": 512, "quota": 5_000, "burst": 1_000}})
    assert file_of(cgroup, "cpu", "cpu.idle").read_text() == "0\n"


def test_processors_are_those_of_the_set(boxes):
    last = max(os.sched_getaffinity(0))
    cgroup = boxes.make({"cpu": {"cpus": str(last), "mems": "0"}})
    assert file_of(cgroup, "cpuset", "cpuset.cpus").read_text() == f"{last}\n"
    done = boxes.run(cgroup, "grep Cpus_allowed_list: /proc/self/status")
    assert done.stdout.split() == ["Cpus_allowed_list:", str(last)]


def test_processors_that_are_not_there(boxes):
    there = Path("/sys/devices/system/cpu/online").read_text().strip()
    with pytest.raises(KernelError, match=f"there is {there}") as caught:
        boxes.make({"cpu": {"cpus": "4000", "mems": "0"}})
    assert "lscpu" in caught.value.remedy


def test_usage_is_counted(boxes):
    cgroup = boxes.make({}, everywhere=True)
    # of so short a life no tick of the clock may have come in its own code: then all of it counts as the kernel's
    eventually(lambda: boxes.run(cgroup, COUNT) and cgroup.stats().cpu.user_ns)
    stats = cgroup.stats()
    assert stats.cpu is not None and stats.memory is not None and stats.pids is not None
    assert stats.cpu.usage_ns > 0
    assert stats.cpu.user_ns is not None and 0 < stats.cpu.user_ns <= 2 * stats.cpu.usage_ns
    assert stats.memory.limit_bytes is None
    assert stats.memory.detail
    assert stats.pids.limit is None
    assert stats.pids.current == 0


def test_rates_of_a_disk(boxes):
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        major, minor = map(int, disk_below(Path(directory)).split(":"))
        disk = {"major": major, "minor": minor}
        reads, writes = {**disk, "rate": 1 << 30}, {**disk, "rate": 1000}
        cgroup = boxes.make(
            {"blockIO": {"throttleReadBpsDevice": [reads], "throttleWriteIOPSDevice": [writes]}}
        )
        if "blkio" in LAYOUT.v1:
            read_bps = file_of(cgroup, "blkio", "blkio.throttle.read_bps_device")
            assert read_bps.read_text() == f"{major}:{minor} {1 << 30}\n"
        else:
            most = file_of(cgroup, "io", "io.max")
            assert most.read_text() == f"{major}:{minor} rbps={1 << 30} wbps=max riops=max wiops=1000\n"
        done = boxes.run(cgroup, f"dd if=/dev/zero of={directory}/f bs=64k count=4 oflag=direct")
        assert done.returncode == 0, done.stderr
        (device,) = [d for d in cgroup.stats().io if (d.major, d.minor) == (major, minor)]
        assert device.write_bytes >= 256 * 1024
        assert device.writes >= 1


def test_a_disk_that_is_not_there(boxes):
    with pytest.raises(KernelError, match="there is no such device"):
        boxes.make({"blockIO": {"throttleReadBpsDevice": [{"major": 250, "minor": 99, "rate": 1}]}})


# -- devices

OPEN = "exec 3<{0} && echo opened"


NOTHING = {"allow": False, "access": "rwm"}
KMSG = {"allow": True, "type": "c", "major": 1, "minor": 11}


@pytest.fixture
def place_for_nodes() -> Iterator[Path]:
    """Not the place of temporary files, which many systems mount nodev."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        yield Path(directory)


def test_devices_are_denied_unless_allowed(boxes, place_for_nodes):
    cgroup = boxes.make({"devices": [NOTHING]})
    assert boxes.run(cgroup, OPEN.format("/dev/zero")).stdout == "opened\n"
    node = place_for_nodes / "kmsg"
    denied = boxes.run(cgroup, f"mknod {node} c 1 11; exec 3<{node}")
    assert node.is_char_device(), denied.stderr  # to make it is allowed, as in every engine
    assert "Operation not permitted" in denied.stderr
    # and changed while it runs
    cgroup.update({"devices": [NOTHING, {**KMSG, "access": "r"}]})
    assert boxes.run(cgroup, OPEN.format("/dev/kmsg")).stdout == "opened\n"
    assert "Operation not permitted" in boxes.run(cgroup, "exec 3>/dev/kmsg").stderr
    cgroup.update({"devices": [NOTHING, {**KMSG, "access": "rw"}]})
    assert boxes.run(cgroup, "exec 3>/dev/kmsg && echo opened").stdout == "opened\n"
    cgroup.update({"devices": [NOTHING]})
    assert "Operation not permitted" in boxes.run(cgroup, OPEN.format("/dev/kmsg")).stderr
    assert boxes.run(cgroup, OPEN.format("/dev/zero")).stdout == "opened\n"


def test_the_order_of_the_list_counts(boxes):
    cgroup = boxes.make(
        {"devices": [NOTHING, {**KMSG, "access": "rw"}, {**KMSG, "allow": False, "access": "w"}]}
    )
    assert boxes.run(cgroup, OPEN.format("/dev/kmsg")).stdout == "opened\n"
    assert boxes.run(cgroup, "exec 3>/dev/kmsg").returncode != 0
    assert boxes.run(cgroup, "exec 3<>/dev/kmsg").returncode != 0


def test_devices_inside_cannot_be_more_than_above(boxes):
    if "devices" not in LAYOUT.v1:
        outer = boxes.make({"devices": [{"allow": False, "access": "rwm"}]})
        inner = create(f"{boxes.parent}/box/inner", {"devices": [{"allow": True, "access": "rwm"}]})
        assert inner is not None
        assert boxes.run(inner, OPEN.format("/dev/kmsg")).returncode != 0
        inner.close()
        del outer
        return
    boxes.make({"devices": [{"allow": False, "access": "rwm"}]})
    with pytest.raises(KernelError, match="the group above does not allow it"):
        create(f"{boxes.parent}/box/inner", {"devices": [{"allow": True, "access": "rwm"}]})


# -- freezing

COUNTING = "i=0; while :; do i=$((i+1)); echo $i >{0}.new; mv {0}.new {0}; done"


def test_a_frozen_counter_stands_still(boxes, tmp_path):
    cgroup = boxes.make({}, everywhere=True)
    counter = tmp_path / "counter"
    boxes.start(cgroup, COUNTING.format(counter))
    eventually(counter.exists)
    assert not cgroup.frozen
    cgroup.freeze()
    assert cgroup.frozen
    stopped = counter.read_text()
    with pytest.raises(AssertionError):
        eventually(lambda: counter.read_text() != stopped, timeout=0.3)
    cgroup.freeze()  # once more changes nothing
    reopen(cgroup.record()).thaw()
    assert not cgroup.frozen
    eventually(lambda: counter.read_text() != stopped)


@pytest.mark.cgroup_v1("pids")
def test_freezing_needs_a_group_that_can(boxes):
    cgroup = boxes.make({"pids": {"limit": 5}})
    assert not cgroup.frozen
    with pytest.raises(Unsupported, match="no control group that can be frozen"):
        cgroup.freeze()


def test_a_frozen_container_can_be_killed(boxes):
    cgroup = boxes.make({}, everywhere=True)
    sleeper = boxes.start(cgroup, "exec sleep 60")
    cgroup.freeze()
    cgroup.kill()
    assert sleeper.wait(100) == -signal.SIGKILL


# -- killing


def test_nobody_is_left_and_nobody_else_is_hit(boxes):
    cgroup, other = boxes.make({}, everywhere=True), boxes.make({}, "other", everywhere=True)
    bystander = boxes.start(other, "exec sleep 60")
    forking = "(while :; do sh -c 'sleep 60 & sleep 60 & sleep 0.01' & done) &"
    boxes.start(cgroup, f"{forking} {forking} sleep 60")
    eventually(lambda: len(cgroup.processes()) > 30)
    cgroup.kill()
    assert cgroup.processes() == []
    assert bystander.poll() is None
    assert bystander.pid in other.processes()


def test_processes_in_groups_made_inside_are_killed_as_well(boxes):
    cgroup = boxes.make({}, everywhere=True)
    deep = [Path(os.fsdecode(place), "a", "b") for place in dict.fromkeys(cgroup.paths.values())]
    for place in deep:
        place.mkdir(parents=True)
        if (place / "cpuset.cpus").exists() and "cpuset" in LAYOUT.v1:
            for above in (place.parent, place):
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (above / file).write_text((above.parent / file).read_text())
    moves = " ".join(f"echo 0 >{place}/cgroup.procs;" for place in deep)
    inner = boxes.start(cgroup, f"{moves} exec sleep 60")
    eventually(lambda: str(inner.pid) in (deep[0] / "cgroup.procs").read_text().split())
    assert cgroup.processes() == [inner.pid]
    cgroup.kill()
    assert inner.wait(100) == -signal.SIGKILL
    cgroup.remove()
    assert not any(place.parent.parent.exists() for place in deep)


@pytest.mark.parametrize("everywhere", [True, False], ids=["frozen meanwhile", "without a freezer"])
def test_a_signal_reaches_everybody(boxes, tmp_path, everywhere):
    cgroup = boxes.make({"pids": {"limit": 100}}, everywhere=everywhere)
    waiting = "trap 'echo $$ >>{0}; exit' TERM; echo $$ >>{1}; while :; do sleep 0.05; done"
    caught, ready = tmp_path / "caught", tmp_path / "ready"
    script = waiting.format(caught, ready)
    started = [boxes.start(cgroup, script) for _ in range(3)]
    eventually(lambda: ready.exists() and len(ready.read_text().split()) == 3)
    cgroup.kill(signal.SIGTERM)
    for process in started:
        process.wait(100)
    assert sorted(caught.read_text().split()) == sorted(str(process.pid) for process in started)


@pytest.mark.cgroup_v1("freezer")  # v2 lets frozen processes die
def test_what_does_not_end_is_an_error(boxes):
    """As one that waits for a dead disk; here one that is kept from dying by a freezer of its own."""
    cgroup = boxes.make({}, everywhere=True)
    boxes.start(cgroup, "exec sleep 60")
    freezer = Path(os.fsdecode(cgroup.paths["freezer"]))
    inner = freezer / "inner"
    inner.mkdir()
    (pid,) = cgroup.processes()
    (inner / "cgroup.procs").write_text(str(pid))
    (inner / "freezer.state").write_text("FROZEN")
    with pytest.raises(TimeoutExpired, match=f"kill processes {pid}"):
        cgroup.kill(timeout=0.3)
    (inner / "freezer.state").write_text("THAWED")


# -- joining, records, the end


def test_a_record_is_all_that_is_needed(boxes):
    cgroup = boxes.make({"pids": {"limit": 20}}, everywhere=True)
    boxes.start(cgroup, "exec sleep 60")
    again = reopen(cgroup.record())
    assert again.record() == cgroup.record()
    assert again.processes() == cgroup.processes()
    assert again.stats().pids == cgroup.stats().pids
    again.update({"pids": {"limit": 30}})
    assert file_of(cgroup, "pids", "pids.max").read_text() == "30\n"
    again.kill()
    again.remove()
    assert not any(os.path.exists(place) for place in cgroup.paths.values())
    again.remove()  # what is gone already is no error


def test_another_process_joins_later(boxes):
    cgroup = boxes.make({"pids": {"limit": 20}}, everywhere=True)
    cgroup.close()
    again = reopen(cgroup.record())
    again.open()
    try:
        second = boxes.start(again, "exec sleep 60")
        places = own(LAYOUT, second.pid)
        assert {name: places[name] for name in cgroup.paths} == cgroup.paths
        with pytest.raises(NotFound):
            again.open(("nowhere",))
    finally:
        again.close()


@pytest.mark.cgroup_v2
def test_a_divided_group_is_joined_where_the_first_process_is(boxes):
    cgroup = boxes.make({}, everywhere=True)
    place = Path(os.fsdecode(cgroup.paths[""]))
    (place / "init").mkdir()
    first = boxes.start(cgroup, f"echo 0 >{place}/init/cgroup.procs; exec sleep 60")
    eventually(lambda: (place / "init/cgroup.procs").read_text().strip() == str(first.pid))
    controller = (place / "cgroup.controllers").read_text().split()[0]
    (place / "cgroup.subtree_control").write_text(f"+{controller}")
    again = reopen(cgroup.record())
    again.open(beside=first.pid)
    try:
        second = boxes.start(again, "exec sleep 60")
        assert own(LAYOUT, second.pid)[""] == os.fsencode(place / "init")
    finally:
        again.close()
        cgroup.kill()


def test_groups_nested_deeper_than_a_path_can_say_are_removed(boxes):
    cgroup = boxes.make({"pids": {"limit": 20}})
    (place,) = set(cgroup.paths.values())
    here = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    name = "d" * 200
    for _ in range(30):  # 6,000 bytes
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.mkdir("sibling", dir_fd=here)
    os.close(here)
    assert cgroup.processes() == []
    cgroup.remove()
    assert not os.path.exists(place)


def test_a_group_in_use_is_not_removed_and_says_why(boxes):
    cgroup = boxes.make({"pids": {"limit": 20}})
    boxes.start(cgroup, "exec sleep 60")
    (place,) = set(cgroup.paths.values())
    with pytest.raises(KernelError, match="1 processes still live there"):
        remove_tree(place, timeout=0.05)


def test_parents_are_removed_only_by_whoever_made_them():
    name = f"/lamina-test-{os.getpid()}-{os.urandom(3).hex()}"
    first = create(f"{name}/kept/a", {"pids": {"limit": 5}})
    second = create(f"{name}/kept/b", {"pids": {"limit": 5}})
    assert first is not None and second is not None
    first.close()
    second.close()
    parent = os.path.dirname(first.paths.get("pids", first.paths.get("", b"")))
    first.remove()
    assert os.path.exists(parent)  # the second one lives there
    second.remove()
    assert os.path.exists(parent)  # and it did not make it
    reopen(first.record()).remove()
    assert not os.path.exists(parent)
    assert not os.path.exists(os.path.dirname(parent))


HUGE = {"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}


@pytest.mark.parametrize(
    "resources",
    [
        {"pids": {"limit": 5}, "cpu": {"shares": 5}},
        pytest.param(HUGE, marks=pytest.mark.cgroup_v2("hugetlb")),
    ],
)
def test_makers_and_removers_of_neighbours_do_not_disturb_each_other(boxes, resources):
    """Whoever leaves the group above empty removes it, also while somebody else is about to make one in it."""
    failures: list[BaseException] = []

    def make_and_remove(name: str) -> None:
        try:
            for _ in range(100):
                cgroup = create(
                    f"{boxes.parent}/{name}", {"pids": {"limit": 5}, "cpu": {"shares": 5}}, own_parent=True
                )
                assert cgroup is not None
                cgroup.close()
                cgroup.remove()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=make_and_remove, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_failure_takes_away_only_what_it_made(boxes):
    """Another one's group at the same place, in a hierarchy where it has no processes."""
    theirs = boxes.make({"cpu": {"shares": 5}})
    with pytest.raises(KernelError):
        create(f"{boxes.parent}/box", {"cpu": {"shares": 5}, "pids": {"limit": 1 << 70}})
    assert all(os.path.exists(place) for place in theirs.paths.values())


def test_made_twice_and_removed_twice_is_no_error(boxes):
    first, second = boxes.make({"pids": {"limit": 5}}), boxes.make({"pids": {"limit": 6}})
    first.remove()
    second.remove()
    assert not os.path.exists(first.paths.get("pids", first.paths.get("", b"")))


def test_what_a_dead_engine_made_is_found(boxes):
    cgroup = boxes.make({"pids": {"limit": 5}})
    found = find(f"{boxes.parent}/box", own_parent=True)
    assert set(found.paths.values()) == set(cgroup.paths.values())
    assert find(f"{boxes.parent}/nothing").paths == {}


# -- refusals


def test_a_group_that_somebody_lives_in_is_refused(boxes):
    cgroup = boxes.make({"pids": {"limit": 5}})
    boxes.start(cgroup, "exec sleep 60")
    with pytest.raises(Conflict, match="processes live there already"):
        create(f"{boxes.parent}/box", {"pids": {"limit": 5}})
    assert file_of(cgroup, "pids", "pids.max").exists()


def test_a_frozen_group_is_refused(boxes):
    cgroup = boxes.make({}, everywhere=True)
    cgroup.freeze()
    with pytest.raises(Conflict, match="frozen"):
        create(f"{boxes.parent}/box", {}, everywhere=True)


def test_a_refused_value_leaves_no_directory():
    name = f"lamina-test-{os.getpid()}-{os.urandom(3).hex()}"
    with pytest.raises(KernelError, match=r"pids\.max"):
        create(f"/{name}/bad", {"pids": {"limit": 1 << 70}})
    roots = {*LAYOUT.v1.values(), *([LAYOUT.v2] if LAYOUT.v2 else [])}
    assert not any(os.path.exists(os.fsdecode(root) + "/" + name) for root in roots)


def test_what_nobody_asked_for_is_made_only_everywhere(boxes):
    assert create(f"{boxes.parent}/none", {}) is None
    everywhere = boxes.make({}, everywhere=True)
    assert set(everywhere.paths) == {*LAYOUT.v1, *([""] if LAYOUT.v2 else [])}
    assert everywhere.notes == []


def test_an_unknown_manager_is_refused(boxes):
    with pytest.raises(ValueError, match="no manager 'openrc'"):
        create(f"{boxes.parent}/x", {"pids": {"limit": 5}}, manager="openrc")


# -- changes


def test_memory_is_raised_and_lowered(boxes):
    cgroup = boxes.make({"memory": {"limit": 64 * MEGABYTE, "swap": 128 * MEGABYTE}})

    def now() -> tuple[int | None, int | None]:
        memory = cgroup.stats().memory
        assert memory is not None
        return memory.limit_bytes, memory.swap_limit_bytes

    has_swap = now()[1] is not None
    steps = [(256, 512), (32, 48), (48, 48), (-1, None), (16, 32)]
    for limit, both_limit in steps:
        memory = {"limit": limit * MEGABYTE if limit > 0 else -1}
        if both_limit is not None:
            memory["swap"] = both_limit * MEGABYTE
        cgroup.update({"memory": memory})
        if limit < 0:
            assert now() == (None, None)
        else:
            assert now()[0] == limit * MEGABYTE
            if has_swap and both_limit is not None:
                assert now()[1] == (both_limit - limit) * MEGABYTE


def test_memory_is_not_lowered_below_what_is_used_when_asked_to_look_first(boxes):
    cgroup = boxes.make({"memory": {"limit": 128 * MEGABYTE}})
    boxes.start(cgroup, "head -c 40m /dev/zero | tail | sleep 60")  # tail keeps it, and cannot get rid of it
    eventually(lambda: cgroup.stats().memory.usage_bytes > 30 * MEGABYTE)
    with pytest.raises(Conflict, match="bytes are in use"):
        cgroup.update({"memory": {"limit": 20 * MEGABYTE, "checkBeforeUpdate": True}})
    assert cgroup.stats().memory.limit_bytes == 128 * MEGABYTE


def test_quota_and_period_change_together_below_a_parent_with_a_quota(boxes):
    parent = create(boxes.parent, {"cpu": {"quota": 50_000, "period": 100_000}})
    assert parent is not None
    parent.close()
    cgroup = boxes.make({"cpu": {"quota": 50_000, "period": 100_000}})
    for quota, period in [(10_000, 20_000), (100_000, 200_000), (5_000, 10_000)]:
        cgroup.update({"cpu": {"quota": quota, "period": period}})
        if "cpu" in LAYOUT.v1:
            assert file_of(cgroup, "cpu", "cpu.cfs_quota_us").read_text() == f"{quota}\n"
            assert file_of(cgroup, "cpu", "cpu.cfs_period_us").read_text() == f"{period}\n"
        else:
            assert file_of(cgroup, "cpu", "cpu.max").read_text() == f"{quota} {period}\n"


def test_a_period_alone_keeps_the_quota(boxes):
    cgroup = boxes.make({"cpu": {"quota": 20_000, "period": 100_000}})
    cgroup.update({"cpu": {"period": 50_000}})
    cgroup.update({"cpu": {"quota": 10_000}})
    if "cpu" in LAYOUT.v1:
        shown = [
            file_of(cgroup, "cpu", f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")
        ]
    else:
        shown = file_of(cgroup, "cpu", "cpu.max").read_text().split()
    assert shown == ["10000", "50000"]


@pytest.mark.cgroup_v1("pids")
def test_a_controller_that_was_not_joined_cannot_be_changed(boxes):
    cgroup = boxes.make({"pids": {"limit": 5}})
    with pytest.raises(Unsupported, match="in no group of that controller"):
        cgroup.update({"memory": {"limit": 1 << 30}})


def test_a_controller_that_is_not_there(boxes):
    """On a layout that is this machine's but for the memory controller."""
    v1 = {name: place for name, place in LAYOUT.v1.items() if name != "memory"}
    layout = Layout(v1, LAYOUT.v2, LAYOUT.v2_controllers - {"memory"})
    with pytest.raises(Unsupported, match="limit memory: this host has no memory cgroup controller"):
        boxes.make({"memory": {"limit": 1 << 30}}, layout=layout)
    assert boxes.make({}, layout=layout, everywhere=True).paths


@pytest.mark.cgroup_v2
def test_pressure_is_shown(boxes):
    cgroup = boxes.make({}, everywhere=True)
    pressure = cgroup.stats().pressure
    assert pressure is not None
    assert {"cpu", "memory", "io"} <= set(pressure)
    assert pressure["memory"].full is not None


# -- against another runtime

# crun before 1.20 does not let every container use /dev/net/tun (decision 0035)
TUN = "c 10:200 rwm"


@pytest.mark.peer("crun")
def test_the_same_files_as_crun(boxes, tmp_path):
    """crun in a private mount namespace without the v2 tree, which it refuses to work with in a hybrid."""
    resources = {
        "memory": {"limit": 64 * MEGABYTE, "reservation": 32 * MEGABYTE, "swap": 96 * MEGABYTE},
        "cpu": {"shares": 2, "quota": 20_000, "period": 50_000, "cpus": "0", "mems": "0"},
        "pids": {"limit": 77},
        "devices": [NOTHING, {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"}],
    }
    ours = boxes.make(resources, "ours")
    theirs = _crun(resources, f"{boxes.parent}/theirs", tmp_path)
    compared = set()
    for place in map(Path, map(os.fsdecode, set(ours.paths.values()))):
        for file in place.iterdir():
            if file.name in theirs:
                lines = {*theirs[file.name].splitlines()} - {TUN}
                assert {*file.read_text().splitlines()} - {TUN} == lines, file.name
                compared.add(file.name)
    assert len(compared) == (10 if "memory" in LAYOUT.v1 else 8), compared


WRITTEN = re.compile(
    r"memory\.(limit_in_bytes|soft_limit_in_bytes|memsw\.limit_in_bytes)|cpu\.(shares|cfs_quota_us|cfs_period_us)"
    r"|cpuset\.(cpus|mems)|pids\.max|devices\.list|memory\.(max|low|swap\.max)|cpu\.(max|weight)"
)


def _crun(resources: dict[str, object], path: str, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "rootfs").mkdir()
    spec = json.loads(subprocess.run(["crun", "spec"], cwd=tmp_path, capture_output=True).stdout or b"null")
    spec = spec or json.loads((tmp_path / "config.json").read_text())
    spec["root"] = {"path": "rootfs", "readonly": True}
    spec["process"]["args"] = ["sleep", "60"]
    spec["process"]["terminal"] = False
    spec["process"].pop("rlimits", None)
    spec["mounts"] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
    ]
    spec["linux"] = {
        "resources": resources, "cgroupsPath": path, "namespaces": [{"type": kind} for kind in ("pid", "mount", "uts")],
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(spec))
    name = path.strip("/").replace("/", "-")
    state = tmp_path / "state"
    crun = f"crun --root {state} --cgroup-manager cgroupfs"
    hide = "mountpoint -q /sys/fs/cgroup/unified && umount /sys/fs/cgroup/unified;"
    # read-only: crun would put its links into this machine's own /dev, the one below what is mounted there
    bind = f"mount --bind / {tmp_path}/rootfs && mount -o remount,bind,ro {tmp_path}/rootfs &&"
    script = f"{hide} {bind} {crun} run -d -b {tmp_path} {name} >/dev/null 2>{tmp_path}/err </dev/null"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], timeout=200)
    found: dict[str, str] = {}
    roots = [*LAYOUT.v1.values(), *([LAYOUT.v2] if LAYOUT.v2 else [])]
    try:
        assert done.returncode == 0, (tmp_path / "err").read_text()
        for root in roots:
            place = Path(os.fsdecode(root) + path)
            if place.exists():
                found |= {
                    file.name: file.read_text() for file in place.iterdir() if WRITTEN.fullmatch(file.name)
                }
    finally:
        subprocess.run(
            ["unshare", "-m", "sh", "-c", f"{hide} {crun} delete -f {name}"], timeout=200, check=True
        )
    return found
