"""A control group tree as plain files: what Linux 6.12 shows, with the contents of groups that nobody has used yet.

A group has to be laid out before it is used, for a directory made in a temporary directory stays empty.
"""

from __future__ import annotations

import os
from pathlib import Path

from lamina.runtime.cgroups import Layout

CONTROLLERS = ("cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma")
CORE = {
    "cgroup.controllers": "",
    "cgroup.events": "populated 0\nfrozen 0\n",
    "cgroup.freeze": "0\n",
    "cgroup.kill": "",
    "cgroup.max.depth": "max\n",
    "cgroup.max.descendants": "max\n",
    "cgroup.pressure": "1\n",
    "cgroup.procs": "",
    "cgroup.stat": "nr_descendants 0\nnr_dying_descendants 0\n",
    "cgroup.subtree_control": "",
    "cgroup.threads": "",
    "cgroup.type": "domain\n",
    "cpu.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "cpu.stat": "usage_usec 0\nuser_usec 0\nsystem_usec 0\nnice_usec 0\ncore_sched.force_idle_usec 0\n",
}
V2 = {
    "cpu": {
        "cpu.idle": "0\n",
        "cpu.max": "max 100000\n",
        "cpu.max.burst": "0\n",
        "cpu.weight": "100\n",
        "cpu.weight.nice": "0\n",
    },
    "cpuset": {
        "cpuset.cpus": "\n",
        "cpuset.cpus.effective": "0-1\n",
        "cpuset.cpus.partition": "member\n",
        "cpuset.mems": "\n",
        "cpuset.mems.effective": "0\n",
    },
    "hugetlb": {
        "hugetlb.2MB.current": "0\n",
        "hugetlb.2MB.events": "max 0\n",
        "hugetlb.2MB.max": "max\n",
        "hugetlb.2MB.rsvd.current": "0\n",
        "hugetlb.2MB.rsvd.max": "max\n",
    },
    "io": {"io.max": "", "io.stat": "", "io.weight": "default 100\n"},
    "memory": {
        "memory.current": "0\n",
        "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
        "memory.high": "max\n",
        "memory.low": "0\n",
        "memory.max": "max\n",
        "memory.min": "0\n",
        "memory.oom.group": "0\n",
        "memory.peak": "0\n",
        "memory.stat": "anon 0\nfile 0\n",
        "memory.swap.current": "0\n",
        "memory.swap.max": "max\n",
    },
    "misc": {"misc.current": "", "misc.max": "", "misc.events": ""},
    "pids": {"pids.current": "0\n", "pids.events": "max 0\n", "pids.max": "max\n", "pids.peak": "0\n"},
    "rdma": {"rdma.current": "", "rdma.max": ""},
}
V1 = {
    "blkio": {
        "blkio.bfq.weight": "100\n",
        "blkio.bfq.weight_device": "",
        "blkio.throttle.read_bps_device": "",
        "blkio.throttle.read_iops_device": "",
        "blkio.throttle.write_bps_device": "",
        "blkio.throttle.write_iops_device": "",
    },
    "cpu": {
        "cpu.cfs_burst_us": "0\n",
        "cpu.cfs_period_us": "100000\n",
        "cpu.cfs_quota_us": "-1\n",
        "cpu.idle": "0\n",
        "cpu.shares": "1024\n",
        "cpu.stat": "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n",
    },
    "cpuacct": {"cpuacct.usage": "0\n"},
    "cpuset": {"cpuset.cpus": "\n", "cpuset.mems": "\n"},
    "devices": {"devices.allow": "", "devices.deny": "", "devices.list": "a *:* rwm\n"},
    "freezer": {"freezer.state": "THAWED\n"},
    "hugetlb": {"hugetlb.2MB.limit_in_bytes": "9223372036852678656\n", "hugetlb.2MB.usage_in_bytes": "0\n"},
    "memory": {
        "memory.limit_in_bytes": "9223372036854771712\n",
        "memory.memsw.limit_in_bytes": "9223372036854771712\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
        "memory.soft_limit_in_bytes": "9223372036854771712\n",
        "memory.swappiness": "60\n",
        "memory.usage_in_bytes": "0\n",
    },
    "net_cls": {"net_cls.classid": "0\n"},
    "net_prio": {"net_prio.ifpriomap": "lo 0\n"},
    "perf_event": {},
    "pids": {"pids.current": "0\n", "pids.max": "max\n"},
    "rdma": {"rdma.current": "", "rdma.max": ""},
}


def lay_out(directory: Path, files: dict[str, str]) -> Path:
    """Make *directory* with those files in it."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text)
    return directory


class FakeV2:
    """A unified tree at *root*; *groups* are laid out with the files of all controllers."""

    def __init__(self, root: Path, *groups: str, controllers: tuple[str, ...] = CONTROLLERS) -> None:
        self.root, self.controllers = root, controllers
        lay_out(root, {name: CORE[name] for name in ("cgroup.procs", "cgroup.subtree_control")})
        (root / "cgroup.controllers").write_text(" ".join(controllers) + "\n")
        for group in groups:
            self.group(group)

    def group(self, path: str, **files: str) -> Path:
        """Lay out a group and those above it; dots in a file's name are written as underscores' doubles (`__`)."""
        place = self.root
        for name in path.strip("/").split("/"):
            place = place / name
            if not place.exists():
                lay_out(place, CORE | {"cgroup.controllers": " ".join(self.controllers) + "\n"})
                for controller in self.controllers:
                    lay_out(place, V2[controller])
        return lay_out(place, {name.replace("__", "."): text for name, text in files.items()})

    @property
    def layout(self) -> Layout:
        return Layout({}, os.fsencode(self.root), frozenset(self.controllers))


class FakeV1:
    """Hierarchies of v1 below *root*, each controller in its own; *together* are mounted as one."""

    def __init__(
        self, root: Path, *groups: str, controllers: tuple[str, ...] = tuple(V1), together: str = ""
    ) -> None:
        self.mounts = {
            name: root / (together if name in together.split(",") else name) for name in controllers
        }
        for name, mount in self.mounts.items():
            top = dict(V1[name])
            if name == "cpuset":
                top |= {"cpuset.cpus": "0-1\n", "cpuset.mems": "0\n"}
            lay_out(mount, top | {"cgroup.procs": "", "tasks": ""})
            for group in groups:
                lay_out(mount / group.strip("/"), V1[name] | {"cgroup.procs": "", "tasks": ""})

    @property
    def layout(self) -> Layout:
        return Layout({name: os.fsencode(mount) for name, mount in self.mounts.items()}, None, frozenset())
