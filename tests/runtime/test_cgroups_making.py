"""Control groups made on trees of plain files: what is written where, and what is said when it cannot be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.errors import Conflict, Unsupported
from lamina.runtime.cgroups import Cgroup, Layout, create, reopen
from support.cgroupfs import FakeV1, FakeV2

EVERYTHING = {
    "memory": {"limit": 4096, "swap": 8192, "reservation": 1024},
    "cpu": {"shares": 1024, "quota": 50_000, "period": 100_000, "burst": 5, "cpus": "0", "mems": "0"},
    "pids": {"limit": 3},
    "blockIO": {"weight": 500, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}]},
    "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
}


def made(path: str, resources: dict[str, object], layout: Layout, **options: object) -> Cgroup:
    cgroup = create(path, resources, layout=layout, **options)  # type: ignore[arg-type]
    assert cgroup is not None
    cgroup.close()
    return cgroup


def contents(place: Path, *names: str) -> dict[str, str]:
    return {name: (place / name).read_text() for name in names}


def test_v2_hands_controllers_down_to_the_containers_parent(tmp_path):
    fake = FakeV2(tmp_path, "lamina/box")
    cgroup = create("/lamina/box", {"memory": {"limit": 4096}, "pids": {"limit": 3}}, layout=fake.layout)
    assert cgroup is not None and cgroup.v2 is not None and cgroup.tasks == {}
    assert os.path.samefile(f"/proc/self/fd/{int(cgroup.v2)}", tmp_path / "lamina/box")
    cgroup.close()
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory +pids"
    assert (tmp_path / "lamina/cgroup.subtree_control").read_text() == "+memory +pids"
    assert (tmp_path / "lamina/box/cgroup.subtree_control").read_text() == ""
    assert cgroup.paths == {"": os.fsencode(tmp_path / "lamina/box")}


def test_v2_hands_down_only_what_is_missing(tmp_path):
    fake = FakeV2(tmp_path, "lamina/box")
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")
    made("/lamina/box", {"memory": {"limit": 4096}, "pids": {"limit": 3}}, fake.layout)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "cpu memory pids\n"


def test_everything_in_v2(tmp_path):
    fake = FakeV2(tmp_path, "box")
    cgroup = made("/box", EVERYTHING, fake.layout)
    wanted = {
        "memory.max": "4096", "memory.swap.max": "4096", "memory.low": "1024", "cpu.weight": "100",
        "cpu.max": "50000 100000", "cpu.max.burst": "5", "cpuset.cpus": "0", "cpuset.mems": "0", "pids.max": "3",
        "io.weight": "default 4950", "io.max": "8:0 rbps=5", "hugetlb.2MB.max": "0", "hugetlb.2MB.rsvd.max": "0",
    }  # fmt: skip
    assert contents(tmp_path / "box", *wanted) == wanted
    assert cgroup.notes == []


def test_everything_in_v1(tmp_path):
    fake = FakeV1(tmp_path, "box")
    cgroup = made("/box", EVERYTHING, fake.layout)
    wanted = {
        "memory": {"memory.limit_in_bytes": "4096", "memory.memsw.limit_in_bytes": "8192",
                   "memory.soft_limit_in_bytes": "1024"},
        "cpu": {"cpu.shares": "1024", "cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000",
                "cpu.cfs_burst_us": "5"},
        "cpuset": {"cpuset.cpus": "0", "cpuset.mems": "0"},
        "pids": {"pids.max": "3"},
        "blkio": {"blkio.bfq.weight": "500", "blkio.throttle.read_bps_device": "8:0 5"},
        "hugetlb": {"hugetlb.2MB.limit_in_bytes": "0"},
    }  # fmt: skip
    assert {name: contents(tmp_path / name / "box", *files) for name, files in wanted.items()} == wanted
    assert cgroup.paths == {name: os.fsencode(tmp_path / name / "box") for name in wanted}


def test_hierarchies_without_a_wish_are_not_joined_unless_everywhere(tmp_path):
    fake = FakeV1(tmp_path, "box")
    cgroup = create("/box", {"pids": {"limit": 3}}, layout=fake.layout)
    assert cgroup is not None and list(cgroup.tasks) == ["pids"]
    cgroup.close()
    cgroup = create("/box", {"pids": {"limit": 3}}, layout=fake.layout, everywhere=True)
    assert cgroup is not None and set(cgroup.tasks) == set(fake.mounts)
    assert cgroup.v2 is None
    cgroup.close()


def test_controllers_that_are_mounted_together_are_joined_once(tmp_path):
    fake = FakeV1(tmp_path, "box", controllers=("cpu", "cpuacct", "pids"), together="cpu,cpuacct")
    cgroup = create("/box", {"cpu": {"shares": 5}}, layout=fake.layout, everywhere=True)
    assert cgroup is not None
    assert list(cgroup.tasks) == ["cpu,cpuacct", "pids"]
    assert cgroup.paths["cpu"] == cgroup.paths["cpuacct"]
    cgroup.close()
    again = reopen(cgroup.record())
    again.open()
    assert list(again.tasks) == ["cpu,cpuacct", "pids"]
    again.close()


def test_a_hybrid_is_joined_in_both(tmp_path):
    v1 = FakeV1(tmp_path / "v1", "box", controllers=("memory",))
    v2 = FakeV2(tmp_path / "v2", "box", controllers=("hugetlb",))
    layout = Layout(v1.layout.v1, v2.layout.v2, frozenset({"hugetlb"}))
    asked = {"memory": {"limit": 5}, "hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}
    cgroup = create("/box", asked, layout=layout)
    assert cgroup is not None and list(cgroup.tasks) == ["memory"] and cgroup.v2 is not None
    assert set(cgroup.paths) == {"memory", ""}
    cgroup.close()


def test_a_cpuset_of_v1_inherits_from_all_the_groups_above(tmp_path):
    FakeV1(tmp_path, "a", controllers=("cpuset",))
    fake = FakeV1(tmp_path, "a/box", controllers=("cpuset",))
    made("/a/box", {"cpu": {"cpus": "1"}}, fake.layout)
    assert contents(tmp_path / "cpuset/a", "cpuset.cpus", "cpuset.mems") == {
        "cpuset.cpus": "0-1",
        "cpuset.mems": "0",
    }
    assert contents(tmp_path / "cpuset/a/box", "cpuset.cpus", "cpuset.mems") == {
        "cpuset.cpus": "1",
        "cpuset.mems": "0",
    }


def test_swap_that_is_not_accounted_is_a_note(tmp_path):
    for fake, file in (
        (FakeV1(tmp_path / "v1", "box"), "v1/memory/box/memory.memsw.limit_in_bytes"),
        (FakeV2(tmp_path / "v2", "box"), "v2/box/memory.swap.max"),
    ):
        (tmp_path / file).unlink()
        cgroup = made("/box", {"memory": {"limit": 5, "swap": 10}}, fake.layout)
        (note,) = cgroup.notes
        assert "swap is not accounted" in note


def test_a_file_that_this_kernel_has_not_is_said_by_name(tmp_path):
    fake = FakeV2(tmp_path, "box")
    (tmp_path / "box/cpu.idle").unlink()
    with pytest.raises(Unsupported, match=r"limit cpu: this kernel has no cpu\.idle"):
        create("/box", {"cpu": {"idle": 1}}, layout=fake.layout)


def test_an_inhabited_or_frozen_group_is_refused(tmp_path):
    fake = FakeV2(tmp_path)
    fake.group("box", cgroup__procs="77\n")
    with pytest.raises(Conflict, match="processes live there already"):
        create("/box", {"pids": {"limit": 3}}, layout=fake.layout)
    fake.group("ice", cgroup__freeze="1\n")
    with pytest.raises(Conflict, match="frozen"):
        create("/ice", {"pids": {"limit": 3}}, layout=fake.layout)
    v1 = FakeV1(tmp_path / "v1", "box")
    (tmp_path / "v1/freezer/box/freezer.state").write_text("FROZEN\n")
    with pytest.raises(Conflict, match="frozen"):
        create("/box", {}, layout=v1.layout, everywhere=True)


def test_a_record_says_everything(tmp_path):
    cgroup = Cgroup(
        {"": b"/sys/fs/cgroup/x", "pids": b"/p\xff"}, made=[b"/a"], own_parent=True, unit="u", user=True
    )
    record = cgroup.record()
    assert record == {
        "paths": {"": "/sys/fs/cgroup/x", "pids": "/p\udcff"}, "made": ["/a"], "own_parent": True, "unit": "u",
        "user": True,
    }  # fmt: skip
    assert vars(reopen(record)) == vars(cgroup)


def test_the_descriptors_of_a_start_are_closed_once(tmp_path):
    fake = FakeV1(tmp_path, "box")
    cgroup = create("/box", {"pids": {"limit": 3}}, layout=fake.layout)
    assert cgroup is not None
    (tasks,) = cgroup.tasks.values()
    cgroup.close()
    cgroup.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(int(tasks))
