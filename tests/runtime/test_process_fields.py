"""Every field of `process`, and of `linux` what concerns it, read back from inside."""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import InvalidInput, StepFailed, Unsupported
from lamina.runtime.launch import launch
from support.bundles import over_host, small
from support.starting import DEV, PROC, SHIFTED, run, said

pytestmark = pytest.mark.root

# what a program of the container's own sees: calls that no shell has
LOOK = """
import ctypes, json, os, struct
libc = ctypes.CDLL(None, use_errno=True)
attr = ctypes.create_string_buffer(56)
assert libc.syscall({sched_getattr}, 0, attr, 56, 0) == 0, ctypes.get_errno()
size, policy, flags, nice, priority, runtime, deadline, period = struct.unpack_from("IIQiIQQQ", attr)
mode, mask = ctypes.c_int(), ctypes.create_string_buffer(128)
memory = libc.syscall({get_mempolicy}, ctypes.byref(mode), mask, 1024, None, 0)
print(json.dumps(dict(
    policy=policy, flags=flags, nice=nice, priority=priority, times=[runtime, deadline, period],
    io=libc.syscall({ioprio_get}, 1, 0), personality=libc.personality(0xFFFFFFFF),
    memory=[memory, mode.value, int.from_bytes(mask.raw, "little")],
)))
"""


def look(directory: Path, spec: dict[str, Any]) -> dict[str, Any]:
    from lamina.linux.numbers import number

    code = LOOK.format(**{n: number(n) for n in ("sched_getattr", "get_mempolicy", "ioprio_get")})
    spec["process"]["args"] = [sys.executable, "-I", "-S", "-c", code]
    found: dict[str, Any] = json.loads(said(over_host(directory, spec)))
    return found


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        ({"policy": "SCHED_OTHER", "nice": 5}, {"policy": 0, "nice": 5}),
        ({"policy": "SCHED_OTHER", "nice": -5}, {"policy": 0, "nice": -5}),
        ({"policy": "SCHED_BATCH", "nice": 3}, {"policy": 3, "nice": 3}),
        ({"policy": "SCHED_IDLE"}, {"policy": 5}),
        ({"policy": "SCHED_FIFO", "priority": 7}, {"policy": 1, "priority": 7}),
        (
            {"policy": "SCHED_RR", "priority": 99, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
            {"policy": 2, "priority": 99, "flags": 1},
        ),
        (
            {
                "policy": "SCHED_DEADLINE",
                "runtime": 1_000_000,
                "deadline": 50_000_000,
                "period": 100_000_000,
                "flags": ["SCHED_FLAG_RECLAIM", "SCHED_FLAG_DL_OVERRUN"],
            },
            {"policy": 6, "times": [1_000_000, 50_000_000, 100_000_000], "flags": 6},
        ),
    ],
    ids=lambda v: v.get("policy") if isinstance(v, dict) else "",
)
def test_scheduler(tmp_path: Path, scheduler: dict[str, Any], expected: dict[str, Any]) -> None:
    spec = small(scheduler=scheduler)
    try:
        found = look(tmp_path, spec)
    except StepFailed as error:
        if scheduler["policy"] in ("SCHED_OTHER", "SCHED_BATCH", "SCHED_IDLE"):
            raise
        pytest.skip(f"this kernel's control groups give out no real time: {error}")
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("priority", "expected"),
    [
        ({"class": "IOPRIO_CLASS_RT", "priority": 3}, 1 << 13 | 3),
        ({"class": "IOPRIO_CLASS_BE", "priority": 7}, 2 << 13 | 7),
        ({"class": "IOPRIO_CLASS_BE"}, 2 << 13),
        ({"class": "IOPRIO_CLASS_IDLE"}, 3 << 13),
    ],
)
def test_io_priority(tmp_path: Path, priority: dict[str, Any], expected: int) -> None:
    assert look(tmp_path, small(ioPriority=priority))["io"] == expected


