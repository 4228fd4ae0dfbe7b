"""What the kernel calls architectures and their system calls.

Sources: linux/audit.h (AUDIT_ARCH_*), asm/unistd.h (__X32_SYSCALL_BIT), seccomp(2). The table of numbers,
syscalls.txt, is written by scripts/make-syscall-table.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lamina.errors import Unsupported

X32_SYSCALL_BIT = 0x40000000


class Architecture(NamedTuple):
    """One calling convention. `bits` is the width in which libseccomp (and we) compare its arguments."""

    name: str  # the column of syscalls.txt
    scmp: str  # the specification's word
    audit: int  # what seccomp_data.arch says
    bits: int
    docker: str  # the word of Docker's profiles, which is Go's


ARCHITECTURES = (
    Architecture("x86_64", "SCMP_ARCH_X86_64", 0xC000003E, 64, "amd64"),
    Architecture("x86", "SCMP_ARCH_X86", 0x40000003, 32, "x86"),
    # the kernel reports x32 as x86-64 with a bit set in the number; libseccomp compares 32 bits of its arguments
    Architecture("x32", "SCMP_ARCH_X32", 0xC000003E, 32, "x32"),
    Architecture("aarch64", "SCMP_ARCH_AARCH64", 0xC00000B7, 64, "arm64"),
    Architecture("arm", "SCMP_ARCH_ARM", 0x40000028, 32, "arm"),
)
BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}
BY_SCMP = {architecture.scmp: architecture for architecture in ARCHITECTURES}


class Call(NamedTuple):
    """A system call: its number by architecture, and which arguments the kernel truncates to 32 bits (a bit mask)."""

    numbers: dict[str, int]
    narrow: int


def native() -> Architecture:
    """The architecture of this machine; Unsupported where we have no table for it."""
    machine = os.uname().machine
    if machine not in BY_NAME:
        raise Unsupported(
            f"compile a seccomp filter: no table of system calls for {machine}",
            remedy="run without a filter, or use an x86-64 or arm64 machine",
        )
    return BY_NAME[machine]


@cache
def system_calls() -> dict[str, Call]:
    """Every system call by name."""
    calls = {}
    columns = [architecture.name for architecture in ARCHITECTURES]
    for line in Path(__file__).with_name("syscalls.txt").read_text("ascii").splitlines():
        if not line.startswith("#"):
            name, *numbers, narrow = line.split()
            known = {c: int(n) for c, n in zip(columns, numbers, strict=True) if n != "-"}
            if "x32" in known:
                known["x32"] |= X32_SYSCALL_BIT
            calls[name] = Call(known, int(narrow, 8))
    return calls
