"""Docker's profile files, reduced to the specification's form; and what the default profile is."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from lamina.errors import InvalidInput, Unsupported
from lamina.linux.capabilities import CAPABILITIES
from lamina.runtime.capabilities import DEFAULT_CAPABILITIES
from lamina.runtime.seccomp import architectures, default_profile, resolve_profile
from lamina.runtime.seccomp.profile import DEFAULT
from lamina.runtime.seccomp.words import OURS

Profile = dict[str, Any]


def rule(name: str, **more: Any) -> Profile:
    return {"names": [name], "action": "SCMP_ACT_ALLOW", **more}


def names(
    profile: Profile, capabilities: tuple[str, ...] = (), arch: str = "x86_64", kernel: str = "6.1.0"
) -> list[str]:
    reduced = resolve_profile(profile, capabilities, arch, kernel)
    return [name for entry in reduced["syscalls"] for name in entry["names"]]


def document(*rules: Profile, **more: Any) -> Profile:
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": list(rules), **more}


def test_conditions_on_capabilities() -> None:
    profile = document(
        rule("a", includes={"caps": ["CAP_KILL"]}),
        rule("b", excludes={"caps": ["CAP_KILL"]}),
        rule("c", includes={"caps": ["CAP_KILL", "CAP_CHOWN"]}),
        rule("d", excludes={"caps": ["CAP_KILL", "CAP_CHOWN"]}),
        rule("e", includes={}, excludes=None),
    )
    assert names(profile) == ["b", "d", "e"]
    assert names(profile, ("CAP_KILL",)) == ["a", "e"]
    assert names(profile, ("CAP_KILL", "CAP_CHOWN")) == ["a", "c", "e"]


def test_conditions_on_architectures() -> None:
    profile = document(
        rule("a", includes={"arches": ["amd64", "x32"]}),
        rule("b", includes={"arches": ["arm", "arm64"]}),
        rule("c", excludes={"arches": ["s390", "amd64"]}),
    )
    assert names(profile, arch="x86_64") == ["a"]
    assert names(profile, arch="aarch64") == ["b", "c"]


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("4.7.99", ["b"]),
        ("4.8", ["a"]),
        ("4.10.0-rc1", ["a"]),
        ("5.0-generic", ["a"]),
        ("10.0", ["a"]),
        ("3.9", ["b"]),
        ("6", ["a"]),
        ("6-rc1", ["a"]),
        ("4", ["b"]),
        ("5.10.0+", ["a"]),
        ("6.1-foo", ["a"]),
    ],
)
def test_conditions_on_kernels(kernel: str, expected: list[str]) -> None:
    profile = document(rule("a", includes={"minKernel": "4.8"}), rule("b", excludes={"minKernel": "4.8"}))
    assert names(profile, kernel=kernel) == expected


def test_a_kernel_in_a_condition_needs_no_second_number() -> None:
    profile = document(rule("a", includes={"minKernel": "5"}), rule("b", includes={"minKernel": "6-rc1"}))
    assert names(profile, kernel="5.0.1") == ["a"]
    assert names(profile, kernel="6.0.0-rc1") == ["a", "b"]


def test_architectures_of_the_machine() -> None:
    mapped = document(
        archMap=[
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": None},
        ]
    )
    assert resolve_profile(mapped, (), "x86_64")["architectures"] == [
        "SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32",
    ]  # fmt: skip
    assert resolve_profile(mapped, (), "aarch64")["architectures"] == ["SCMP_ARCH_AARCH64"]
    assert resolve_profile(mapped, (), "arm")["architectures"] == []


def test_the_specifications_form_stays_as_it_is() -> None:
    plain = document(
        {"names": ["read", "write"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0},
        rule("ioctl", args=[{"index": 1, "value": 0x5412, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]),
        architectures=["SCMP_ARCH_X86_64"],
        flags=["SECCOMP_FILTER_FLAG_LOG"],
        defaultErrnoRet=38,
        listenerPath="/run/agent.sock",
        listenerMetadata="x",
    )
    assert resolve_profile(plain, ()) == plain
    assert resolve_profile(resolve_profile(plain, ()), ()) == plain


def test_older_files_name_one_call_a_rule() -> None:
    assert names(document({"name": "read", "action": "SCMP_ACT_ALLOW", "args": [], "comment": "x"})) == [
        "read"
    ]


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        (document(architectures=["SCMP_ARCH_X86"], archMap=[]), "both architectures and archMap"),
        (document({"name": "a", "names": ["b"], "action": "SCMP_ACT_ALLOW"}), "both name and names"),
        (document(rule("a", includes={"moon": "full"})), "unknown condition 'moon'"),
        (document(rule("a", includes={"minKernel": "new"})), "'new' is no kernel version"),
        (document(rule("a", includes={"minKernel": "4.x"})), "'4.x' is no kernel version"),
        (document(rule("a", includes={"minKernel": 4.8})), "4.8 is no kernel version"),
    ],
)
def test_what_cannot_be_meant(profile: Profile, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        resolve_profile(profile, ())


def test_a_machine_without_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    class Uname:
        machine, release = "vax", "6.1.0"

    monkeypatch.setattr(os, "uname", Uname)
    with pytest.raises(Unsupported, match="no table of system calls for vax"):
        resolve_profile(document(), ())


# -- the default -----------------------------------------------------------------------------------------------


def test_every_name_of_the_default_is_known() -> None:
    named = {name for entry in json.loads(DEFAULT.read_bytes())["syscalls"] for name in entry["names"]}
    elsewhere = {
        "swapcontext",
        "riscv_flush_icache",
        "riscv_hwprobe",
        "s390_pci_mmio_read",
        "s390_pci_mmio_write",
    }
    elsewhere.add("s390_runtime_instr")
    assert named - architectures.system_calls().keys() <= elsewhere


def test_every_capability_of_the_default_exists() -> None:
    for entry in json.loads(DEFAULT.read_bytes())["syscalls"]:
        for conditions in (entry.get("includes") or {}, entry.get("excludes") or {}):
            assert set(conditions.get("caps") or []) <= CAPABILITIES.keys()


def test_capabilities_open_their_calls() -> None:
    def listed(*capabilities: str) -> set[str]:
        return {
            name
            for entry in default_profile((*DEFAULT_CAPABILITIES, *capabilities), "x86_64")["syscalls"]
            if entry["action"] == "SCMP_ACT_ALLOW" and "args" not in entry
            for name in entry["names"]
        }

    assert "mount" not in listed()
    assert {"mount", "unshare", "clone", "clone3", "bpf"} <= listed("CAP_SYS_ADMIN")
    assert "socketcall" not in listed("CAP_SYS_ADMIN")
    assert "chroot" in listed()


def test_the_architectures_that_are_ours_have_a_table() -> None:
    assert set(architectures.BY_SCMP) == OURS
