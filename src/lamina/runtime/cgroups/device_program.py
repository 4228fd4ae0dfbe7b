"""Device rules as a program of BPF_PROG_TYPE_CGROUP_DEVICE, which the kernel asks at every open and mknod of a device.

The program is given struct bpf_cgroup_dev_ctx (linux/bpf.h): access and type in one word, major, minor. It goes through
the rules from the last to the first. r3 holds the bits of access not decided so far: a rule that matches and allows
takes its bits out, and when none is left the answer is yes; one that denies a bit that is left makes it no.
"""

from __future__ import annotations

import os

from lamina.linux import bpf
from lamina.linux.fd import Fd
from lamina.runtime.cgroups.devices import ANY, Rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "lamina_devices"
_KINDS = {"b": bpf.BPF_DEVCG_DEV_BLOCK, "c": bpf.BPF_DEVCG_DEV_CHAR}
_BITS = {"r": bpf.BPF_DEVCG_ACC_READ, "w": bpf.BPF_DEVCG_ACC_WRITE, "m": bpf.BPF_DEVCG_ACC_MKNOD}
_LOAD = bpf.BPF_LDX | bpf.BPF_MEM | bpf.BPF_W
_MOVE = bpf.BPF_ALU | bpf.BPF_MOV
_ANSWER, _CONTEXT, _KIND, _LEFT, _MAJOR, _MINOR, _DENIED = 0, 1, 2, 3, 4, 5, 6


def _insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return bpf.INSN.pack(code, src << 4 | dst, off, imm)


def _answer(allowed: bool) -> list[bytes]:
    return [
        _insn(_MOVE | bpf.BPF_K, _ANSWER, imm=int(allowed)),
        _insn(bpf.BPF_JMP | bpf.BPF_EXIT),
    ]


def compile_rules(rules: Sequence[Rule]) -> bytes:
    """The program for *rules*, first to last; what none speaks of is denied."""
    program = [
        _insn(_LOAD, _KIND, _CONTEXT, 0),
        _insn(_MOVE | bpf.BPF_X, _LEFT, _KIND),
        _insn(bpf.BPF_ALU | bpf.BPF_AND | bpf.BPF_K, _KIND, imm=0xFFFF),
        _insn(bpf.BPF_ALU | bpf.BPF_RSH | bpf.BPF_K, _LEFT, imm=16),
        _insn(_LOAD, _MAJOR, _CONTEXT, 4),
        _insn(_LOAD, _MINOR, _CONTEXT, 8),
    ]
    for rule in reversed(rules):
        program += _rule(rule)
        if rule.kind == "a" and (rule.major, rule.minor, rule.access) == (ANY, ANY, "rwm"):
            break  # it decides everything; what stands before it can never be asked
    program += _answer(False)
    return b"".join(program)


def _rule(rule: Rule) -> list[bytes]:
    bits = sum(_BITS[letter] for letter in rule.access)
    if rule.allow:
        body = [
            _insn(bpf.BPF_ALU | bpf.BPF_AND | bpf.BPF_K, _LEFT, imm=~bits & 0x7),
            _insn(bpf.BPF_JMP | bpf.BPF_JNE | bpf.BPF_K, _LEFT, off=2, imm=0),
            *_answer(True),
        ]
    else:
        body = [
            _insn(_MOVE | bpf.BPF_X, _DENIED, _LEFT),
            _insn(bpf.BPF_ALU | bpf.BPF_AND | bpf.BPF_K, _DENIED, imm=bits),
            _insn(bpf.BPF_JMP | bpf.BPF_JEQ | bpf.BPF_K, _DENIED, off=2, imm=0),
            *_answer(False),
        ]
    tests = []
    if rule.kind != "a":
        tests.append((_KIND, _KINDS[rule.kind]))
    if rule.major != ANY:
        tests.append((_MAJOR, rule.major))
    if rule.minor != ANY:
        tests.append((_MINOR, rule.minor))
    jumps = []
    for at, (register, wanted) in enumerate(tests):
        past = len(tests) - at - 1 + len(body)
        jumps.append(_insn(bpf.BPF_JMP | bpf.BPF_JNE | bpf.BPF_K, register, off=past, imm=wanted))
    return jumps + body


def attach(place: bytes, rules: Sequence[Rule]) -> None:
    """Put the rules into force in the v2 group at *place*, in the place of an earlier program of ours if there is one.

    Others' programs (systemd's) stay: a device is allowed when all of them, and those of the groups above, allow it.
    """
    kind = bpf.BPF_CGROUP_DEVICE
    with (
        bpf.prog_load(
            bpf.BPF_PROG_TYPE_CGROUP_DEVICE, compile_rules(rules), "Apache-2.0", NAME, kind
        ) as program,
        Fd(os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as group,
    ):
        earlier = [bpf.prog_get_fd_by_id(number) for number in bpf.prog_query(group, kind)]
        ours = [fd for fd in earlier if bpf.prog_name(fd) == NAME]
        bpf.prog_attach(group, program, kind, bpf.BPF_F_ALLOW_MULTI)
        for old in ours:  # after the new one is in force: never is there a moment without any
            bpf.prog_detach(group, old, kind)
        for fd in earlier:
            fd.close()