@pytest.mark.parametrize(("domain", "expected"), [("LINUX", 0), ("LINUX32", 8)])
def test_personality(tmp_path: Path, domain: str, expected: int) -> None:
    spec = small()
    spec["linux"]["personality"] = {"domain": domain}
    assert look(tmp_path, spec)["personality"] == expected


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"mode": "MPOL_BIND", "nodes": "0"}, [0, 2, 1]),
        ({"mode": "MPOL_PREFERRED", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}, [0, 1 | 1 << 15, 1]),
        ({"mode": "MPOL_INTERLEAVE", "nodes": "0-0"}, [0, 3, 1]),
        ({"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES"]}, [0, 3 | 1 << 14, 1]),
        ({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_NUMA_BALANCING"]}, [0, 2 | 1 << 13, 1]),
        pytest.param(
            {"mode": "MPOL_PREFERRED_MANY", "nodes": "0"}, [0, 5, 1], marks=pytest.mark.kernel("5.15")
        ),
        pytest.param(
            {"mode": "MPOL_WEIGHTED_INTERLEAVE", "nodes": "0"}, [0, 6, 1], marks=pytest.mark.kernel("6.9")
        ),
        ({"mode": "MPOL_LOCAL"}, [0, 4, 0]),
        ({"mode": "MPOL_DEFAULT"}, [0, 0, 0]),
    ],
    ids=lambda v: v["mode"] if isinstance(v, dict) else "",
)
def test_memory_policy(tmp_path: Path, policy: dict[str, Any], expected: list[int]) -> None:
    if not Path("/sys/devices/system/node/node0").exists():
        pytest.skip("this kernel has no NUMA")
    spec = small()
    spec["linux"]["memoryPolicy"] = policy
    assert look(tmp_path, spec)["memory"] == expected


