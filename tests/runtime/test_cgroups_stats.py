"""Statistics read out of files as kernels write them, and the order of changes; on trees of plain files."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from lamina.errors import Conflict, InvalidInput, TimeoutExpired, Unsupported
from lamina.runtime.cgroups import Cgroup, Layout, create, killing, systemd
from lamina.runtime.cgroups.stats import (
    Cpu,
    Device,
    Files,
    Hugetlb,
    Memory,
    Misc,
    Pids,
    Pressure,
    Rdma,
    Stalled,
)
from lamina.runtime.cgroups.update import ordered
from support.cgroupfs import FakeV1, FakeV2, lay_out

# as Linux 6.12 writes them
V2_FILES = {
    "cpu.stat": "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nnr_periods 10\nnr_throttled 3\nthrottled_usec 70\n"
    "nr_bursts 1\nburst_usec 2\n",
    "memory.current": "8192\n",
    "memory.max": "16384\n",
    "memory.peak": "12288\n",
    "memory.swap.current": "4096\n",
    "memory.swap.max": "max\n",
    "memory.stat": "anon 4096\nfile 2048\nkernel 1024\nsock 5\ninactive_file 1000\n",
    "memory.events": "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n",
    "pids.current": "4\n",
    "pids.max": "max\n",
    "pids.peak": "6\n",
    "pids.events": "max 8\n",
    "io.stat": "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=3 dios=4\n7:1 \n"
    "259:0 rbytes=1 wbytes=0 rios=1 wios=0\n",
    "hugetlb.2MB.current": "2097152\n",
    "hugetlb.2MB.max": "max\n",
    "hugetlb.2MB.events": "max 3\n",
    "rdma.current": "mlx4_0 hca_handle=2 hca_object=2000\n",
    "misc.current": "res_a 3\nres_b 0\n",
    "misc.max": "res_a max\nres_b 4\n",
    "cpu.pressure": "some avg10=1.50 avg60=0.25 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n",
    "irq.pressure": "full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
}


def test_v2(tmp_path):
    lay_out(tmp_path, V2_FILES)
    stats = Cgroup({"": os.fsencode(tmp_path)}).stats()
    assert stats.cpu == Cpu(1_500_000, 1_000_000, 500_000, (), 10, 3, 70_000, 1, 2_000)
    assert stats.memory == Memory(
        usage_bytes=8192, limit_bytes=16384, peak_bytes=12288, cache_bytes=2048, rss_bytes=4096,
        working_set_bytes=7192, swap_bytes=4096, swap_limit_bytes=None, failures=9, oom_kills=2, kernel_bytes=1024,
        kernel_tcp_bytes=5,
        detail={"anon": 4096, "file": 2048, "kernel": 1024, "sock": 5, "inactive_file": 1000},
    )  # fmt: skip
    assert stats.pids == Pids(4, None, 6, 8)
    assert stats.io == (Device(254, 0, 4096, 8192, 1, 2, 3, 4), Device(259, 0, 1, 0, 1, 0))
    assert stats.hugetlb == {"2MB": Hugetlb(2097152, None, None, 3)}
    assert stats.rdma == {"mlx4_0": Rdma(2, 2000)}
    assert stats.misc == {"res_a": Misc(3, None), "res_b": Misc(0, 4)}
    full = Stalled(0.0, 0.0, 0.0, 3_000)
    assert stats.pressure == {
        "cpu": Pressure(Stalled(1.5, 0.25, 0.0, 12_000), full),
        "irq": Pressure(Stalled(0.0, 0.0, 0.0, 7_000), Stalled(0.0, 0.0, 0.0, 7_000)),
    }
    assert Cgroup({"": os.fsencode(tmp_path)}).oom_kills() == 2


def test_a_group_without_controllers_has_next_to_nothing(tmp_path):
    lay_out(tmp_path, {"cpu.stat": "usage_usec 5\nuser_usec 4\nsystem_usec 1\n"})
    stats = Cgroup({"": os.fsencode(tmp_path)}).stats()
    assert stats.cpu == Cpu(5_000, 4_000, 1_000)
    assert (stats.memory, stats.pids, stats.io, stats.hugetlb, stats.misc) == (None, None, (), None, None)


# as Linux 6.18 writes them
V1_FILES = {
    "cpu": {"cpu.stat": "nr_periods 10\nnr_throttled 3\nthrottled_time 70\nnr_bursts 1\nburst_time 2\n"},
    "cpuacct": {
        "cpuacct.usage": "1500\n", "cpuacct.usage_user": "1000\n", "cpuacct.usage_sys": "500\n",
        "cpuacct.usage_percpu": "900 600 \n",
    },
    "memory": {
        "memory.usage_in_bytes": "8192\n", "memory.limit_in_bytes": "16384\n", "memory.max_usage_in_bytes": "12288\n",
        "memory.failcnt": "9\n", "memory.memsw.usage_in_bytes": "12288\n", "memory.memsw.limit_in_bytes": "20480\n",
        "memory.memsw.failcnt": "1\n", "memory.kmem.usage_in_bytes": "1024\n", "memory.kmem.tcp.usage_in_bytes": "5\n",
        "memory.stat": "cache 1\nrss 2\ntotal_cache 2048\ntotal_rss 4096\ntotal_inactive_file 1000\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    },
    "pids": {"pids.current": "4\n", "pids.max": "max\n", "pids.events": "max 8\n"},
    "blkio": {
        "blkio.throttle.io_service_bytes_recursive":
            "254:0 Read 4096\n254:0 Write 8192\n254:0 Sync 0\n254:0 Discard 3\n254:0 Total 12291\nTotal 12291\n",
        "blkio.throttle.io_serviced_recursive":
            "254:0 Read 1\n254:0 Write 2\n254:0 Discard 4\n254:0 Total 7\nTotal 7\n",
    },
    "hugetlb": {
        "hugetlb.2MB.usage_in_bytes": "2097152\n", "hugetlb.2MB.limit_in_bytes": "9223372036852678656\n",
        "hugetlb.2MB.max_usage_in_bytes": "4194304\n", "hugetlb.2MB.failcnt": "3\n",
        "hugetlb.2MB.rsvd.usage_in_bytes": "0\n",
    },
    "rdma": {"rdma.current": "mlx4_0 hca_handle=2 hca_object=max\n".replace("max", "2000")},
}  # fmt: skip


def lay_out_v1(root: Path, *controllers: str) -> Cgroup:
    for name in controllers:
        lay_out(root / name, V1_FILES[name])
    return Cgroup({name: os.fsencode(root / name) for name in controllers})


def test_v1(tmp_path):
    cgroup = lay_out_v1(tmp_path, *V1_FILES)
    stats = cgroup.stats()
    assert stats.cpu == Cpu(1500, 1000, 500, (900, 600), 10, 3, 70, 1, 2)
    assert stats.memory == Memory(
        usage_bytes=8192, limit_bytes=16384, peak_bytes=12288, cache_bytes=2048, rss_bytes=4096,
        working_set_bytes=7192, swap_bytes=4096, swap_limit_bytes=4096, failures=10, oom_kills=2, kernel_bytes=1024,
        kernel_tcp_bytes=5,
        detail={"cache": 1, "rss": 2, "total_cache": 2048, "total_rss": 4096, "total_inactive_file": 1000},
    )  # fmt: skip
    assert stats.pids == Pids(4, None, None, 8)
    assert stats.io == (Device(254, 0, 4096, 8192, 1, 2, 3, 4),)
    assert stats.hugetlb == {"2MB": Hugetlb(2097152, None, 4194304, 3)}
    assert stats.rdma == {"mlx4_0": Rdma(2, 2000)}
    assert (stats.misc, stats.pressure) == (None, None)
    assert cgroup.oom_kills() == 2


def test_v1_disks_under_bfq_are_counted_by_bfq(tmp_path):
    lay_out(
        tmp_path,
        {
            "blkio.throttle.io_service_bytes_recursive": "Total 0\n",
            "blkio.bfq.io_service_bytes_recursive": "8:0 Read 5\n",
        },
    )
    assert Cgroup({"blkio": os.fsencode(tmp_path)}).stats().io == (Device(8, 0, 5),)


def test_kills_in_groups_made_inside_are_added_up_in_v1(tmp_path):
    cgroup = lay_out_v1(tmp_path, "memory")
    lay_out(tmp_path / "memory/a/b", {"memory.oom_control": "oom_kill 5\n"})
    assert cgroup.oom_kills() == 7
    memory = cgroup.stats().memory
    assert memory is not None and memory.oom_kills == 7


def test_throttling_without_accounting(tmp_path):
    cpu = lay_out_v1(tmp_path, "cpu").stats().cpu
    assert cpu is not None and (cpu.usage_ns, cpu.throttled_periods) == (0, 3)


def test_what_is_gone_has_no_statistics(tmp_path):
    for paths in (
        {"": b"/nowhere"},
        {"memory": b"/nowhere", "cpuacct": b"/nowhere", "hugetlb": os.fsencode(tmp_path)},
    ):
        cgroup = Cgroup(paths)
        stats = cgroup.stats()
        assert (stats.cpu, stats.memory) == (None, None)
        assert cgroup.oom_kills() == 0
        assert cgroup.processes() == []


# -- changes


def order(tmp_path: Path, made: list[tuple[str, str]], **now: str) -> list[str]:
    lay_out(tmp_path, {name.replace("__", "."): f"{text}\n" for name, text in now.items()})
    return [setting[0] for setting in ordered(list(made), Files(os.fsencode(tmp_path)))]


LIMIT, BOTH = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"


@pytest.mark.parametrize(
    ("made", "now", "wanted"),
    [
        ([(LIMIT, "20"), (BOTH, "40")], {BOTH: "30"}, [BOTH, LIMIT]),
        ([(LIMIT, "10"), (BOTH, "15")], {BOTH: "30"}, [LIMIT, BOTH]),
        ([(LIMIT, "-1"), (BOTH, "-1")], {BOTH: "30"}, [BOTH, LIMIT]),
        ([(LIMIT, "10")], {BOTH: "30"}, [LIMIT]),
        ([("cpu.max", "9"), ("cpu.max.burst", "1")], {"cpu.max.burst": "5"}, ["cpu.max.burst", "cpu.max"]),
        ([("cpu.max", "9"), ("cpu.max.burst", "8")], {"cpu.max.burst": "5"}, ["cpu.max", "cpu.max.burst"]),
        ([("cpu.weight", "9"), ("cpu.idle", "0")], {"cpu.idle": "1"}, ["cpu.idle", "cpu.weight"]),
        ([("cpu.weight", "9"), ("cpu.idle", "1")], {"cpu.idle": "0"}, ["cpu.weight", "cpu.idle"]),
    ],
)
def test_no_step_is_refused_because_of_the_next(tmp_path, made, now, wanted):
    assert order(tmp_path, made, **{name.replace(".", "__"): text for name, text in now.items()}) == wanted


@pytest.mark.parametrize(
    ("quota", "period", "first"),
    [
        ("10000", "20000", "cpu.cfs_quota_us"),
        ("100000", "200000", "cpu.cfs_period_us"),
        ("-1", "5", "cpu.cfs_period_us"),
    ],
)
def test_quota_over_period_never_grows_in_between(tmp_path, quota, period, first):
    made = [("cpu.cfs_period_us", period), ("cpu.cfs_quota_us", quota)]
    steps = order(tmp_path, made, cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    assert steps[0] == first


def changed(tmp_path: Path, resources: dict[str, object], **files: str) -> tuple[Cgroup, Path]:
    fake = FakeV2(tmp_path)
    place = fake.group("box", **files)
    cgroup = Cgroup({"": os.fsencode(place)})
    cgroup.update(resources, layout=fake.layout)
    return cgroup, place


def test_an_update_takes_the_rest_from_what_is(tmp_path):
    _, place = changed(tmp_path, {"memory": {"swap": 5000}}, memory__max="3000\n")
    assert (place / "memory.swap.max").read_text() == "2000"
    _, place = changed(tmp_path, {"cpu": {"period": 5000}}, cpu__max="777 100000\n")
    assert (place / "cpu.max").read_text() == "777 5000"
    with pytest.raises(InvalidInput, match="memory is not"):
        changed(tmp_path / "unlimited", {"memory": {"swap": 5000}})


def test_nobody_is_born_in_a_group_of_v2_that_cannot_be_killed_at_once(tmp_path, monkeypatch):
    """Before Linux 5.14 there is no cgroup.kill; what forks faster than it is killed would never end."""
    with subprocess.Popen(["sleep", "600"]) as process:
        place = FakeV2(tmp_path).group("box", cgroup__procs=f"{process.pid}\n", pids__max="")
        monkeypatch.setattr(killing, "_kill_v2", lambda _: False)
        with pytest.raises(TimeoutExpired):  # a plain file goes on listing it
            Cgroup({"": os.fsencode(place)}).kill(timeout=0.05)
        assert process.wait(100) == -signal.SIGKILL
    assert (place / "pids.max").read_text() == "0"


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("asked", [{"quota": 10_000}, {"period": 20_000}], ids=str)
def test_systemd_is_told_of_the_quota_with_its_period(tmp_path, monkeypatch, version, asked):
    """Of one without the other it would write something else at its next reload."""
    if version == 1:
        layout = FakeV1(tmp_path, "box").layout
        place = tmp_path / "cpu" / "box"
        (place / "cpu.cfs_quota_us").write_text("5000\n")
        (place / "cpu.cfs_period_us").write_text("50000\n")
        cgroup = Cgroup({"cpu": os.fsencode(place)}, unit="box.scope")
    else:
        fake = FakeV2(tmp_path)
        layout, place = fake.layout, fake.group("box", cpu__max="5000 50000\n")
        cgroup = Cgroup({"": os.fsencode(place)}, unit="box.scope")
    told: dict[str, object] = {}
    monkeypatch.setattr(systemd, "set_properties", lambda _, wanted: told.update(systemd.properties(wanted)))
    cgroup.update({"cpu": asked}, layout=layout)
    quota, period = asked.get("quota", 5000), asked.get("period", 50_000)
    assert told == {
        "CPUQuotaPerSecUSec": ("t", quota * 1_000_000 // period), "CPUQuotaPeriodUSec": ("t", period),
    }  # fmt: skip


def test_an_update_looks_before_it_lowers_when_asked_to(tmp_path):
    memory = {"limit": 100, "checkBeforeUpdate": True}
    with pytest.raises(Conflict, match="4096 bytes are in use"):
        changed(tmp_path, {"memory": memory}, memory__current="4096\n")
    _, place = changed(tmp_path, {"memory": memory}, memory__current="50\n")
    assert (place / "memory.max").read_text() == "100"


def test_unlimited_memory_of_v1_means_swap_as_well(tmp_path):
    fake = FakeV1(tmp_path, "box")
    cgroup = create("/box", {"memory": {"limit": 5, "swap": 6}}, layout=fake.layout)
    assert cgroup is not None
    cgroup.close()
    cgroup.update({"memory": {"limit": -1}}, layout=fake.layout)
    shown = [(tmp_path / "memory/box" / name).read_text() for name in (LIMIT, BOTH)]
    assert shown == ["-1", "-1"]


def test_nothing_is_written_when_a_part_cannot_be(tmp_path):
    with pytest.raises(Unsupported, match="real-time"):
        changed(tmp_path, {"pids": {"limit": 9}, "cpu": {"realtimeRuntime": 5}})
    assert (tmp_path / "box/pids.max").read_text() == "max\n"


def test_a_controller_that_the_host_or_only_the_container_lacks(tmp_path):
    fake = FakeV1(tmp_path, "box", controllers=("pids", "memory"))
    cgroup = create("/box", {"pids": {"limit": 5}}, layout=fake.layout)
    assert cgroup is not None
    cgroup.close()
    # zeros and "no limit" ask for nothing
    cgroup.update({"memory": {"limit": -1}, "cpu": {"shares": 0}, "pids": {"limit": 6}}, layout=fake.layout)
    assert (tmp_path / "pids/box/pids.max").read_text() == "6"
    with pytest.raises(Unsupported, match="the container is in no group of that controller"):
        cgroup.update({"memory": {"limit": 5}}, layout=fake.layout)
    with pytest.raises(Unsupported, match="this host has no cpu cgroup controller"):
        cgroup.update({"cpu": {"shares": 5}}, layout=fake.layout)
    with pytest.raises(Unsupported, match="no cgroup v2"):
        cgroup.update({"unified": {"memory.high": "5"}}, layout=Layout({}, None, frozenset()))
