"""libseccomp, the reference for what a profile means: used by tests only, through ctypes, as runc uses it."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from typing import Any

from support.bpf import Instruction, instructions

TOKENS = {
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
    "SCMP_ARCH_ARM": 0x40000028,
}
ACTIONS = {
    "SCMP_ACT_KILL": 0,
    "SCMP_ACT_KILL_THREAD": 0,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
}
OPERATORS = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]
SCMP_FLTATR_CTL_OPTIMIZE = 8
SCMP_ERROR = -1


class Comparison(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class Refused(Exception):
    """libseccomp does not take the rule (conflicting actions, mostly)."""


@cache
def library() -> Any:
    lib = ctypes.CDLL(os.environ.get("LAMINA_LIBSECCOMP", "libseccomp.so.2"))
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_init.argtypes = [ctypes.c_uint32]
    for name in ("seccomp_release", "seccomp_arch_add", "seccomp_arch_remove", "seccomp_attr_set"):
        getattr(lib, name).argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32][
            : 3 if "attr" in name else 2
        ]
    lib.seccomp_release.argtypes = [ctypes.c_void_p]
    lib.seccomp_rule_add_array.argtypes = [
        *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint),
        ctypes.POINTER(Comparison),
    ]
    lib.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return lib


def resolve(name: str) -> int:
    number: int = library().seccomp_syscall_resolve_name(name.encode())
    return number


def action_value(word: str, errno_ret: int | None) -> int:
    value = ACTIONS[word]
    if word in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        value |= errno.EPERM if errno_ret is None else errno_ret
    return value


def reference(
    seccomp: dict[str, Any], arch: str = "SCMP_ARCH_X86_64", *, optimize: int = 1
) -> list[Instruction]:
    """The program that libseccomp makes of the object on a machine of *arch*, asked as runc asks it."""
    lib = library()
    default = action_value(seccomp["defaultAction"], seccomp.get("defaultErrnoRet"))
    context = lib.seccomp_init(default)
    assert context
    try:
        for word in [arch, *seccomp.get("architectures", [])]:
            if word in TOKENS:
                lib.seccomp_arch_add(context, TOKENS[word])
        if arch != "SCMP_ARCH_X86_64" and "SCMP_ARCH_X86_64" not in seccomp.get("architectures", []):
            lib.seccomp_arch_remove(context, TOKENS["SCMP_ARCH_X86_64"])
        lib.seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, optimize)
        for entry in seccomp.get("syscalls", []):
            action = action_value(entry["action"], entry.get("errnoRet"))
            if action == default:
                continue
            for name in entry["names"]:
                if (number := resolve(name)) != SCMP_ERROR:
                    _add(context, action, number, entry.get("args") or [])
        with os.fdopen(os.memfd_create("bpf"), "r+b") as file:
            assert lib.seccomp_export_bpf(context, file.fileno()) == 0
            file.seek(0)
            return instructions(file.read())
    finally:
        lib.seccomp_release(context)


def _add(context: Any, action: int, number: int, args: list[dict[str, Any]]) -> None:
    several = len({argument["index"] for argument in args}) < len(args)
    for group in [[argument] for argument in args] if several else [args]:
        comparisons = (Comparison * max(1, len(group)))(
            *(
                Comparison(
                    argument["index"],
                    1 + OPERATORS.index(argument["op"].removeprefix("SCMP_CMP_")),
                    argument["value"],
                    argument.get("valueTwo", 0),
                )
                for argument in group
            )
        )
        failed = library().seccomp_rule_add_array(context, action, number, len(group), comparisons)
        if failed:
            raise Refused(os.strerror(-failed))