def test_a_memory_policy_that_no_node_can_have_is_an_error_that_names_it(tmp_path: Path) -> None:
    spec = small()
    spec["linux"]["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "900"}
    with pytest.raises(StepFailed, match="memory policy: MPOL_BIND 900"):
        run(over_host(tmp_path, spec))


@pytest.mark.parametrize("score", [-1000, -5, 0, 500, 1000])
def test_oom_score(tmp_path: Path, score: int) -> None:
    spec = small("/bin/cat", "/proc/self/oom_score_adj", oomScoreAdj=score)
    spec["mounts"] = [PROC, DEV]
    before = Path("/proc/self/oom_score_adj").read_text()
    try:
        assert int(said(over_host(tmp_path, spec))) == score
    except StepFailed as error:
        if score >= int(before):
            raise
        assert "oom_score_adj" in str(error)  # lowering it takes CAP_SYS_RESOURCE, which not every root has
    assert Path("/proc/self/oom_score_adj").read_text() == before


def test_an_oom_score_in_a_user_namespace_is_not_the_callers_too(tmp_path: Path) -> None:
    """There the new process shares the caller's memory while both run, and the kernel gives it to all who share it."""
    spec = small("/bin/cat", "/proc/self/oom_score_adj", oomScoreAdj=321)
    spec["mounts"] = [PROC, DEV]
    spec["linux"]["namespaces"].append({"type": "user"})
    spec["linux"].update(uidMappings=SHIFTED, gidMappings=SHIFTED)
    before = Path("/proc/self/oom_score_adj").read_text()
    assert said(over_host(tmp_path, spec)) == "321\n"
    assert Path("/proc/self/oom_score_adj").read_text() == before


def test_an_oom_score_is_written_without_a_procfs_in_the_container(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    spec = small("/bin/cat", oomScoreAdj=321)
    null = os.open("/dev/null", os.O_RDWR)
    running = launch(over_host(tmp_path, spec), stdin=reader, stdout=null, stderr=null)
    assert Path(f"/proc/{running.pid}/oom_score_adj").read_text() == "321\n"
    for fd in (reader, writer, null):
        os.close(fd)
    running.wait()
    running.close()


def status(directory: Path, spec: dict[str, Any]) -> dict[str, str]:
    spec["process"]["args"] = ["/bin/cat", "/proc/self/status"]
    spec["mounts"] = [PROC, DEV]
    lines = said(over_host(directory, spec)).splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_all_five_capability_sets(tmp_path: Path) -> None:
    chown, kill, setuid = 1 << 0, 1 << 5, 1 << 7
    sets = {
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_CHOWN"],
        "inheritable": ["CAP_KILL"],
        "ambient": ["CAP_KILL"],
    }
    spec = small(capabilities=sets, user={"uid": 1000, "gid": 1000})
    found = status(tmp_path, spec)
    assert int(found["CapBnd"], 16) == chown | kill | setuid
    assert int(found["CapInh"], 16) == int(found["CapAmb"], 16) == kill
    # after execve(2) somebody who is not root has his ambient set
    assert int(found["CapPrm"], 16) == int(found["CapEff"], 16) == kill


def test_cve_2022_29162_the_inheritable_set_is_empty_unless_asked(tmp_path: Path) -> None:
    full = ["CAP_CHOWN", "CAP_KILL"]
    found = status(tmp_path, small(capabilities={"bounding": full, "permitted": full, "effective": full}))
    assert int(found["CapInh"], 16) == int(found["CapAmb"], 16) == 0


def test_capabilities_that_cannot_be_given_are_said_and_left_out(tmp_path: Path) -> None:
    """The specification: logged as a warning, and no failure."""
    sets = {
        "bounding": ["CAP_KILL", "CAP_OF_TOMORROW"],
        "permitted": ["CAP_KILL"],
        "effective": ["CAP_KILL", "CAP_CHOWN"],
        "ambient": ["CAP_KILL"],
    }
    null = os.open("/dev/null", os.O_RDWR)
    running = launch(
        over_host(tmp_path, small("/bin/true", capabilities=sets)), stdin=null, stdout=null, stderr=null
    )
    os.close(null)
    assert running.wait() == 0
    running.close()
    assert running.notes == (
        "CAP_OF_TOMORROW is not given: this kernel has no capability of that name",
        "CAP_CHOWN is not effective: it is not permitted",
        "CAP_KILL is not ambient: it is not permitted and inheritable",
    )


@pytest.mark.parametrize("asked", [True, False])
def test_no_new_privileges(tmp_path: Path, asked: bool) -> None:
    assert status(tmp_path, small(noNewPrivileges=asked))["NoNewPrivs"] == str(int(asked))


def test_a_new_session_keyring_unless_told_otherwise(tmp_path: Path) -> None:
    code = (
        "import ctypes; libc = ctypes.CDLL(None); "
        "print(libc.syscall({}, 0, -3, 0))"  # KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING
    )
    from lamina.linux.keys import get_keyring_id, join_session_keyring
    from lamina.linux.numbers import number
    from support.namespaces import in_mount_namespace

    words = [sys.executable, "-I", "-S", "-c", code.format(number("keyctl"))]

    def both() -> tuple[int, int, int]:
        join_session_keyring()
        ours = get_keyring_id()
        new = int(said(over_host(tmp_path, small(*words))))
        old = int(said(over_host(tmp_path, small(*words), new_keyring=False)))
        return ours, new, old

    ours, new, old = in_mount_namespace(both)
    assert old == ours != new


def test_a_user_name_and_annotations_have_no_effect(tmp_path: Path) -> None:
    spec = small("/usr/bin/id", "-u", user={"uid": 7, "gid": 8, "username": "root"})
    spec["annotations"] = {"org.example/privileged": "true", "run.oci.keep_original_groups": "1"}
    assert said(over_host(tmp_path, spec)) == "7\n"


def test_affinity_is_for_processes_that_join_and_not_for_the_first(tmp_path: Path) -> None:
    spec = small(execCPUAffinity={"initial": "0", "final": "0"})
    found = status(tmp_path, spec)
    ours = dict(
        line.split(":\t")
        for line in Path("/proc/self/status").read_text().splitlines()
        if "Cpus_allowed" in line
    )
    assert found["Cpus_allowed"] == ours["Cpus_allowed"]


@pytest.mark.parametrize("field", ["apparmorProfile", "selinuxLabel"])
def test_labels_are_refused_where_nobody_reads_them(tmp_path: Path, field: str) -> None:
    from lamina.runtime.facts import security_modules

    if {"apparmorProfile": "apparmor", "selinuxLabel": "selinux"}[field] in security_modules():
        pytest.skip("the module runs here")
    with pytest.raises(Unsupported, match="does not run on this host"):
        run(over_host(tmp_path, small("/bin/true", **{field: "some_label"})))
    assert run(over_host(tmp_path, small("/bin/true", apparmorProfile="unconfined")))[0] == 0


def test_variables_are_those_given_and_a_command_line_for_windows_has_no_effect(tmp_path: Path) -> None:
    spec = small("/usr/bin/env", env=["PATH=/usr/bin:/bin", "B=a b=c", "A="], commandLine="false")
    assert said(over_host(tmp_path, spec)).splitlines() == ["PATH=/usr/bin:/bin", "B=a b=c", "A="]


def test_host_and_domain_name_are_the_containers(tmp_path: Path) -> None:
    spec = small("/bin/sh", "-c", "cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname")
    spec.update(hostname="box", domainname="example.org")
    spec["linux"]["namespaces"].append({"type": "uts"})
    spec["mounts"] = [PROC, DEV]
    before = os.uname().nodename
    assert said(over_host(tmp_path, spec)).split() == ["box", "example.org"]
    assert os.uname().nodename == before


SYSCTLS = {
    "kernel.shm_rmid_forced": "1",
    "kernel.msgmax": "4096",
    "kernel.sem": "100\t3200\t50\t30",
    "fs.mqueue.msg_max": "7",
    "net.ipv4.ip_unprivileged_port_start": "80",
    "net/ipv4/conf/lo/forwarding": "1",
    "kernel.domainname": "dom",
}


@pytest.mark.parametrize("user", [False, True])
def test_sysctls_of_namespaces_are_set_there_and_nowhere_else(tmp_path: Path, user: bool) -> None:
    from lamina.runtime.plan.sysctl import path_of

    files = {name: "/proc/sys/" + path_of(name) for name in SYSCTLS}
    before = {name: Path(file).read_text() for name, file in files.items()}
    spec = small("/bin/cat", *files.values())
    spec["linux"]["namespaces"] += [{"type": kind} for kind in ("ipc", "uts", "network")]
    spec["linux"]["sysctl"] = SYSCTLS
    spec["mounts"] = [PROC, DEV]
    if user:
        spec["linux"]["namespaces"].append({"type": "user"})
        spec["linux"].update(uidMappings=SHIFTED, gidMappings=SHIFTED)
        spec["linux"]["sysctl"] = {**SYSCTLS, "user.max_net_namespaces": "3"}
        spec["process"]["args"].append("/proc/sys/user/max_net_namespaces")
    values = said(over_host(tmp_path, spec)).splitlines()
    expected = [*SYSCTLS.values(), *(["3"] if user else [])]
    assert [value.strip() for value in values] == expected
    assert {name: Path(file).read_text() for name, file in files.items()} == before


def test_a_sysctl_that_does_not_exist_is_named(tmp_path: Path) -> None:
    spec = small("/bin/true")
    spec["linux"]["namespaces"].append({"type": "network"})
    spec["linux"]["sysctl"] = {"net.ipv4.no_such_thing": "1"}
    with pytest.raises(StepFailed, match=r"sysctl net\.ipv4\.no_such_thing: No such file"):
        run(over_host(tmp_path, spec))


def test_resource_limits_that_are_listed_twice_contradict_each_other(tmp_path: Path) -> None:
    limits = [{"type": "RLIMIT_NOFILE", "soft": n, "hard": n} for n in (10, 20)]
    with pytest.raises(InvalidInput, match="RLIMIT_NOFILE: it is listed twice"):
        run(over_host(tmp_path, small("/bin/true", rlimits=limits)))


def test_a_word_of_the_struct_is_eight_bytes() -> None:
    """The layout that `look` reads is that of linux/sched/types.h."""
    assert struct.calcsize("IIQiIQQQII") == 56
