"""Plans, without any privilege: golden texts for what a start does, and what cannot be meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.errors import InvalidInput, Unsupported
from lamina.linux.program import Strings
from lamina.overlay.spec import MountSpec
from lamina.runtime.bundle import Joined
from lamina.runtime.plan import compile_plan
from lamina.runtime.plan.devices import NODES
from lamina.runtime.plan.process import command_steps
from lamina.values import replace
from support.bundles import WIRING, full, printable, small

GOLDEN = Path(__file__).parent / "golden"


def _variants():
    yield "small", printable(small()), WIRING
    wired = replace(WIRING, tasks=(110, 111), controllers=(b"memory", b"pids"), seccomp=bytes(8 * 150))
    overlays = ((b"/home", printable(small()).rootfs),)
    yield (
        "full",
        printable(full(), overlays=overlays, hide=(b"/var/lib/lamina",), attributes=("nosuid", "nodev")),
        wired,
    )
    terminal = small(terminal=True)
    terminal["mounts"] = full()["mounts"][:3]
    yield "terminal", printable(terminal), WIRING
    user = small()
    user["linux"]["namespaces"].append({"type": "user"})
    user["mounts"] = full()["mounts"][:2]
    yield "user_namespace", printable(user, rootfs=b"/rootfs"), replace(WIRING, setgroups=False)
    yield "old_kernel", printable(small()), replace(WIRING, lowerdir_plus=False)
    # longer than a parameter of fsconfig(2), and together longer than the page of mount(2)
    deep = b"/" + b"deep" * 75
    stack = MountSpec((deep * 5 + b"/a", b"/layers/b"), deep * 5 + b"/upper", deep * 5 + b"/work")
    yield "long_paths", printable(small(), rootfs=stack), WIRING
    yield "old_kernel_long_paths", printable(small(), rootfs=stack), replace(WIRING, lowerdir_plus=False)
    unified = full()
    unified["mounts"] = [m for m in unified["mounts"] if m["destination"] == "/sys/fs/cgroup"]
    yield "cgroup2", printable(unified), replace(WIRING, cgroup=120)
    hierarchies = (b"cpu,cpuacct", b"pids", b"name=systemd")
    hybrid = replace(WIRING, tasks=(110, 111, 112), controllers=hierarchies, cgroup=120)
    yield "cgroup_hybrid", printable(unified), hybrid
    yield "launched", printable(small("ls", "-l")), WIRING
    joined = small()
    joined["linux"]["namespaces"] = [
        {"type": "mount"},
        *({"type": kind, "path": f"/ns/{kind}"} for kind in ("network", "ipc", "uts")),
    ]
    three = tuple(Joined(kind, 200 + n) for n, kind in enumerate(("network", "ipc", "uts")))
    yield "joined", printable(joined), replace(WIRING, namespaces=three)
    helped = small()
    helped["linux"]["namespaces"] = [
        {"type": "mount"},
        *({"type": kind, "path": f"/ns/{kind}"} for kind in ("pid", "network", "user")),
    ]
    named = (Joined("pid", 200), Joined("network", 201, outside=True), Joined("user", 202))
    nodes = frozenset((f"/dev/{n.decode()}", "c", a, b) for n, a, b in NODES)
    yield "helped", printable(helped), replace(WIRING, namespaces=named, nodes=nodes, trees=(("root", 210),))
    borrowed = small()
    borrowed["linux"]["namespaces"] = [{"type": "pid"}]
    yield "borrowed", printable(borrowed, rootfs=b"/rootfs"), WIRING
    asked = small(noNewPrivileges=True)
    asked["mounts"] = full()["mounts"][1:2]
    asked["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"}
    yield "listener", printable(asked), replace(WIRING, seccomp=bytes(8), seccomp_flags=8)
    many = small(
        oomScoreAdj=5,
        scheduler={"policy": "SCHED_BATCH", "nice": 3},
        ioPriority={"class": "IOPRIO_CLASS_IDLE"},
    )
    many["linux"]["namespaces"] += [{"type": kind} for kind in ("time", "network", "ipc")]
    many["linux"].update(
        timeOffsets={"boottime": {"secs": 7}},
        sysctl={"net.ipv4.ip_forward": "1", "kernel.shmmni": "5"},
        personality={"domain": "LINUX32"},
        memoryPolicy={"mode": "MPOL_BIND", "nodes": "0"},
        netDevices={"eth0": {}},
        devices=[{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "uid": 5}],
        rootfsPropagation="shared",
    )
    many["mounts"] = [
        full()["mounts"][1],
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "sync", "rro"]},
        {"destination": "/tmp", "options": ["remount", "size=1m"]},
        {"destination": "/data", "source": "/srv", "options": ["rbind", "rslave", "ridmap", "rnoexec"]},
        {"destination": "/over", "type": "overlay", "source": "overlay", "options": ["lowerdir=/a:/b"]},
    ]
    yield "many_fields", printable(many), replace(WIRING, id_maps=((3, 220),))
    yield "without_pivot", printable(small(), no_pivot=True), WIRING


@pytest.mark.parametrize(
    ("name", "bundle", "wiring"), list(_variants()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_the_plan_is_the_golden_one(name, bundle, wiring):
    """After a wanted change: LAMINA_GOLDEN=write pytest tests/runtime/test_plan.py, and read the difference."""
    text = str(compile_plan(bundle, wiring)) + "\n"
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("LAMINA_GOLDEN") == "write":
        golden.write_text(text)
    assert text == golden.read_text()


def calls(spec, wiring=WIRING, **more):
    return [step.call for step in compile_plan(printable(spec, **more), wiring).steps]


def test_every_register_is_saved_before_it_is_used():
    for _, bundle, wiring in _variants():
        compile_plan(bundle, wiring).assemble()


def test_nothing_of_the_host_is_open_when_the_image_decides_what_is_opened():
    names = calls(full())
    closed = names.index("close_range")
    assert names.index("pivot_root") < closed < names.index("fchdir", closed) < names.index("execveat")


@pytest.mark.parametrize("confined", [True, False])
def test_the_filter_comes_last(confined: bool) -> None:
    names = calls(small(noNewPrivileges=confined), replace(WIRING, seccomp=bytes(8)))
    assert names[-3:] == ["prctl", "seccomp", "execveat"]


def test_a_filter_that_asks_somebody_comes_before_the_capabilities_go_where_privileges_are_gained():
    asking = replace(WIRING, seccomp=bytes(8), seccomp_flags=8)
    names = calls(small(noNewPrivileges=False), asking)
    assert names.index("seccomp") < names.index("capset")
    names = calls(small(), asking)
    assert names.index("capset") < names.index("seccomp")


def test_a_command_without_slash_is_looked_for_along_the_containers_path():
    steps = command_steps(small("ls", env=["PATH=/a::/b"])["process"])
    found = [s.args[0] for s in steps if s.call == "execve"]
    assert found == [b"/a/ls", b"./ls", b"/b/ls"]
    assert steps[-1].tolerate == ()
    assert steps[-1].args[1] == Strings([b"ls"])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda s: s["process"].update(args=[]), "no command"),
        (lambda s: s["process"].update(args=["a\0b"]), "NUL"),
        (lambda s: s.update(mounts=[{"destination": "/a\0b", "type": "tmpfs"}]), "find /a\0b in"),
        (lambda s: s.update(mounts=[{"destination": "/a/../proc/1", "type": "tmpfs"}]), "procfs"),
        (lambda s: s.update(mounts=[{"destination": "/a"}]), "neither a type"),
        (
            lambda s: s.update(mounts=[{"destination": "/a", "source": "/b", "options": ["bind", "size=1"]}]),
            "size",
        ),
        (
            lambda s: s.update(mounts=[{"destination": "/proc", "source": "/b", "options": ["bind"]}]),
            "procfs",
        ),
        (lambda s: s.update(mounts=[{"destination": "/proc/self/attr", "type": "tmpfs"}]), "procfs"),
        (lambda s: s["process"].update(terminal=True), "devpts"),
        (lambda s: s["linux"]["namespaces"].append({"type": "mnt"}), "mnt"),
        (lambda s: s["linux"]["namespaces"].append({"type": "pid"}), "twice"),
    ],
)
def test_what_cannot_be_meant_is_refused(change, complaint):
    spec = small()
    change(spec)
    with pytest.raises(InvalidInput, match=complaint):
        calls(spec)


def test_a_stack_too_long_for_the_option_page_is_refused_where_it_would_be_cut_in_silence():
    lowers = tuple(b"/" + b"x" * 100 + str(i).encode() for i in range(100))
    bundle = printable(small())
    with pytest.raises(Unsupported, match="4095"):
        compile_plan(
            replace(bundle, rootfs=replace(bundle.rootfs, lowerdirs=lowers)),
            replace(WIRING, lowerdir_plus=False),
        )


def test_with_a_launcher_only_it_the_channel_and_the_report_are_left_open():
    steps = compile_plan(printable(small()), WIRING).whole_steps()
    closed = next(n for n, s in enumerate(steps) if s.call == "close_range")
    assert steps[closed].args[0] == 5
    # the two that the pipe then gets are 5 and 6
    assert [(s.call, *s.args[:2]) for s in steps[closed:] if s.call in ("dup3", "close")] == [
        ("close", 5),
        ("dup3", 6, 3),
    ]
    assert steps[-1].call == "execveat"
    assert isinstance(steps[-1].args[2], Strings)
    assert steps[-1].args[2][0] == b"lamina-exec"


def test_an_init_is_the_launcher_by_another_name():
    bundle = printable(small("ls", "-l"), init=True)
    steps = compile_plan(bundle, WIRING).whole_steps()
    assert isinstance(steps[-1].args[2], Strings)
    assert steps[-1].args[2] == Strings([b"lamina-init", b"ls", b"-l"])
