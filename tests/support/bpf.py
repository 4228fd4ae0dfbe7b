"""A small interpreter of classic BPF as seccomp(2) uses it, and the verifier's rules: tests ask it for verdicts."""

from __future__ import annotations

import struct
from typing import NamedTuple

ARCH = {"x86_64": 0xC000003E, "x86": 0x40000003, "x32": 0xC000003E, "aarch64": 0xC00000B7, "arm": 0x40000028}
X32_BIT = 0x40000000
ALLOW, KILL, TRAP, LOG = 0x7FFF0000, 0, 0x00030000, 0x7FFC0000
KILL_PROCESS, NOTIFY, TRACE = 0x80000000, 0x7FC00000, 0x7FF00000


def errno_verdict(number: int) -> int:
    return 0x00050000 | number


class Instruction(NamedTuple):
    code: int
    jt: int
    jf: int
    k: int


def instructions(program: bytes) -> list[Instruction]:
    assert len(program) % 8 == 0
    return [Instruction(*fields) for fields in struct.iter_unpack("=HBBI", program)]


def verify(program: list[Instruction]) -> None:
    """What the kernel checks before it takes a filter (bpf_check_classic, seccomp_check_filter)."""
    assert 0 < len(program) <= 4096
    for at, (code, jt, jf, k) in enumerate(program):
        if code in (0x15, 0x25, 0x35, 0x45):
            assert at + 1 + max(jt, jf) < len(program), f"{at}: jumps out of the program"
        elif code == 0x05:
            assert at + 1 + k < len(program), f"{at}: jumps out of the program"
        elif code == 0x20:
            assert k % 4 == 0 and k < 64, f"{at}: loads outside of struct seccomp_data"
        else:
            assert code in (0x54, 0x06), f"{at}: unexpected instruction {code:#x}"
    assert program[-1].code == 0x06, "the program does not end with a return"


class Answer(NamedTuple):
    verdict: int
    steps: int


def run(program: list[Instruction], arch: str, number: int, args: tuple[int, ...] = ()) -> Answer:
    padded = [*args, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, ARCH.get(arch, 0xDEAD), 0x7F0000001000, *padded)
    words = struct.unpack("<16I", data)
    a = at = steps = 0
    while True:
        code, jt, jf, k = program[at]
        steps += 1
        at += 1
        if code == 0x20:
            a = words[k // 4]
        elif code == 0x15:
            at += jt if a == k else jf
        elif code == 0x35:
            at += jt if a >= k else jf
        elif code == 0x25:
            at += jt if a > k else jf
        elif code == 0x45:
            at += jt if a & k else jf
        elif code == 0x54:
            a &= k
        elif code == 0x05:
            at += k
        elif code == 0x06:
            return Answer(k, steps)
        else:
            raise AssertionError(f"instruction {code:#x}")


def verdict(program: list[Instruction], arch: str, number: int, args: tuple[int, ...] = ()) -> int:
    return run(program, arch, number, args).verdict
