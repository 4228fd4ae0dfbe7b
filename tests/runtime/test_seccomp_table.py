"""The table of system calls, against other places that know the numbers."""

from __future__ import annotations

import ctypes.util
import re
import subprocess

import pytest

from lamina.linux.numbers import numbers
from lamina.runtime.seccomp.architectures import ARCHITECTURES, system_calls
from support import libseccomp

X32_BIT = 0x40000000


@pytest.mark.peer("gcc")
@pytest.mark.parametrize(("header", "architecture"), [("64", "x86_64"), ("32", "x86"), ("x32", "x32")])
def test_numbers_are_those_of_the_c_headers(header: str, architecture: str) -> None:
    if (
        "x86"
        not in subprocess.run(["gcc", "-dumpmachine"], capture_output=True, text=True, check=True).stdout
    ):
        pytest.skip("the machine's headers are another architecture's")
    include = f"#include <asm/unistd_{header}.h>\n"
    asked = subprocess.run(
        ["gcc", "-E", "-dM", "-x", "c", "-"], input=include, capture_output=True, text=True
    )
    found = re.findall(r"^#define __NR_(\w+) (?:\(__X32_SYSCALL_BIT \+ )?(\d+)\)?$", asked.stdout, re.M)
    assert len(found) > 300, asked.stderr
    bit = X32_BIT if architecture == "x32" else 0
    wrong = {
        name: number
        for name, number in found
        if name in system_calls() and system_calls()[name].numbers.get(architecture) != bit | int(number)
    }
    assert wrong == {}


def test_numbers_are_those_that_the_rest_of_lamina_uses() -> None:
    for name, (x86_64, arm64) in numbers().items():
        call = system_calls()[name].numbers
        assert (call.get("x86_64", -1), call.get("aarch64", -1)) == (x86_64, arm64), name


def test_numbers_are_libseccomps() -> None:
    if ctypes.util.find_library("seccomp") is None:
        pytest.skip("needs libseccomp")
    lib = libseccomp.library()
    lib.seccomp_syscall_resolve_num_arch.restype = ctypes.c_char_p  # leaked: tests only
    for architecture in ARCHITECTURES:
        for name, call in system_calls().items():
            if architecture.name in call.numbers:
                number = call.numbers[architecture.name]
                token = libseccomp.TOKENS[architecture.scmp]
                theirs = lib.seccomp_syscall_resolve_num_arch(ctypes.c_uint32(token), ctypes.c_int(number))
                same = {"arm_sync_file_range", "sync_file_range2"}
                assert theirs is None or theirs.decode() == name or {theirs.decode(), name} <= same, (
                    architecture.name,
                    name,
                )


def test_no_number_has_two_names() -> None:
    for architecture in ARCHITECTURES:
        by_number: dict[int, list[str]] = {}
        for name, call in system_calls().items():
            if architecture.name in call.numbers:
                by_number.setdefault(call.numbers[architecture.name], []).append(name)
        twice = {number: names for number, names in by_number.items() if len(names) > 1}
        assert twice in ({}, {341: ["arm_sync_file_range", "sync_file_range2"]})


@pytest.mark.parametrize(
    ("name", "narrow"),
    [
        ("socket", 0b111),
        ("ioctl", 0b011),
        ("personality", 0b1),
        ("clone", 0),  # its flags are a long of which the lower half counts
        ("mmap", 0b0),
        ("read", 0b001),
        ("prctl", 0b1),
        ("setuid", 0b1),
        ("kill", 0b11),
        ("ptrace", 0),
        ("fcntl", 0b011),
        ("semctl", 0b111),
    ],
)
def test_which_arguments_the_kernel_truncates(name: str, narrow: int) -> None:
    assert system_calls()[name].narrow == narrow
