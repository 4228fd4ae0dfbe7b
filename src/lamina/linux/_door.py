"""System calls through ctypes, for where the native extension was not built; and where a buffer lies in memory."""

from __future__ import annotations

import ctypes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.linux.call import Argument

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


def syscall(number: int, /, *args: Argument) -> int:
    """As _native.syscall: the kernel's own result, a negative errno on failure."""
    if len(args) > 6:
        raise TypeError("syscall takes a number and at most six arguments")
    # every argument is passed: libc's variadic syscall() would read stale registers for those left out
    values = [_value(arg) for arg in args] + [ctypes.c_long(0)] * (6 - len(args))
    result: int = _syscall(ctypes.c_long(number), *values)
    return -ctypes.get_errno() if result == -1 else result


def address(buffer: bytearray) -> int:
    """Where *buffer* lies in memory, for a structure that points to it. The caller keeps it alive and unchanged."""
    return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))


def _value(arg: Argument) -> object:
    if arg is None:
        return ctypes.c_void_p(None)
    if isinstance(arg, int):
        return ctypes.c_ulong(arg & 0xFFFFFFFFFFFFFFFF)
    if isinstance(arg, bytes):
        return ctypes.c_char_p(arg)  # a pointer to these very bytes
    return (ctypes.c_char * len(arg)).from_buffer(arg) if len(arg) else ctypes.c_void_p(None)
