"""The doctor: for each ailment the finding and the exact remedy; nothing to say of a healthy host."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lamina.engine import doctor as engine_doctor
from lamina.engine.doctor import BLOCKS, LEVELS, NOTE, WEAK, Finding, doctor
from lamina.engine.flaws import FLAWS, flaws_of
from lamina.linux.capabilities import CapabilitySets
from lamina.linux.mount import mount
from lamina.linux.probe import Host, No, Yes
from lamina.linux.probe_users import IdRange
from support.namespaces import in_mount_namespace
from support.rootless import Rootless

EVERYTHING = (1 << 41) - 1
USER = 1000


def healthy(**changes: object) -> Host:
    """A host on which all is well for an ordinary user, but for *changes*."""
    answers: dict[str, object] = {
        name: Yes() for name, kind in Host.__annotations__.items() if kind == "Answer"
    }
    answers |= {
        "release": "7.1.0",
        "kernel": (7, 1, 0),
        "stable_release": (7, 1, 0),
        "uid": USER,
        "capabilities": CapabilitySets(EVERYTHING, EVERYTHING, 0),
        "bounding_set": EVERYTHING,
        "max_user_namespaces": 15000,
        "subordinate_uids": (IdRange(100_000, 65_536),),
        "subordinate_gids": (IdRange(100_000, 65_536),),
        "cgroup_mode": "v2",
    }
    return Host(**(answers | changes))


def examine(tmp_path: Path, **changes: object) -> list[Finding]:
    found = doctor(str(tmp_path / "store"), healthy(**changes))
    return [
        finding for finding in found if not finding.what.startswith("the store ")
    ]  # which is looked at below


def test_a_healthy_host(tmp_path: Path) -> None:
    assert examine(tmp_path) == []
    assert examine(tmp_path, uid=0) == []
    assert list(tmp_path.iterdir()) == []


MISSING = No("it is not there")
AILMENTS: dict[str, tuple[dict[str, object], str, str, str]] = {
    "apparmor": (
        {"user_namespaces": No("AppArmor takes the privileges away"), "apparmor_permits": No("is 1")},
        BLOCKS, "AppArmor",
        "echo kernel.apparmor_restrict_unprivileged_userns=0 | sudo tee /etc/sysctl.d/60-lamina.conf && sudo sysctl "
        "--system",
    ),
    "no user namespaces at all": (
        {"user_namespaces": No("user.max_user_namespaces is 0"), "max_user_namespaces": 0},
        BLOCKS, "max_user_namespaces is 0",
        "echo user.max_user_namespaces=15000 | sudo tee /etc/sysctl.d/60-lamina.conf && sudo sysctl --system",
    ),
    "debian's switch": (
        {"user_namespaces": No("kernel.unprivileged_userns_clone is 0")},
        BLOCKS, "unprivileged_userns_clone",
        "echo kernel.unprivileged_userns_clone=1 | sudo tee /etc/sysctl.d/60-lamina.conf && sudo sysctl --system",
    ),
    "a sandbox": ({"user_namespaces": No("it is forbidden: a seccomp filter")}, BLOCKS, "seccomp", ""),
    "no overlays for users": (
        {"overlay_in_user_namespace": MISSING}, BLOCKS, "it is not there",
        "sudo apt update && sudo apt full-upgrade && sudo reboot",
    ),
    "no uidmap": ({"newuidmap": No("there is no newuidmap")}, WEAK, "newuidmap", "sudo apt install uidmap"),
    "uidmap lost its bit": (
        {"newgidmap": No("/usr/bin/newgidmap has lost its set-user-id bit")}, WEAK, "lost",
        "sudo chmod u+s /usr/bin/newgidmap",
    ),
    "no overlay": (
        {"overlay": MISSING}, BLOCKS, "it is not there",
        "sudo modprobe overlay && echo overlay | sudo tee /etc/modules-load.d/lamina.conf",
    ),
    "an older overlay": (
        {"overlay_lowerdir_plus": MISSING}, WEAK, "it is not there",
        "sudo apt update && sudo apt full-upgrade && sudo reboot",
    ),
    "an old kernel": (
        {"openat2": No("kernel 5.4 has no openat2(2) (since 5.6)"), "kernel": (5, 4, 0)}, BLOCKS, "openat2",
        "sudo apt update && sudo apt full-upgrade && sudo reboot",
    ),
    "a container": ({"clone3": No("clone3(2) is forbidden here")}, BLOCKS, "forbidden", ""),
    "no extension": ({"native": MISSING}, WEAK, "C extension", "sudo apt install gcc libc6-dev python3-dev"),
    "no delegation": ({"cgroup_memory": MISSING}, WEAK, "it is not there", "Delegate=cpu cpuset io memory pids"),
    "control groups of old": (
        {"cgroup_memory": MISSING, "cgroup_cpu": MISSING, "cgroup_mode": "v1"}, WEAK, "others likewise", "",
    ),
    "no control groups": (
        {"cgroup_memory": MISSING, "cgroup_mode": "none"}, WEAK, "it is not there",
        "sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup",
    ),
    "root without privileges": (
        {"uid": 0, "capabilities": CapabilitySets(0xFF, 0xFF, 0)}, BLOCKS, "CAP_SYS_ADMIN", "",
    ),
    "root without resources": ({"uid": 0, "bounding_set": EVERYTHING & ~(1 << 24)}, NOTE, "CAP_SYS_RESOURCE", ""),
    "root, and apparmor": (
        {"uid": 0, "apparmor_permits": No("is 1")}, NOTE, "AppArmor",
        "echo kernel.apparmor_restrict_unprivileged_userns=0 | sudo tee /etc/sysctl.d/60-lamina.conf && sudo sysctl "
        "--system",
    ),
    "root without user namespaces": (
        {"uid": 0, "user_namespaces": No("none"), "max_user_namespaces": 0}, WEAK, "none",
        "echo user.max_user_namespaces=15000 | sudo tee /etc/sysctl.d/60-lamina.conf && sudo sysctl --system",
    ),
    "an old flaw": (
        {"stable_release": (6, 1, 8), "kernel": (6, 1, 0), "release": "6.1.0-1-amd64"}, WEAK, "CVE-2023-0386",
        "sudo apt update && sudo apt full-upgrade && sudo reboot",
    ),
}  # fmt: skip


@pytest.mark.parametrize("ailment", AILMENTS)
def test_ailments(tmp_path: Path, ailment: str) -> None:
    changes, level, what, remedy = AILMENTS[ailment]
    found = examine(tmp_path, **changes)
    first = found[0]
    assert first.level == level
    assert what in first.what
    assert remedy in first.remedy
    assert bool(remedy) == bool(first.remedy)
    assert first.effect
    assert first.remedy or first.advice or level == NOTE
    for finding in found:
        subprocess.run(["sh", "-n"], input=finding.remedy, text=True, check=True)


def test_no_subordinate_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    me = pwd.struct_passwd(("alice", "x", USER, USER, "", "/", "/"))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: me)
    monkeypatch.setattr(engine_doctor, "_free_range", lambda: 100_000)
    (found,) = examine(tmp_path, subordinate_uids=(), subordinate_gids=())
    assert found.remedy == "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 alice"
    assert "/etc/subuid and /etc/subgid" in found.what
    (found,) = examine(tmp_path, subordinate_gids=())
    assert found.remedy == "sudo usermod --add-subgids 100000-165535 alice"


def test_ids_that_nobody_has(tmp_path: Path) -> None:
    file = tmp_path / "subuid"
    free = engine_doctor._free_range

    def first(text: str) -> int:
        file.write_text(text)
        return free((str(file), str(tmp_path / "none")))

    assert first("") == 100_000
    assert first("a:100000:65536\n") == 165_536
    assert first("a:165536:65536\n") == 100_000
    assert first("a:100000:65536\nb:165536:65536\n# x\nc:y:z\n") == 231_072
    assert first("a:99999:2\n") == 165_536
    assert first("a:165535:1\n") == 165_536
    assert first("a:100000:10000000\n") >= 10_100_000


def test_what_blocks_comes_first(tmp_path: Path) -> None:
    found = examine(tmp_path, uid=0, native=MISSING, openat2=MISSING, apparmor_permits=MISSING)
    levels = [finding.level for finding in found]
    assert levels == sorted(levels, key=LEVELS.index)
    assert {BLOCKS, WEAK, NOTE} == set(levels)


@pytest.mark.root
def test_a_store_on_an_overlay(tmp_path: Path) -> None:
    def stage() -> list[Finding]:
        for name in ("a", "b", "merged"):
            (tmp_path / name).mkdir()
        mount("overlay", tmp_path / "merged", "overlay", 0, f"lowerdir={tmp_path}/a:{tmp_path}/b")
        return doctor(os.fsencode(tmp_path / "merged" / "not" / "yet"), healthy(uid=0))

    (found,) = in_mount_namespace(stage)
    assert found.level == BLOCKS
    assert "another overlay" in found.what
    assert "LAMINA_ROOT" in found.advice


@pytest.mark.root
def test_a_store_that_is_full(tmp_path: Path) -> None:
    def stage() -> list[Finding]:
        mount("tmpfs", tmp_path, "tmpfs", 0, "size=1M")
        return doctor(str(tmp_path), healthy(uid=0))

    (found,) = in_mount_namespace(stage)
    assert (found.level, found.effect) == (WEAK, "containers may run out of space")
    assert "1 MiB" in found.what or "0 MiB" in found.what


def test_a_store_that_cannot_be() -> None:
    (found,) = doctor("/proc/lamina", healthy())
    assert found.level == BLOCKS
    assert "/proc/lamina cannot be written to" in found.what


KERNELS = {
    # release, stable release, the flaws that it has
    "debian 12 as first released": ("6.1.0-9-amd64", (6, 1, 27), {"CVE-2024-1086", "CVE-2026-31431"}),
    "debian 12 mended": ("6.1.0-40-amd64", (6, 1, 170), set()),
    "of early 2023": ("6.1.0-2-amd64", (6, 1, 8), {"CVE-2023-0386", "CVE-2024-1086", "CVE-2026-31431"}),
    "a series nobody mends": ("6.5.13", (6, 5, 13), {"CVE-2024-1086", "CVE-2026-31431"}),
    "before overlays for users": ("5.10.254", (5, 10, 254), set()),
    "ubuntu 22.10": ("5.19.0-41-generic", (5, 19, 17),
                     {"CVE-2023-0386", "CVE-2023-2640 and CVE-2023-32629", "CVE-2024-1086", "CVE-2026-31431"}),
    "ubuntu 20.04": ("5.4.0-71-generic", (5, 4, 302),
                     {"CVE-2021-3493", "CVE-2023-2640 and CVE-2023-32629", "CVE-2026-31431"}),
    "mainline": ("7.0.0", (7, 0, 0), set()),
    "a release candidate's name": ("7.0.0-rc6-lowlatency", (7, 0, 0), set()),
    "very old": ("3.18.0", (3, 18, 0), {"CVE-2015-8660", "CVE-2016-1576", "CVE-2024-1086"}),
}  # fmt: skip


@pytest.mark.parametrize("kernel", KERNELS)
def test_flaws_of_kernels(kernel: str) -> None:
    release, stable, flaws = KERNELS[kernel]
    assert {flaw.cve for flaw in flaws_of(Host(release=release, stable_release=stable))} == flaws


def test_every_flaw_can_be_had() -> None:
    named = {flaw.cve for flaw in FLAWS}
    assert named == set().union(*(flaws for _, _, flaws in KERNELS.values()))


def test_this_host(rootless: Rootless) -> None:
    for finding in doctor():
        assert finding.level in LEVELS
        subprocess.run(["sh", "-n"], input=finding.remedy, text=True, check=True)
    said = rootless.python(
        "from lamina.engine.doctor import doctor\nfor f in doctor(): print(f.level, f.what)"
    )
    assert said.returncode == 0, said.stderr
