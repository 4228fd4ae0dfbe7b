"""Who a container runs as: Docker's `-u`, looked up in the container's own files, which are not trusted.

The files are read by descriptor, below the root only, and no further than LARGEST bytes (CVE-2024-9676); numbers
beyond 31 bits are refused and never become names or root (CVE-2024-40635, CVE-2026-30892).
"""

from __future__ import annotations

import os
from stat import S_ISREG

from lamina.errors import InvalidInput, NotFound
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    ReadFile = Callable[[str], bytes]

LARGEST_ID = (1 << 31) - 2
LARGEST = 10 << 20


@value
class User:
    """The numbers a process runs under. `home` is "/" where no passwd entry says otherwise."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


# O_NONBLOCK: a fifo in its place must not stop us
_READING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def file_reader(root: int) -> ReadFile:
    """Reads files of the container whose root directory is open as *root*: empty where there is no such file."""
    from lamina.linux.constants import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS
    from lamina.linux.files import openat2

    inside = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS

    def read(path: str) -> bytes:
        try:
            with openat2(root, path.lstrip("/"), _READING, resolve=inside) as fd:
                return content(fd)
        except OSError:
            return b""

    return read


def own_file(path: str) -> bytes:
    """The same for this machine's own files, whose links lead where they lead for everybody here."""
    try:
        fd = os.open(path, _READING)
    except OSError:
        return b""
    try:
        return content(fd)
    except OSError:
        return b""
    finally:
        os.close(fd)


def content(fd: int) -> bytes:
    """No more than LARGEST bytes, and of a file only."""
    if not S_ISREG(os.fstat(fd).st_mode):
        return b""
    chunks, left = [], LARGEST
    while left and (chunk := os.read(fd, min(left, 1 << 16))):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def resolve_user(asked: str | None, read: ReadFile) -> User:
    """The user *asked* for: a name or number, with or without `:group`. None is root.

    As in Docker: digits are always a number; without a group, the entry's own group and the groups it is a member
    of; with one, only that. Its own group is the first of `groups` as well, so that a set-group-id program, which
    changes that one, does not take who runs it out of a group whose members may do less than others (CVE-2022-36109).
    Raises InvalidInput for numbers out of range, NotFound for unknown names.
    """
    name, colon, group = (asked or "0").partition(":")
    if colon and not (name and group):
        raise InvalidInput(f"user {asked!r}: neither a user nor user:group")
    entry = _passwd_entry(name, read)
    number = _number(name, f"user {asked!r}")
    if entry is None and number is None:
        raise NotFound(f"user {name}: there is no such user in the container's /etc/passwd")
    user = entry or (name, number or 0, 0, "/")
    if group:
        gid = _group(group, f"user {asked!r}", read)
        return User(user[1], gid, (gid,), user[3])
    members = _memberships(user[0], read) if entry else ()
    return User(user[1], user[2], (user[2], *(gid for gid in members if gid != user[2])), user[3])


def _number(text: str, what: str) -> int | None:
    """*text* as an id, None when it is not made of digits."""
    if not (text.isascii() and text.isdigit()):
        return None
    if len(text) > 20 or int(text) > LARGEST_ID:
        raise InvalidInput(f"{what}: ids go from 0 to {LARGEST_ID}")
    return int(text)


def _id(field: bytes) -> int | None:
    if field.isdigit() and len(field) <= 10 and int(field) <= LARGEST_ID:
        return int(field)
    return None


def _passwd_entry(wanted: str, read: ReadFile) -> tuple[str, int, int, str] | None:
    """(name, uid, gid, home) of the first entry with that name or, for digits, that uid; passwd(5)."""
    number = _number(wanted, f"user {wanted!r}")
    name = os.fsencode(wanted)
    for line in read("/etc/passwd").split(b"\n"):
        fields = line.split(b":")
        if len(fields) < 6:
            continue
        uid, gid = _id(fields[2]), _id(fields[3])
        if uid is None or gid is None:
            continue
        if uid == number if number is not None else fields[0] == name:
            home = os.fsdecode(fields[5])
            return (
                os.fsdecode(fields[0]),
                uid,
                gid,
                home if home.startswith("/") and "\0" not in home else "/",
            )
    return None


def group_number(wanted: str, read: ReadFile) -> int:
    """The id of the group *wanted*, a name or number. Raises NotFound, InvalidInput."""
    return _group(wanted, f"group {wanted!r}", read)


def _group(wanted: str, what: str, read: ReadFile) -> int:
    number = _number(wanted, what)
    if number is not None:
        return number
    name = os.fsencode(wanted)
    for line in read("/etc/group").split(b"\n"):
        fields = line.split(b":")
        if len(fields) >= 3 and fields[0] == name and (gid := _id(fields[2])) is not None:
            return gid
    raise NotFound(f"group {wanted}: there is no such group in the container's /etc/group")


def _memberships(name: str, read: ReadFile) -> tuple[int, ...]:
    """The groups that list *name* as a member; group(5)."""
    member = os.fsencode(name)
    found = []
    for line in read("/etc/group").split(b"\n"):
        fields = line.split(b":")
        if len(fields) >= 4 and member in fields[3].split(b","):
            gid = _id(fields[2])
            if gid is not None and gid not in found:
                found.append(gid)
    return tuple(found[:64])
