"""What /proc tells of the kernel and of this process, for whoever needs a number and no system call."""

from __future__ import annotations

from os import geteuid, stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST_USER_NAMESPACE = 0xEFFFFFFD  # linux/proc_ns.h, PROC_USER_INIT_INO
INFINITY = (1 << 64) - 1
_last_cap: int | None = None


def cap_last_cap() -> int:
    """The number of the highest capability that the running kernel knows. capabilities(7). Raises OSError."""
    global _last_cap
    if _last_cap is None:
        with open("/proc/sys/kernel/cap_last_cap", "rb", buffering=0) as file:
            _last_cap = int(file.read())
    return _last_cap


def effective_capabilities() -> int:
    """The calling process's effective set, bit n for capability n. proc_pid_status(5). Raises OSError."""
    return _capabilities(b"CapEff:")


def bounding_capabilities() -> int:
    """Its bounding set: what it could ever have, or give to a program that it executes. Raises OSError."""
    return _capabilities(b"CapBnd:")


def _capabilities(field: bytes) -> int:
    with open("/proc/self/status", "rb", buffering=0) as status:
        for line in status.read(1 << 16).splitlines():
            if line.startswith(field):
                return int(line.split()[1], 16)
    return 0


def hard_limits() -> dict[int, int]:
    """The calling process's hard limits by number (RLIMIT_*), INFINITY for none. proc_pid_limits(5). Raises OSError.

    (The module `resource`, which says the same, takes longer to be imported.)
    """
    with open("/proc/self/limits", "rb", buffering=0) as file:
        return dict(enumerate(_hard_column(file.read(1 << 16))))


def in_first_user_namespace() -> bool:
    """Whether the calling process is in the user namespace that the machine began with: some capabilities count in no
    other one (user_namespaces(7)). Raises OSError.
    """
    return stat("/proc/self/ns/user").st_ino == FIRST_USER_NAMESPACE


def has_trusted_attributes() -> bool:
    """Whether the calling process reads and writes extended attributes of the family `trusted.`: root of the machine
    does, root of another user namespace neither sees nor sets them (xattr(7)). Raises OSError.
    """
    return geteuid() == 0 and in_first_user_namespace()


def has_group(gid: int) -> bool:
    """Whether the group *gid* exists in the calling process's user namespace (user_namespaces(7)). Raises OSError."""
    return any(first <= gid < first + count for first, count in ids_here("gid"))


def ids_here(kind: str) -> list[tuple[int, int]]:
    """The ids of *kind* ("uid", "gid") that exist in the calling process's user namespace: first one, how many
    (user_namespaces(7)). Raises OSError.
    """
    with open(f"/proc/self/{kind}_map", "rb", buffering=0) as file:
        lines = [[*map(int, line.split())] for line in file.readall().splitlines()]
    return [(first, count) for first, _, count in lines]


def _hard_column(text: bytes) -> Iterator[int]:
    """One line a limit, in the order of their numbers: 26 columns of name, soft, hard, unit."""
    for line in text.splitlines()[1:]:
        hard = line[26:].split()[1]
        yield INFINITY if hard == b"unlimited" else int(hard)
