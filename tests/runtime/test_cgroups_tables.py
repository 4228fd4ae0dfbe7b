"""What is written for each limit of the specification, in the words of cgroup v1 and v2. No privileges, no kernel."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import InvalidInput, Unsupported
from lamina.runtime.cgroups import Layout, settings
from lamina.runtime.cgroups.resources import limits_anything, parts
from lamina.runtime.cgroups.v2 import weight_of_shares
from lamina.runtime.cgroups.v2_io import weight_of_blkio
from support.cgroupfs import CONTROLLERS
from support.cgroupfs import V1 as V1_FILES

V1 = Layout({name: b"/sys/fs/cgroup/" + name.encode() for name in V1_FILES}, None, frozenset())
V2 = Layout({}, b"/sys/fs/cgroup", frozenset(CONTROLLERS))
HYBRID = Layout({"memory": b"/v1/memory", "blkio": b"/v1/blkio"}, b"/v2", frozenset({"hugetlb"}))
NOWHERE = Layout({}, None, frozenset())
DISK = {"major": 8, "minor": 16}

# what is asked, by v1's controller in v1 and by v2's in v2; None: v2 has no such thing
BOTH: list[tuple[Any, Any, Any]] = [
    (
        {"memory": {"limit": 1 << 20}},
        {"memory": [("memory.limit_in_bytes", "1048576")]},
        {"memory": [("memory.max", "1048576")]},
    ),
    (
        {"memory": {"limit": -1}},
        {"memory": [("memory.limit_in_bytes", "-1")]},
        {"memory": [("memory.swap.max", "max"), ("memory.max", "max")]},
    ),
    (
        {"memory": {"limit": 100, "swap": 300}},
        {"memory": [("memory.limit_in_bytes", "100"), ("memory.memsw.limit_in_bytes", "300")]},
        {"memory": [("memory.swap.max", "200"), ("memory.max", "100")]},
    ),
    (
        {"memory": {"limit": 100, "swap": -1}},
        {"memory": [("memory.limit_in_bytes", "100"), ("memory.memsw.limit_in_bytes", "-1")]},
        {"memory": [("memory.swap.max", "max"), ("memory.max", "100")]},
    ),
    (
        {"memory": {"limit": 100, "swap": 100}},
        {"memory": [("memory.limit_in_bytes", "100"), ("memory.memsw.limit_in_bytes", "100")]},
        {"memory": [("memory.swap.max", "0"), ("memory.max", "100")]},
    ),
    (
        {"memory": {"reservation": 50}},
        {"memory": [("memory.soft_limit_in_bytes", "50")]},
        {"memory": [("memory.low", "50")]},
    ),
    (
        {"memory": {"reservation": -1}},
        {"memory": [("memory.soft_limit_in_bytes", "-1")]},
        {"memory": [("memory.low", "max")]},
    ),
    ({"memory": {"limit": 0, "swap": 0, "checkBeforeUpdate": True}}, {}, {}),
    ({"memory": {"kernel": 7}}, {"memory": [("memory.kmem.limit_in_bytes", "7")]}, None),
    ({"memory": {"kernelTCP": 7}}, {"memory": [("memory.kmem.tcp.limit_in_bytes", "7")]}, None),
    ({"memory": {"swappiness": 0}}, {"memory": [("memory.swappiness", "0")]}, None),
    ({"memory": {"disableOOMKiller": True}}, {"memory": [("memory.oom_control", "1")]}, None),
    ({"memory": {"disableOOMKiller": False}}, {"memory": [("memory.oom_control", "0")]}, {}),
    ({"memory": {"useHierarchy": True}}, {"memory": [("memory.use_hierarchy", "1")]}, {}),
    ({"memory": {"useHierarchy": False}}, {"memory": [("memory.use_hierarchy", "0")]}, None),
    ({"cpu": {"shares": 1024}}, {"cpu": [("cpu.shares", "1024")]}, {"cpu": [("cpu.weight", "100")]}),
    (
        {"cpu": {"quota": 50_000, "period": 100_000}},
        {"cpu": [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "50000")]},
        {"cpu": [("cpu.max", "50000 100000")]},
    ),
    ({"cpu": {"quota": -1}}, {"cpu": [("cpu.cfs_quota_us", "-1")]}, {"cpu": [("cpu.max", "max")]}),
    ({"cpu": {"quota": 50_000}}, {"cpu": [("cpu.cfs_quota_us", "50000")]}, {"cpu": [("cpu.max", "50000")]}),
    ({"cpu": {"period": 5_000}}, {"cpu": [("cpu.cfs_period_us", "5000")]}, {"cpu": [("cpu.max", "max 5000")]}),
    ({"cpu": {"shares": 0, "quota": 0, "period": 0, "realtimePeriod": 0}}, {}, {}),
    (
        {"cpu": {"quota": 50_000, "burst": 10_000}},
        {"cpu": [("cpu.cfs_quota_us", "50000"), ("cpu.cfs_burst_us", "10000")]},
        {"cpu": [("cpu.max", "50000"), ("cpu.max.burst", "10000")]},
    ),
    (
        {"cpu": {"idle": 1, "shares": 2}},
        {"cpu": [("cpu.shares", "2"), ("cpu.idle", "1")]},
        {"cpu": [("cpu.weight", "1"), ("cpu.idle", "1")]},
    ),
    (
        {"cpu": {"realtimePeriod": 1000000, "realtimeRuntime": 950000}},
        {"cpu": [("cpu.rt_period_us", "1000000"), ("cpu.rt_runtime_us", "950000")]},
        None,
    ),
    (
        {"cpu": {"cpus": "0-1,3", "mems": "0"}},
        {"cpuset": [("cpuset.cpus", "0-1,3"), ("cpuset.mems", "0")]},
        {"cpuset": [("cpuset.cpus", "0-1,3"), ("cpuset.mems", "0")]},
    ),
    ({"pids": {"limit": 9}}, {"pids": [("pids.max", "9")]}, {"pids": [("pids.max", "9")]}),
    ({"pids": {"limit": -1}}, {"pids": [("pids.max", "max")]}, {"pids": [("pids.max", "max")]}),
    (
        {"blockIO": {"weight": 500}},
        {"blkio": [("blkio.weight", "500", "blkio.bfq.weight", "500")]},
        {"io": [("io.bfq.weight", "default 500", "io.weight", "default 4950")]},
    ),
    (
        {"blockIO": {"weightDevice": [{**DISK, "weight": 10}]}},
        {"blkio": [("blkio.weight_device", "8:16 10", "blkio.bfq.weight_device", "8:16 10")]},
        {"io": [("io.bfq.weight", "8:16 10", "io.weight", "8:16 1")]},
    ),
    ({"blockIO": {"leafWeight": 10}}, {"blkio": [("blkio.leaf_weight", "10")]}, None),
    (
        {"blockIO": {"weightDevice": [{**DISK, "leafWeight": 10}]}},
        {"blkio": [("blkio.leaf_weight_device", "8:16 10")]},
        None,
    ),
    (
        {"blockIO": {"throttleReadBpsDevice": [{**DISK, "rate": 600}]}},
        {"blkio": [("blkio.throttle.read_bps_device", "8:16 600")]},
        {"io": [("io.max", "8:16 rbps=600")]},
    ),
    (
        {"blockIO": {"throttleWriteBpsDevice": [{**DISK, "rate": 0}, {"major": 9, "minor": 0, "rate": 5}]}},
        {"blkio": [("blkio.throttle.write_bps_device", "8:16 0"), ("blkio.throttle.write_bps_device", "9:0 5")]},
        {"io": [("io.max", "8:16 wbps=max"), ("io.max", "9:0 wbps=5")]},
    ),
    (
        {"blockIO": {"throttleReadIOPSDevice": [DISK | {"rate": 6}], "throttleWriteIOPSDevice": [DISK | {"rate": 7}]}},
        {"blkio": [("blkio.throttle.read_iops_device", "8:16 6"), ("blkio.throttle.write_iops_device", "8:16 7")]},
        {"io": [("io.max", "8:16 riops=6"), ("io.max", "8:16 wiops=7")]},
    ),
    (
        {"hugepageLimits": [{"pageSize": "2MB", "limit": 4096}]},
        {"hugetlb": [("hugetlb.2MB.limit_in_bytes", "4096"), ("hugetlb.2MB.rsvd.limit_in_bytes", "4096")]},
        {"hugetlb": [("hugetlb.2MB.max", "4096"), ("hugetlb.2MB.rsvd.max", "4096")]},
    ),
    ({"network": {"classID": 1048577}}, {"net_cls": [("net_cls.classid", "1048577")]}, None),
    (
        {"network": {"priorities": [{"name": "eth0", "priority": 500}, {"name": "lo", "priority": 0}]}},
        {"net_prio": [("net_prio.ifpriomap", "eth0 500"), ("net_prio.ifpriomap", "lo 0")]},
        None,
    ),
    (
        {"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}, "mlx4_0": {"hcaObjects": 5}}},
        {"rdma": [("rdma.max", "mlx5_1 hca_handle=3 hca_object=10000"), ("rdma.max", "mlx4_0 hca_object=5")]},
        {"rdma": [("rdma.max", "mlx5_1 hca_handle=3 hca_object=10000"), ("rdma.max", "mlx4_0 hca_object=5")]},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "v1", "v2"), BOTH, ids=[str(row[0]) for row in BOTH])
def test_a_limit_in_the_words_of_both_versions(asked, v1, v2):
    assert settings(asked, V1) == v1
    if v2 is None:
        with pytest.raises(Unsupported):
            settings(asked, V2)
    else:
        assert settings(asked, V2) == v2


@pytest.mark.parametrize(
    "asked",
    [row[0] for row in BOTH if limits_anything(next(iter(parts(row[0]).values())))],
    ids=lambda asked: str(asked),
)
def test_a_limit_without_its_controller_is_refused_by_name(asked):
    with pytest.raises(Unsupported) as refused:
        settings(asked, NOWHERE)
    (part,) = parts(asked)
    assert f"this host has no {part if part != 'blkio' else 'io'} cgroup controller" in str(refused.value)


@pytest.mark.parametrize(
    "resources",
    [
        # as docker and podman write when nothing was asked for
        {"blockIO": {"weight": 0}, "cpu": {"shares": 0, "quota": 0}, "pids": {"limit": 0}},
        {
            "memory": {"disableOOMKiller": False, "limit": -1, "swap": -1},
            "cpu": {"quota": -1},
            "pids": {"limit": -1},
        },
        {"network": {"classID": 0, "priorities": []}, "hugepageLimits": [], "rdma": {}},
    ],
)
def test_no_error_for_what_was_not_asked_for(resources):
    assert settings(resources, NOWHERE) == {}


def test_a_hybrid_has_each_controller_where_it_is():
    asked = {
        "memory": {"limit": 5},
        "hugepageLimits": [{"pageSize": "1GB", "limit": 0}],
        "blockIO": {"leafWeight": 9},
    }
    assert settings(asked, HYBRID) == {
        "memory": [("memory.limit_in_bytes", "5")],
        "hugetlb": [("hugetlb.1GB.max", "0"), ("hugetlb.1GB.rsvd.max", "0")],
        "blkio": [("blkio.leaf_weight", "9")],
    }


@pytest.mark.parametrize(
    "nothing",
    [
        {},
        {"memory": {}},
        {"memory": {"limit": None}, "pids": {}, "cpu": {"cpus": ""}},
        {"blockIO": None},
        {"devices": []},
    ],
)
def test_nothing_asked_is_nothing_written(nothing):
    assert settings(nothing, V1) == settings(nothing, V2) == settings(nothing, NOWHERE) == {}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"gpu": {"limit": 1}}, "gpu"),
        ({"memory": {"limits": 1}}, "memory.limits"),
        ({"cpu": {"share": 1}}, "cpu.share"),
        ({"pids": {"max": 1}}, "pids.max"),
        ({"blockIO": {"wait": 1}}, "blockIO.wait"),
        ({"network": {"id": 1}}, "network.id"),
        ({"rdma": {"m": {"hca": 1}}}, "rdma.m.hca"),
    ],
)
def test_what_is_no_resource_is_refused_not_dropped(asked, words):
    for layout in (V1, V2):
        with pytest.raises(Unsupported, match=words):
            settings(asked, layout)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"memory": {"limit": "64m"}}, "'64m' is not a whole number"),
        ({"memory": {"limit": 1.5}}, "not a whole number"),
        ({"pids": {"limit": True}}, "not a whole number"),
        ({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "rate": 1}]}}, "names no device"),
        ({"blockIO": {"throttleReadBpsDevice": [{**DISK}]}}, "has no rate"),
        ({"blockIO": {"throttleReadBpsDevice": [{**DISK, "rate": -1}]}}, "has no rate"),
        ({"hugepageLimits": [{"pageSize": "../x", "limit": 1}]}, "no page size"),
        ({"hugepageLimits": [{"pageSize": "MB", "limit": 1}]}, "no page size"),
    ],
)
def test_a_value_that_cannot_be_meant(asked, words):
    for layout in (V1, V2):
        with pytest.raises(InvalidInput, match=words):
            settings(asked, layout)


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        ({"swap": 5}, "memory is not"),
        ({"limit": -1, "swap": 5}, "memory is not"),
        ({"limit": 9, "swap": 5}, "less than 9"),
    ],
)
def test_memory_and_swap_together_that_v2_cannot_tell_apart(memory, words):
    with pytest.raises(InvalidInput, match=words):
        settings({"memory": memory}, V2)


def test_priorities_need_an_interface():
    for entry in ({"priority": 1}, {"name": "a b", "priority": 1}, {"name": "lo"}):
        with pytest.raises(InvalidInput, match="needs a name and a priority"):
            settings({"network": {"priorities": [entry]}}, V1)


# -- unified


def test_unified_keys_are_files_and_come_last():
    asked = {
        "unified": {
            "memory.high": "100",
            "cgroup.max.depth": "5",
            "io.max": "8:0 rbps=1\n8:16 rbps=2\n",
            "misc.max": "sev 1",
        },
        "memory": {"limit": 200},
    }
    assert settings(asked, V2) == {
        "memory": [("memory.max", "200"), ("memory.high", "100")],
        "": [("cgroup.max.depth", "5")],
        "io": [("io.max", "8:0 rbps=1"), ("io.max", "8:16 rbps=2")],
        "misc": [("misc.max", "sev 1")],
    }


@pytest.mark.parametrize(
    "key",
    [
        "memory",
        "../memory.max",
        "memory.max/x",
        "",
        ".",
        "cgroup.procs",
        "cgroup.kill",
        "cgroup.subtree_control",
    ],
)
def test_unified_keys_that_are_no_resources(key):
    with pytest.raises(InvalidInput, match="no file of a resource"):
        settings({"unified": {key: "1"}}, V2)


def test_unified_needs_its_controller_in_v2():
    with pytest.raises(Unsupported, match="no cgroup v2"):
        settings({"unified": {"memory.high": "1"}}, V1)
    with pytest.raises(Unsupported, match="which is a v1 hierarchy here"):
        settings({"unified": {"memory.high": "1"}}, HYBRID)
    with pytest.raises(Unsupported, match="gpu controller"):
        settings({"unified": {"gpu.max": "1"}}, V2)
    with pytest.raises(InvalidInput, match="not a string"):
        settings({"unified": {"memory.high": 1}}, V2)


# -- conversions


@pytest.mark.parametrize(
    ("shares", "weight"),
    [(0, 1), (2, 1), (3, 2), (512, 59), (1024, 100), (2048, 174), (262143, 10000), (1 << 30, 10000)],
)
def test_shares_become_a_weight(shares, weight):
    assert weight_of_shares(shares) == weight


@given(st.integers(0, 1 << 20))
def test_more_shares_are_never_less_weight(shares):
    assert 1 <= weight_of_shares(shares) <= weight_of_shares(shares + 1) <= 10000


@pytest.mark.parametrize(("before", "after"), [(10, 1), (500, 4950), (1000, 10000), (1, 1), (5000, 10000)])
def test_weight_of_blkio(before, after):
    assert weight_of_blkio(before) == after
