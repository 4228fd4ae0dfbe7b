"""Capabilities: the names, the sets of a thread, the bounding and the ambient set. capabilities(7).

A set is an int with bit n for capability n.
"""

from __future__ import annotations

import os
import struct
from errno import EINVAL

from lamina.errors import KernelError
from lamina.linux.call import syscall
from lamina.linux.constants import (
    LINUX_CAPABILITY_VERSION_3,
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAP_AMBIENT_IS_SET,
    PR_CAP_AMBIENT_LOWER,
    PR_CAP_AMBIENT_RAISE,
    PR_CAPBSET_DROP,
    PR_CAPBSET_READ,
)
from lamina.linux.procfs import cap_last_cap
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_NAMES = """
    CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID
    CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW
    CAP_IPC_LOCK CAP_IPC_OWNER CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT
    CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD
    CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG
    CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF CAP_CHECKPOINT_RESTORE
"""
# name: number, in the order of the numbers (linux/capability.h)
CAPABILITIES: dict[str, int] = {name: number for number, name in enumerate(_NAMES.split())}

CAP_HEADER = struct.Struct("=Ii")  # struct __user_cap_header_struct: version, pid
CAP_DATA = struct.Struct(
    "=6I"
)  # two struct __user_cap_data_struct: effective, permitted, inheritable; low, then high
_LOW = 0xFFFFFFFF


@value
class CapabilitySets:
    """The three sets that capget(2) and capset(2) know of."""

    effective: int
    permitted: int
    inheritable: int


def capget(pid: int = 0) -> CapabilitySets:
    """The sets of the thread *pid* (0: the calling thread). capget(2). Raises KernelError: ESRCH."""
    data = bytearray(CAP_DATA.size)
    syscall("capget", bytearray(CAP_HEADER.pack(LINUX_CAPABILITY_VERSION_3, pid)), data, target=_thread(pid))
    low_e, low_p, low_i, high_e, high_p, high_i = CAP_DATA.unpack(data)
    return CapabilitySets(low_e | high_e << 32, low_p | high_p << 32, low_i | high_i << 32)


def capset(sets: CapabilitySets) -> None:
    """Set the sets of the calling thread (no other can be). capset(2).

    Raises KernelError: EPERM for a capability that is not permitted.
    """
    all_three = (sets.effective, sets.permitted, sets.inheritable)
    data = CAP_DATA.pack(*(s & _LOW for s in all_three), *(s >> 32 for s in all_three))
    syscall("capset", bytearray(CAP_HEADER.pack(LINUX_CAPABILITY_VERSION_3, 0)), data)


def last_cap() -> int:
    """The number of the highest capability that the running kernel knows. capabilities(7), cap_last_cap."""
    try:
        return cap_last_cap()
    except OSError:  # no procfs here
        number = 0
        while number < 63 and _known(number + 1):
            number += 1
        return number


def bounding_set() -> int:
    """The calling thread's bounding set. prctl(2), PR_CAPBSET_READ."""
    return sum(
        1 << number
        for number in range(last_cap() + 1)
        if syscall("prctl", PR_CAPBSET_READ, number, 0, 0, 0, target="PR_CAPBSET_READ")
    )


def drop_bounding(capability: int) -> None:
    """Drop one capability from the calling thread's bounding set, for good. prctl(2), PR_CAPBSET_DROP.

    Raises KernelError: EPERM without CAP_SETPCAP, EINVAL for a capability the kernel does not know.
    """
    syscall(
        "prctl", PR_CAPBSET_DROP, capability, 0, 0, 0, target=f"PR_CAPBSET_DROP {capability_name(capability)}"
    )


def ambient_set() -> int:
    """The calling thread's ambient set. prctl(2), PR_CAP_AMBIENT_IS_SET."""
    return sum(
        1 << number
        for number in range(last_cap() + 1)
        if syscall(
            "prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, number, 0, 0, target="PR_CAP_AMBIENT_IS_SET"
        )
    )


def raise_ambient(capability: int) -> None:
    """Add one capability to the ambient set; it must be permitted and inheritable (EPERM). prctl(2)."""
    name = capability_name(capability)
    syscall(
        "prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0, target=f"PR_CAP_AMBIENT_RAISE {name}"
    )


def lower_ambient(capability: int) -> None:
    """Remove one capability from the ambient set. prctl(2), PR_CAP_AMBIENT_LOWER."""
    name = capability_name(capability)
    syscall(
        "prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_LOWER, capability, 0, 0, target=f"PR_CAP_AMBIENT_LOWER {name}"
    )


def clear_ambient() -> None:
    """Empty the ambient set. prctl(2), PR_CAP_AMBIENT_CLEAR_ALL."""
    syscall("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, target="PR_CAP_AMBIENT_CLEAR_ALL")


def capability_name(number: int) -> str:
    """CAP_CHOWN and so on; the plain number for one that is newer than this table."""
    for name, known in CAPABILITIES.items():
        if known == number:
            return name
    return str(number)


def capability_set(names: Iterable[str]) -> int:
    """The set of these names. Raises KeyError for an unknown one."""
    return sum({1 << CAPABILITIES[name] for name in names})


def capability_names(capabilities: int) -> list[str]:
    """The names in a set, in the order of their numbers."""
    return [capability_name(n) for n in range(capabilities.bit_length()) if capabilities >> n & 1]


def _known(number: int) -> bool:
    try:
        syscall("prctl", PR_CAPBSET_READ, number, 0, 0, 0)
    except KernelError as error:
        if error.errno != EINVAL:
            raise
        return False
    return True


def _thread(pid: int) -> str:
    return f"thread {pid or os.getpid()}"
