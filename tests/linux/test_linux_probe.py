"""The probe: every question is answered, truly, and asking changes nothing."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lamina.errors import KernelError
from lamina.linux import constants as c
from lamina.linux import probe_system, probe_users
from lamina.linux.mount import mount
from lamina.linux.mountinfo import parse_mountinfo
from lamina.linux.probe import QUESTIONS, Host, No, Yes, probe
from lamina.linux.probe_cgroups import hierarchies
from lamina.linux.probe_overlay import reflink, upper
from lamina.linux.probe_users import IdRange, InUserNamespace, subordinate_ids
from lamina.linux.process import prctl
from support.namespaces import in_mount_namespace, in_user_namespace, user_namespaces_work
from support.rootless import Rootless

ASK_EVERYTHING = """
from lamina.linux.probe import probe, Yes, No
for area, name, meaning, answer in probe().everything():
    print(name, type(answer).__name__)
"""


def test_every_question_is_answered_and_explained() -> None:
    host = Host()
    seen = {}
    for area, name, meaning, answer in host.everything():
        assert area in QUESTIONS
        assert meaning[0].isupper()
        assert not meaning.endswith(".")
        assert len(meaning) < 125
        if meaning.startswith("Whether"):
            assert isinstance(answer, Yes | No), name
        if isinstance(answer, No):
            assert answer.why
            assert str(answer) == f"no: {answer.why}"
            assert not answer
        if isinstance(answer, Yes):
            assert answer
        seen[name] = answer
    assert seen == vars(host)
    assert set(Host.__annotations__) == seen.keys()


def test_a_question_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()
    asked = []

    def release(host: Host) -> str:
        asked.append(host)
        return "1.2.3"

    monkeypatch.setattr(probe_system, "release", release)
    assert (host.release, host.release, host.kernel) == ("1.2.3", "1.2.3", (1, 2, 3))
    assert asked == [host]
    assert probe() is probe()


@pytest.mark.parametrize("who", ["getpid", "geteuid"])
def test_a_forked_child_and_another_user_ask_for_themselves(
    monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    mine = probe()
    assert mine.uid == os.geteuid()
    monkeypatch.setattr(os, who, lambda: 54321)
    assert probe() is not mine


def test_no_such_question() -> None:
    with pytest.raises(AttributeError, match="no such question"):
        Host().frobnicate  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(TypeError, match="frobnicate"):
        Host(frobnicate=Yes())


def state() -> dict[str, object]:
    """What of this process and machine a question might change."""
    volatile = ("voluntary", "nonvoluntary", "Vm", "Rss", "Hugetlb", "SigQ", "Cpus", "Mems", "State")
    with open("/proc/self/status") as file:
        status = [line for line in file if not line.startswith(volatile)]
    umask = os.umask(0o022)
    os.umask(umask)
    with open("/proc/self/mountinfo") as file:
        mounts = file.read()
    return {
        "status": status,
        "namespaces": {n: os.readlink(f"/proc/self/ns/{n}") for n in os.listdir("/proc/self/ns")},
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "directory": os.getcwd(),
        "umask": umask,
        "mounts": mounts,
        "environment": dict(os.environ),
        "dumpable": prctl(c.PR_GET_DUMPABLE),
    }


def test_asking_changes_nothing() -> None:
    def stage() -> None:
        list(Host().everything())  # what is loaded and opened once
        before = state()
        list(Host().everything())
        assert state() == before
        with pytest.raises(ChildProcessError):  # no child is left to wait for
            os.waitpid(-1, os.WNOHANG)

    if os.geteuid() == 0:
        in_mount_namespace(stage)  # where nobody else mounts meanwhile
    else:
        stage()


@pytest.mark.parametrize("who", ["me", "rootless"])
def test_asking_from_a_program_with_threads(who: str, rootless: Rootless) -> None:
    code = f"""
import sys, threading, warnings
warnings.simplefilter("error")
sys.setswitchinterval(0.0005)
stop = threading.Event()
def busy():
    while not stop.is_set(): sum(range(100))
threads = [threading.Thread(target=busy) for _ in range(3)]
for thread in threads: thread.start()
{ASK_EVERYTHING}
stop.set()
"""
    if who == "rootless":
        done = rootless.python(code)
    else:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == sum(len(names.split()) for _, names in QUESTIONS.values())


def test_without_the_extension() -> None:
    """Everything goes through ctypes and the walker in Python, with the same answers."""
    code = f"""
import sys
sys.modules["lamina.linux._native"] = None
{ASK_EVERYTHING}
from lamina.linux import call, _door, packed, runner
assert call._raw is _door.syscall and packed.engine is runner
print(probe().native, probe().in_user_namespace)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert "no: it was not built" in done.stdout
    assert done.stdout.rstrip().endswith(str(probe().in_user_namespace))


def test_user_namespaces_are_told_truly() -> None:
    assert bool(probe().user_namespaces) == user_namespaces_work()


