"""Plans by the hundred, without any privilege: what must hold of every one, and what becomes of fields that a host may
not have.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from lamina.errors import InvalidInput, LaminaError, Unsupported
from lamina.linux.constants import (
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_VFORK,
    CLONE_VM,
    MOUNT_ATTR_RDONLY,
)
from lamina.linux.program import Step, Struct
from lamina.runtime.bundle import Bundle, Joined
from lamina.runtime.plan import Plan, compile_plan
from lamina.runtime.plan.mounts import place_of
from lamina.runtime.plan.namespaces import FLAGS, first_id
from lamina.runtime.plan.options import option_names, parse_options
from lamina.runtime.plan.scheduling import affinity_steps, parse_list
from lamina.runtime.plan.sysctl import namespace_of, path_of
from lamina.runtime.waits import COPY_UP, ID_MAPS, LISTENER, NET_DEVICES, REPORT, TAKE_MODE, TERMINAL
from lamina.values import replace
from support.bundles import WIRING, full, printable, small
from support.starting import KINDS

STATES = ("made", "joined", "absent")
MAPS = [{"containerID": 0, "hostID": 1000, "size": 10}]
EVERY_COMBINATION = list(itertools.product(STATES, repeat=len(KINDS)))


def combined(states: tuple[str, ...], outside: frozenset[str] = frozenset()) -> tuple[Bundle, Any]:
    spec = small()
    spec["linux"]["namespaces"] = []
    joined = []
    for number, (kind, state) in enumerate(zip(KINDS, states, strict=True)):
        if state == "made":
            spec["linux"]["namespaces"].append({"type": kind})
        elif state == "joined":
            spec["linux"]["namespaces"].append({"type": kind, "path": f"/ns/{kind}"})
            joined.append(Joined(kind, 200 + number, kind in outside))
    if states[0] == "made":
        spec["linux"].update(uidMappings=MAPS, gidMappings=MAPS)
    usual = [("/dev/" + n, "c", a, b) for n, a, b in (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7),
                                                      ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))]  # fmt: skip
    wiring = replace(WIRING, namespaces=tuple(joined), nodes=frozenset(usual))
    return printable(spec, rootfs=b"/rootfs"), wiring


def test_every_combination_of_namespaces_is_a_plan() -> None:
    """6,561 of them: who may share memory, who is helped, and that all can be packed."""
    for states in EVERY_COMBINATION:
        bundle, wiring = combined(states)
        plan = compile_plan(bundle, wiring)
        by = dict(zip(KINDS, states, strict=True))
        hard = any(by[kind] == "joined" for kind in ("pid", "user", "time"))
        helped = hard or (by["user"] == "made" and "joined" in states)
        assert bool(plan.enter) is helped, by
        sharing = plan.clone_flags(wiring) & (CLONE_VM | CLONE_VFORK)
        assert (sharing == 0) is helped, by
        if by["user"] == "made":
            assert not sharing & CLONE_VFORK
            assert [wait.kind for wait in plan.waits] == [ID_MAPS, REPORT]
        joins = [step.args for step in plan.steps if step.call == "setns"] + list(plan.enter)
        assert len(joins) == states.count("joined")
        assert plan.flags & sum(FLAGS[k] for k in KINDS if by[k] != "made") == 0
        assert ("pivot_root" in [s.call for s in plan.steps]) is (by["mount"] == "made")


@pytest.mark.parametrize("states", EVERY_COMBINATION[::97], ids="-".join)
def test_a_sample_of_them_can_be_packed(states: tuple[str, ...]) -> None:
    bundle, wiring = combined(states)
    compile_plan(bundle, wiring).assemble()


def test_what_belongs_to_others_is_joined_before_the_user_namespace_and_the_rest_after() -> None:
    bundle, wiring = combined(("joined",) * len(KINDS), frozenset(("network", "uts")))
    order = [flag for _, flag in compile_plan(bundle, wiring).enter]
    user = order.index(CLONE_NEWUSER)
    assert {order.index(FLAGS[kind]) < user for kind in ("network", "uts")} == {True}
    assert {order.index(FLAGS[kind]) > user for kind in ("pid", "ipc", "cgroup", "time", "mount")} == {True}
    assert order[-1] == FLAGS["mount"]


def test_memory_is_shared_with_nobody_who_could_be_traced() -> None:
    for kind, flag in (("pid", CLONE_NEWPID), ("user", CLONE_NEWUSER), ("time", CLONE_NEWTIME)):
        states = tuple(
            "joined" if name == kind else "made" if name == "mount" else "absent" for name in KINDS
        )
        bundle, wiring = combined(states)
        plan = compile_plan(bundle, wiring)
        assert [entered for _, entered in plan.enter] == [flag]
        assert not plan.clone_flags(wiring) & CLONE_VM


def everything() -> tuple[Bundle, Any]:
    """A plan with all points at which it waits."""
    spec = full()
    spec["process"].update(terminal=True)
    spec["linux"]["namespaces"].append({"type": "user"})
    spec["linux"].update(
        uidMappings=MAPS, gidMappings=MAPS, netDevices={"eth0": {}}, seccomp={"defaultAction": "x"}
    )
    spec["mounts"].append({"destination": "/tmp", "type": "tmpfs", "options": ["tmpcopyup"]})
    wiring = replace(WIRING, seccomp=bytes(8), seccomp_flags=8)
    return printable(spec), wiring


def test_the_order_of_what_is_waited_for() -> None:
    bundle, wiring = everything()
    plan = compile_plan(bundle, wiring)
    kinds = [wait.kind for wait in plan.waits]
    assert kinds == [ID_MAPS, NET_DEVICES, TAKE_MODE, COPY_UP, TERMINAL, REPORT, LISTENER]
    told = [step for step in plan.steps if step.call in ("sendmsg", "read")]
    assert [step.call for step in told] == [
        "read", "sendmsg", "read", "sendmsg", "read", "sendmsg", "read", "sendmsg", "sendmsg", "sendmsg",
    ]  # fmt: skip


def test_the_document_says_what_is_joined_and_waited_for() -> None:
    bundle, wiring = combined(("made", "made", "joined", *["absent"] * 5))
    document = compile_plan(bundle, wiring).document()
    assert (document["enter"], document["waits"]) == (["CLONE_NEWPID"], [ID_MAPS, REPORT])
    assert document["clone3"] == ["CLONE_NEWNS", "CLONE_NEWUSER"]


@pytest.mark.parametrize("privileges", [True, False])
def test_the_number_of_a_listener_is_the_lowest_that_is_free(privileges: bool) -> None:
    """Told by walking the descriptors that the steps open and close, from close_range(2) on."""
    bundle, wiring = everything()
    bundle.spec["process"]["noNewPrivileges"] = privileges
    plan = compile_plan(bundle, wiring)
    taken = {0, 1, 2, 3, 4}
    began = False
    for step in plan.steps:
        began |= step.note == "nothing of the host stays open"
        if not began:
            continue
        if step.call == "pipe2":
            taken |= {5, 6}
        elif step.call == "dup3" and isinstance(step.args[1], int):
            taken.add(step.args[1])
        elif step.call in ("openat", "openat2"):
            taken.add(next(n for n in range(100) if n not in taken))
        elif step.call == "close" and isinstance(step.args[0], int):
            taken.discard(step.args[0])
        elif step.call == "close_range":
            first, last = step.args[0], step.args[1]
            assert isinstance(first, int) and isinstance(last, int)
            taken = {n for n in taken if not first <= n <= last}
        elif step.call == "seccomp":
            assert step.want == next(n for n in range(100) if n not in taken)
            return
    raise AssertionError("there is no filter")


def test_after_the_descriptors_are_closed_no_path_of_the_host_is_meant() -> None:
    for bundle, wiring in (everything(), (printable(full()), WIRING)):
        steps = compile_plan(bundle, wiring).steps
        at = next(n for n, s in enumerate(steps) if s.note == "nothing of the host stays open")
        assert not [s for s in steps[at:] if s.call in ("mount", "open_tree", "fsopen", "setns", "unshare")]


def flags_of(steps: tuple[Step, ...], name: str) -> list[tuple[Any, ...]]:
    return [a.fields for s in steps for a in s.args if isinstance(a, Struct) and a.name == name]


CGROUP = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}


def cgroups(own: bool, options: list[str], *capabilities: str, **wired: Any) -> Plan:
    spec = small(capabilities={"bounding": list(capabilities)}) if capabilities else small()
    spec["linux"]["namespaces"] += [{"type": "cgroup"}] if own else []
    spec["mounts"] = [{**CGROUP, "options": options}]
    return compile_plan(printable(spec), replace(WIRING, **wired))


V1: dict[str, Any] = {
    "tasks": (110, 111, 112),
    "controllers": (b"memory", b"cpu,cpuacct", b"name=systemd"),
    "places": (
        b"/sys/fs/cgroup/memory/box",
        b"/sys/fs/cgroup/cpu,cpuacct/box",
        b"/sys/fs/cgroup/systemd/box",
    ),
}
V2: dict[str, Any] = {"cgroup": 120, "places": (b"/sys/fs/cgroup/box",)}


@pytest.mark.parametrize("options", [[], ["ro"], ["rw", "ro"], ["nosuid"]])
@pytest.mark.parametrize("wired", [V1, V2], ids=["v1", "v2"])
def test_cve_2023_25809_without_a_cgroup_namespace_only_the_own_groups_are_there_and_read_only(
    wired: dict[str, Any], options: list[str]
) -> None:
    steps = cgroups(False, options, **wired).steps
    shown = [
        s.args[1]
        for s in steps
        if s.call == "open_tree" and isinstance(s.args[1], bytes) and b"/sys/" in s.args[1]
    ]
    assert tuple(shown) == wired["places"]
    assert not [s for s in steps if s.call == "fsopen" and s.args[0] in ("cgroup", "cgroup2")]
    readonly = [a for a in flags_of(steps, "mount_attr") if a[0] & MOUNT_ATTR_RDONLY]
    assert len(readonly) == len(shown) + (wired is V1)
    with pytest.raises(InvalidInput, match="writable control groups need a cgroup namespace"):
        cgroups(False, ["rw"], **wired)


@pytest.mark.parametrize("wired", [V1, V2], ids=["v1", "v2"])
def test_a_privileged_container_may_write_to_its_own_groups_without_a_cgroup_namespace(
    wired: dict[str, Any],
) -> None:
    """As `podman run --privileged` on cgroup v1 asks: who may mount could do it himself."""
    steps = cgroups(False, ["rw"], "CAP_SYS_ADMIN", **wired).steps
    shown = [s.args[1] for s in steps if s.call == "open_tree" and isinstance(s.args[1], bytes)]
    assert [path for path in shown if b"/sys/fs" in path] == list(wired["places"])
    assert not [a for a in flags_of(steps, "mount_attr") if a[0] & MOUNT_ATTR_RDONLY]
    for options in ([], ["ro"]):
        closed = cgroups(False, options, "CAP_SYS_ADMIN", **wired).steps
        assert [a for a in flags_of(closed, "mount_attr") if a[0] & MOUNT_ATTR_RDONLY]
    with pytest.raises(InvalidInput, match="writable control groups need a cgroup namespace"):
        cgroups(False, ["rw"], "CAP_CHOWN", **wired)


def test_hierarchies_with_several_controllers_and_with_none() -> None:
    steps = cgroups(True, ["ro"], **V1).steps
    keys = [s.args[2] for s in steps if s.call == "fsconfig" and s.args[1] in (0, 1)]
    assert [k for k in keys if k in ("memory", "cpu", "cpuacct", "none", "name")] == [
        "memory", "cpu", "cpuacct", "none", "name",
    ]  # fmt: skip
    links = [s.args[::2] for s in steps if s.call == "symlinkat" and s.args[0] == b"cpu,cpuacct"]
    assert links == [(b"cpu,cpuacct", b"cpu"), (b"cpu,cpuacct", b"cpuacct")]


def test_labels_of_mounts() -> None:
    spec = full()
    spec["linux"]["mountLabel"] = "system_u:object_r:container_file_t:s0:c1,c2"
    with pytest.raises(Unsupported, match="SELinux does not run"):
        compile_plan(printable(spec), WIRING)
    steps = compile_plan(printable(spec), replace(WIRING, modules=frozenset(("selinux",)))).steps
    labelled = [s.args[0] for s in steps if s.call == "fsconfig" and s.args[2] == "context"]
    assert labelled == [
        "mount1.fs",
        "mount2.fs",
    ]  # the tmpfs and devpts; procfs and sysfs have the policy's own


def test_a_label_with_categories_is_one_option_of_an_overlay() -> None:
    label = "u:object_r:t:s0:c1,c2"
    spec = small()
    spec["linux"]["mountLabel"] = label
    options = ["lowerdir=/a:/b"]
    spec["mounts"] = [{"destination": "/o", "type": "overlay", "source": "overlay", "options": options}]
    steps = compile_plan(printable(spec), replace(WIRING, modules=frozenset(("selinux",)))).steps
    found = [s.args[3] for s in steps if s.call == "fsconfig" and s.args[2] in ("context", b"context")]
    assert [one.decode() if isinstance(one, bytes) else one for one in found] == [label]


def test_labels_of_processes() -> None:
    spec = small(apparmorProfile="docker-default", selinuxLabel="system_u:system_r:container_t:s0")
    wiring = replace(WIRING, modules=frozenset(("selinux", "apparmor")))
    steps = compile_plan(printable(spec), wiring).steps
    pairs = [(s, after) for s, after in itertools.pairwise(steps) if after.call == "write"]
    written = {s.args[1]: after.args[1] for s, after in pairs if s.call == "openat2"}
    assert written == {
        b"self/attr/apparmor/exec": b"exec docker-default",
        b"self/attr/exec": b"system_u:system_r:container_t:s0",
    }
    for bad in ("a\nb", "a\0b"):
        with pytest.raises(InvalidInput):
            compile_plan(printable(small(apparmorProfile=bad)), wiring)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
    ],
)
def test_names_of_kernel_parameters(name: str, path: str) -> None:
    assert path_of(name) == path


@pytest.mark.parametrize(
    "name", ["", ".", "a..b", "../x", "net/../kernel/panic", "net/", "/net", "net.ipv4/..", "a\0b"]
)
def test_what_is_no_kernel_parameter(name: str) -> None:
    with pytest.raises(InvalidInput, match="no kernel parameter's name"):
        path_of(name)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[(f"kernel/{n}", "ipc") for n in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni")],
        ("kernel/shm_rmid_forced", "ipc"),
        ("fs/mqueue/msg_max", "ipc"),
        ("net/core/somaxconn", "network"),
        ("user/max_user_namespaces", "user"),
        ("kernel/hostname", "uts"),
        ("kernel/domainname", "uts"),
        ("kernel/ns_last_pid", "pid"),
        ("kernel/pid_max", "pid"),
        ("vm/memfd_noexec", "pid"),
        *[(f"kernel/{n}", "") for n in ("panic", "core_pattern", "modprobe", "shm", "msgmax/x")],
        *[(n, "") for n in ("vm/swappiness", "fs/file-max", "networking/x", "fs/mqueues/x", "users/x", "dev/x")],
    ],
)  # fmt: skip
def test_which_namespace_a_kernel_parameter_belongs_to(name: str, kind: str) -> None:
    assert namespace_of(name, (6, 18)) == FLAGS.get(kind, 0)


def test_a_parameter_that_this_kernel_does_not_keep_apart_is_the_whole_machines() -> None:
    assert namespace_of("kernel/pid_max", (6, 13)) == 0
    assert namespace_of("vm/memfd_noexec", (6, 2)) == 0
    spec = small()
    spec["linux"]["sysctl"] = {"kernel.pid_max": "1000"}
    with pytest.raises(Unsupported, match="whole machine"):
        compile_plan(printable(spec), replace(WIRING, release=(6, 12)))
    compile_plan(printable(spec), replace(WIRING, release=(6, 14)))


@pytest.mark.parametrize("release", [(6, 2), (5, 15)])
def test_a_time_namespace_that_execve_does_not_enter_is_refused(release: tuple[int, int]) -> None:
    spec = small()
    spec["linux"]["namespaces"].append({"type": "time"})
    with pytest.raises(Unsupported, match="time namespace"):
        compile_plan(printable(spec), replace(WIRING, release=release))


@pytest.mark.parametrize("option", option_names())
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_every_option_alone_is_a_plan_or_an_error_that_names_it(option: str, kind: str) -> None:
    spec = small()
    spec["mounts"] = [{"destination": "/a", "type": kind, "source": "/src", "options": [option]}]
    wiring = replace(WIRING, id_maps=((0, 130),))
    try:
        compile_plan(printable(spec), wiring).assemble()
    except LaminaError as error:
        assert option in str(error) or kind == "bind"
        assert option not in ("ro", "rbind", "idmap")


@pytest.mark.parametrize("option", option_names())
def test_no_option_is_taken_for_data_of_the_file_system(option: str) -> None:
    assert parse_options([option]).data == ()


@pytest.mark.parametrize(
    ("maps", "expected"), [([], 0), (MAPS, 0), ([{"containerID": 5, "hostID": 1, "size": 1}], 5)]
)
def test_under_which_id_a_container_is_furnished(maps: list[dict[str, int]], expected: int) -> None:
    assert first_id(maps) == expected


@pytest.mark.parametrize(
    ("text", "numbers"), [("", []), ("0", [0]), ("0-3,7", [0, 1, 2, 3, 7]), (" 1 , 1-2,", [1, 2])]
)
def test_lists_of_processors_and_nodes(text: str, numbers: list[int]) -> None:
    assert parse_list(text, "x") == numbers


@pytest.mark.parametrize(
    "text", ["a", "1-", "-1", "3-1", "1--2", "99999", "\u0664", "0x1", "\u2028", "9" * 5000]
)
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(InvalidInput, match="read x"):
        parse_list(text, "x")


def test_affinity_of_processes_that_join() -> None:
    process = {"execCPUAffinity": {"initial": "0-1", "final": "64"}}
    (first,), (second,) = affinity_steps(process, "initial"), affinity_steps(process, "final")
    assert first.args == (0, 8, (3).to_bytes(8, "little"))
    assert second.args == (0, 16, (1 << 64).to_bytes(16, "little"))
    assert affinity_steps({}, "final") == []


def test_a_mount_without_what_it_needs_of_the_caller_is_an_error() -> None:
    spec = small()
    spec["mounts"] = [{"destination": "/a", "source": "/b", "options": ["bind", "idmap"]}]
    with pytest.raises(LaminaError, match="id maps"):
        compile_plan(printable(spec), WIRING)
    spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"}
    with pytest.raises(LaminaError, match="no compiled filter"):
        compile_plan(printable(spec), WIRING)
    with pytest.raises(LaminaError, match="no procfs"):
        compile_plan(printable(small(oomScoreAdj=1)), replace(WIRING, proc=-1))


def test_a_place_is_read_once() -> None:
    place = place_of(
        {"destination": "/a", "type": "none", "source": "x", "options": ["rbind"]}, 3, b"/bundle"
    )
    assert (place.fstype, place.source, place.save, place.bound) == ("bind", b"/bundle/x", "mount3", True)
