"""Key rings of the kernel: giving a process a session of its own. keyctl(2), keyrings(7). All raise KernelError.

ENOSYS means a kernel without key retention, EDQUOT that the user's quota of keys is used up.
"""

from __future__ import annotations

from lamina.linux.call import encoded, syscall
from lamina.linux.constants import (
    KEY_SPEC_SESSION_KEYRING,
    KEYCTL_DESCRIBE,
    KEYCTL_GET_KEYRING_ID,
    KEYCTL_INVALIDATE,
    KEYCTL_JOIN_SESSION_KEYRING,
    KEYCTL_LINK,
    KEYCTL_REVOKE,
    KEYCTL_SETPERM,
    KEYCTL_UNLINK,
    constant_name,
)


def keyctl(operation: int, *args: int | bytes | bytearray | None) -> int:
    """Any operation (KEYCTL_*) with its arguments as in the manual page. keyctl(2)."""
    return syscall("keyctl", operation, *args, target=lambda: constant_name("KEYCTL_", operation))


def join_session_keyring(name: str | bytes | None = None) -> int:
    """Give the process a new session key ring, or join the one of that *name*; returns its serial. keyctl(2)."""
    return keyctl(KEYCTL_JOIN_SESSION_KEYRING, None if name is None else encoded(name))


def get_keyring_id(keyring: int = KEY_SPEC_SESSION_KEYRING, create: bool = False) -> int:
    """The serial of a special key ring (KEY_SPEC_*). ENOKEY when it does not exist and *create* is False."""
    return keyctl(KEYCTL_GET_KEYRING_ID, keyring, create)


def describe_key(key: int) -> bytes:
    """`type;uid;gid;permissions;description` of a key or key ring."""
    room = 256
    while True:
        buffer = bytearray(room)
        length = keyctl(KEYCTL_DESCRIBE, key, buffer, room)
        if length <= room:
            return bytes(buffer[: length - 1])
        room = length


def set_key_permissions(key: int, permissions: int) -> None:
    """Who may do what with a key: four bytes for possessor, user, group and others."""
    keyctl(KEYCTL_SETPERM, key, permissions)


def link_key(key: int, keyring: int) -> None:
    """Put a key into a key ring."""
    keyctl(KEYCTL_LINK, key, keyring)


def unlink_key(key: int, keyring: int) -> None:
    """Take a key out of a key ring. ENOENT when it is not in it."""
    keyctl(KEYCTL_UNLINK, key, keyring)


def revoke_key(key: int) -> None:
    """Make a key useless to everybody who still holds it."""
    keyctl(KEYCTL_REVOKE, key)


def invalidate_key(key: int) -> None:
    """Remove a key from all key rings, at once."""
    keyctl(KEYCTL_INVALIDATE, key)


def add_key(kind: str | bytes, description: str | bytes, payload: bytes | None, keyring: int) -> int:
    """Add or update a key ("user", "keyring", ...); returns its serial. add_key(2)."""
    length = 0 if payload is None else len(payload)
    return syscall(
        "add_key", encoded(kind), encoded(description), payload, length, keyring, target=description
    )