@pytest.mark.userns
def test_overlays_in_user_namespaces_are_told_truly(rootless: Rootless) -> None:
    asked = "from lamina.linux.probe import probe; print(bool(probe().overlay_in_user_namespace))"
    said = rootless.python(asked)
    for name in ("lower", "upper", "work", "merged"):
        rootless.mkdir(name)
    options = ",".join(f"{n}dir={rootless.tmp / n}" for n in ("lower", "upper", "work"))
    tried = rootless.run(
        "unshare", "-Urm", "mount", "-t", "overlay", "overlay", "-o", f"userxattr,{options}",
        rootless.tmp / "merged",
    )  # fmt: skip
    assert said.stdout.strip() == str(tried.returncode == 0), said.stderr + tried.stderr


@pytest.mark.userns
def test_in_a_user_namespace_already() -> None:
    def stage() -> tuple[bool, bool]:
        host = Host()
        return bool(host.user_namespaces), bool(host.overlay_in_user_namespace)

    assert in_user_namespace(stage) == (
        bool(probe().user_namespaces),
        bool(probe().overlay_in_user_namespace),
    )


@pytest.mark.root
def test_reasons_are_read_from_the_settings(rootless: Rootless) -> None:
    """With the limit at 0 in the user's own namespace: a real refusal, not a pretended one."""
    code = "from lamina.linux.probe import Host; print(Host().user_namespaces)"
    done = rootless.run(
        "unshare", "-Ur", "sh", "-c",
        f"echo 0 > /proc/sys/user/max_user_namespaces && exec {sys.executable} -c '{code}'",
    )  # fmt: skip
    assert done.stdout == "no: user.max_user_namespaces is 0\n", done.stderr


@pytest.mark.parametrize(
    ("known", "setting", "why"),
    [
        ({"in_user_namespace": InUserNamespace(0, errno.EPERM, errno.EPERM), "apparmor_permits": No("1")}, None,
         "AppArmor takes the privileges away"),
        ({"in_user_namespace": InUserNamespace(errno.EPERM, errno.EPERM, errno.EPERM)}, "0",
         "unprivileged_userns_clone is 0"),
        ({"in_user_namespace": InUserNamespace(errno.EPERM, errno.EPERM, errno.EPERM)}, None, "seccomp filter"),
        ({"in_user_namespace": InUserNamespace(errno.ENOSPC, 0, 0)}, None, "the limit"),
        ({"in_user_namespace": InUserNamespace(errno.ENOSYS, 0, 0)}, None, "has no clone3"),
    ],
)  # fmt: skip
def test_why_there_are_no_user_namespaces(
    monkeypatch: pytest.MonkeyPatch, known: dict[str, object], setting: str | None, why: str
) -> None:
    monkeypatch.setattr(probe_users, "read_setting", lambda path: setting)
    answer = Host(
        **{"uid": 1000, "max_user_namespaces": 100, "apparmor_permits": Yes(), **known}
    ).user_namespaces
    assert not answer
    assert why in answer.why


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.1.0-18-amd64", (6, 1, 0)),
        ("6.18.44-fc-v669", (6, 18, 44)),
        ("6.9-rc1", (6, 9, 0)),
        ("4.19", (4, 19, 0)),
        ("6.12.0+", (6, 12, 0)),
        ("weird", (0, 0, 0)),
    ],
)
def test_versions(release: str, version: tuple[int, int, int]) -> None:
    host = Host(release=release)
    assert host.kernel == version
    assert host.at_least("4.18") == (version >= (4, 18))


@pytest.mark.parametrize(
    ("release", "build", "signature", "stable"),
    [
        ("6.1.0-18-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1 (2024-02-01)", None, (6, 1, 76)),
        ("6.8.0-45-generic", "#45-Ubuntu SMP", "Ubuntu 6.8.0-45.45-generic 6.8.12", (6, 8, 12)),
        ("6.18.44", "#1 SMP PREEMPT_DYNAMIC @0", None, (6, 18, 44)),
    ],
)
def test_stable_release(
    monkeypatch: pytest.MonkeyPatch, release: str, build: str, signature: str | None, stable: object
) -> None:
    told = os.uname_result(("Linux", "host", release, build, "x86_64"))
    monkeypatch.setattr(os, "uname", lambda: told)
    monkeypatch.setattr(probe_system, "read_setting", lambda path: signature)
    assert Host().stable_release == stable


def test_an_older_kernel() -> None:
    old = Host(release="5.15.0", overlay=Yes("3.18"), overlay_defaults={"metacopy": "Y", "index": "N"})
    assert old.overlay_lowerdir_plus == No("kernel 5.15.0: overlayfs has lowerdir+ since 6.8")
    assert old.overlay_metacopy == Yes("4.19", "on unless told otherwise")
    assert old.overlay_index == Yes("4.13", "off unless told otherwise")
    assert not Host(overlay=No("none here")).overlay_metacopy
    assert not Host(release="6.10.0", pidfd_info=Yes("6.13")).pidfd_exit_status


