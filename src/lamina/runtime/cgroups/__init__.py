"""Control groups: what a container may use, what it has used, and a grip on all of its processes at once.

The kernel's words are in Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/*.rst, the wishes are the OCI runtime
specification's (config-linux.md#control-groups: `linux.cgroupsPath` and `linux.resources`).

    cgroup = create("/lamina/box", {"memory": {"limit": 64 << 20}, "pids": {"limit": 50}})
    ...                      # the start joins cgroup.tasks (v1) and cgroup.v2, then cgroup.close()
    kept = cgroup.record()   # a plain dict for a state file
    cgroup = reopen(kept)    # any time later, by anybody, from nothing else
    cgroup.stats().memory.usage_bytes
    cgroup.update({"memory": {"limit": 128 << 20}})
    cgroup.freeze(); cgroup.thaw()
    cgroup.kill(); cgroup.remove()

Glossary
    controller   what limits or counts one thing: cpu, cpuacct, cpuset, memory, pids, blkio or io, devices, freezer,
                 hugetlb, net_cls, net_prio, perf_event, rdma, misc
    hierarchy    a tree of groups. v1 has one for each controller, or for several that are mounted together, and named
                 ones without any; v2 is one tree for all. A hybrid has both: each controller is in one of them
    group        a directory in a hierarchy. A container has one in each hierarchy that it uses, at the same path
    manager      who makes the groups: we ("cgroupfs"), or systemd ("systemd") where it insists on it

Where they are (`layout`)
    An absolute `cgroupsPath` is below each hierarchy's mount point, a relative one below what this process may divide:
    the mount point as root, else what was delegated (`Delegate=` of systemd, user@.service; v2 only). With systemd it
    is `slice:prefix:name`.

What is made (`making`)
    A container joins the hierarchies in which something is asked of it, or with `everywhere=True` all that there are
    (also those without a controller): a caller that wants statistics and to freeze and kill as a whole needs that, one
    that wants a fast start does not. What was asked for and cannot be is Unsupported, with the controller's name; what
    was not asked for and cannot be is left out. Limits are written before anybody joins.

    How a process joins decides how fast a start is (figures in docs/performance.md). v1: it writes "0" to `tasks`
    itself, for a write to `cgroup.procs` waits for an RCU grace period. v2: it is born inside (CLONE_INTO_CGROUP).

What is written (`v1`, `v2`)
    Two tables from the specification's words, which are v1's, to files; v2's with the conversions of the field. Devices
    are a list of rules: v1's files, or a BPF program of ours (`devices`, `device_program`).

Afterwards
    `stats` numbers with units, the same for both versions; `update` in an order that the kernel accepts; `freezer`;
    `killing`, which leaves nobody out and hits nobody else; `oom`; `removing`, children that were made inside included.
    Every verb works on what `reopen` gives.

Nothing but `read_layout`, `create` and what these need is loaded by a start with limits, and nothing at all by one
without.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.runtime.cgroups.cgroup import Cgroup, find, reopen
    from lamina.runtime.cgroups.layout import Layout, read_layout
    from lamina.runtime.cgroups.making import create
    from lamina.runtime.cgroups.oom import OomWatch
    from lamina.runtime.cgroups.resources import settings
    from lamina.runtime.cgroups.stats import Stats

__all__ = ["Cgroup", "Layout", "OomWatch", "Stats", "create", "find", "read_layout", "reopen", "settings"]

_WHERE = {
    "Cgroup": "cgroup",
    "Layout": "layout",
    "OomWatch": "oom",
    "Stats": "stats",
    "create": "making",
    "find": "cgroup",
    "read_layout": "layout",
    "reopen": "cgroup",
    "settings": "resources",
}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import sys

    module = f"{__name__}.{_WHERE[name]}"
    __import__(module)
    found: object = getattr(sys.modules[module], name)
    globals()[name] = found
    return found
