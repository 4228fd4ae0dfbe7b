"""A kernel that lacks something: system calls answered with an errno by a seccomp filter, in the calling process.

For the children of `support.namespaces` only: a filter stays until the process ends. So fallbacks are tested on real
refusals, without replacing functions.
"""

from __future__ import annotations

import ctypes
import os
import struct

from lamina.linux.numbers import number

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
BPF_LD_W_ABS, BPF_JEQ_K, BPF_RET_K = 0x20, 0x15, 0x06
SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO = 0x7FFF0000, 0x00050000
OFFSET_OF_ARGUMENTS = 16  # struct seccomp_data: nr, arch, instruction_pointer, args[6]

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def forbid(call: str, errno: int, *, argument: tuple[int, int] | None = None) -> None:
    """From now on *call* fails with *errno*; with `argument=(index, value)` only when that argument has that value."""
    conditions = [(0, number(call))]
    if argument is not None:
        conditions.append((OFFSET_OF_ARGUMENTS + 8 * argument[0], argument[1]))
    code = b""
    left = 2 * len(conditions)
    for offset, wanted in conditions:
        code += struct.pack("=HBBI", BPF_LD_W_ABS, 0, 0, offset)
        code += struct.pack("=HBBI", BPF_JEQ_K, 0, left - 1, wanted)
        left -= 2
    code += struct.pack("=HBBI", BPF_RET_K, 0, 0, SECCOMP_RET_ERRNO | errno)
    code += struct.pack("=HBBI", BPF_RET_K, 0, 0, SECCOMP_RET_ALLOW)
    program = _Program(len(code) // 8, code)
    nothing = ctypes.c_ulong(0)
    for request, value, pointer in (
        (PR_SET_NO_NEW_PRIVS, 1, nothing),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)),
    ):
        if _libc.prctl(request, ctypes.c_ulong(value), pointer, nothing, nothing) != 0:
            code_ = ctypes.get_errno()
            raise OSError(code_, f"prctl: {os.strerror(code_)}")