def test_a_call_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from lamina.linux import probe_calls

    def refuse(code: int) -> None:
        def refused(name: str, *args: object, target: object = "") -> int:
            raise KernelError(name, code)

        monkeypatch.setattr(probe_calls, "syscall", refused)

    questions = (
        "clone3", "pidfd_open", "pidfd_getfd", "openat2", "close_range", "mount_setattr", "statmount", "mount_api",
    )  # fmt: skip
    refuse(errno.ENOSYS)
    for name in questions:
        answer = getattr(Host(), name)
        assert not answer, name
        assert "(since " in answer.why
    refuse(errno.EPERM)
    for name in questions:
        answer = getattr(Host(), name)
        assert not answer, name
        assert "forbidden" in answer.why
    refuse(errno.EINVAL)
    for name in questions:
        if name != "close_range":  # which has a second thing to ask
            assert getattr(Host(), name), name


def test_subordinate_ids(tmp_path: Path) -> None:
    file = tmp_path / "subuid"
    file.write_text("root:100000:65536\n\n# a comment\nbroken\n0:1:x\n 0:300000:10 \nother:5:5\n0:7:0\n")
    assert subordinate_ids(str(file), 0) == (IdRange(100000, 65536), IdRange(300000, 10))
    assert [str(r) for r in subordinate_ids(str(file), 0)] == ["100000-165535", "300000-300009"]
    assert subordinate_ids(str(file), 54321) == ()
    assert subordinate_ids(str(tmp_path / "none"), 0) == ()


@pytest.mark.userns
@pytest.mark.peer("newuidmap", "newgidmap")
def test_id_maps_of_an_ordinary_user(rootless: Rootless) -> None:
    code = "from lamina.linux.probe import probe; h = probe(); print(bool(h.id_maps), *h.subordinate_uids)"
    said = rootless.python(code)
    assert said.stdout.split()[0] == "True", said.stdout + said.stderr
    if rootless.as_root:
        assert said.stdout.split()[1:] == ["2000000-2065535"]


V2 = b"30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    b"31 30 0:27 / /cg/memory rw - cgroup cgroup rw,memory\n"
    b"32 30 0:28 / /cg/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
    b"33 30 0:29 / /cg/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
)


def test_trees_of_control_groups() -> None:
    groups = [b"5:cpu,cpuacct:/", rb"4:memory:/user/a\040b", b"3:name=systemd:/", b"0::/user.slice", b""]
    memory, cpu, systemd, unified = hierarchies(parse_mountinfo(V1 + V2), groups)
    assert (memory.version, memory.controllers, memory.own) == (1, ("memory",), rb"/cg/memory/user/a\040b")
    assert (cpu.controllers, cpu.own, cpu.writable) == (("cpu", "cpuacct"), b"/cg/cpu,cpuacct", False)
    assert (systemd.controllers, systemd.name) == ((), "systemd")
    assert (unified.version, unified.own) == (2, b"/sys/fs/cgroup/user.slice")
    modes = {"v1": V1, "v2": V2, "hybrid": V1 + V2, "none": b""}
    for mode, text in modes.items():
        assert Host(cgroup_hierarchies=hierarchies(parse_mountinfo(text), groups)).cgroup_mode == mode


def test_a_control_group_that_is_mounted_from_within() -> None:
    """In a container the mount's root is the container's own group, and the path may be above it."""
    inside = b"30 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n"
    (tree,) = hierarchies(parse_mountinfo(inside), [b"0::/docker/abc/sub"])
    assert tree.own == b"/sys/fs/cgroup/sub"
    (tree,) = hierarchies(parse_mountinfo(inside), [b"0::/docker/abc"])
    assert tree.own == b"/sys/fs/cgroup"
    (tree,) = hierarchies(parse_mountinfo(inside), [b"0::/docker/abcd"])
    assert (tree.own, tree.writable, tree.controllers) == (b"", False, ())
    host = Host(cgroup_hierarchies=(tree,))
    assert host.cgroup_memory == No("the memory controller is not delegated to this process's group")


def test_reflinks_and_uppers(tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    assert isinstance(reflink(tmp_path), Yes | No)
    assert upper(tmp_path, userxattr=True)
    assert bool(upper(tmp_path)) == (os.geteuid() == 0)
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(KernelError, match=f"open a file without a name in {tmp_path}/none"):
        reflink(tmp_path / "none")


@pytest.mark.root
def test_no_upper_on_an_overlay(tmp_path: Path) -> None:
    def stage() -> str:
        for name in ("a", "b", "merged"):
            (tmp_path / name).mkdir()
        mount("overlay", tmp_path / "merged", "overlay", c.MS_RDONLY, f"lowerdir={tmp_path}/a:{tmp_path}/b")
        return upper(tmp_path / "merged").why

    assert "on another overlay" in in_mount_namespace(stage)
