"""Everything about a file but its type, name and content: permissions, owner, times, extended attributes.

Files are given by a descriptor (O_PATH suffices): what it holds cannot be exchanged for something else meanwhile.
"""

from __future__ import annotations

import base64
import errno
import os
import stat

from lamina.engine.apply.hands import Hands
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Xattrs = tuple[tuple[str, bytes], ...]

OWNER_MAY = 0o700
OWNER_WRITES = 0o300  # what it takes to change the entries of a directory


@value
class Attributes:
    """`mode` are the permission bits (0o7777), times ns, `xattrs` sorted by name (as in os.listxattr)."""

    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    xattrs: Xattrs = ()


def of_status(status: os.stat_result, xattrs: dict[str, bytes]) -> Attributes:
    """Attributes from what lstat(2) and getxattr(2) said."""
    return Attributes(
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        atime_ns=status.st_atime_ns,
        mtime_ns=status.st_mtime_ns,
        xattrs=tuple(sorted(xattrs.items())),
    )


def read_attributes(fd: int) -> Attributes:
    """The attributes of what *fd* holds. Raises OSError."""
    return of_status(os.fstat(fd), read_xattrs(fd))


def read_xattrs(fd: int) -> dict[str, bytes]:
    """All extended attributes of what *fd* holds; none where the file system has none. Raises OSError."""
    place = b"/proc/self/fd/%d" % fd
    try:
        return {name: os.getxattr(place, name) for name in os.listxattr(place)}
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return {}


def write_attributes(hands: Hands, fd: int, wanted: Attributes, what: frozenset[str]) -> None:
    """Give what *fd* holds those of the *wanted* attributes that *what* names: mode, owner, xattrs, times.

    In this order: chown(2) drops set-user-ID bits and capabilities, an ACL is in the permissions, and each of them
    changes the times of nothing but must not come after them. Raises OSError.
    """
    status = os.fstat(fd)
    if "owner" in what and (status.st_uid, status.st_gid) != (wanted.uid, wanted.gid):
        hands.chown(fd, wanted.uid, wanted.gid)
    if "xattrs" in what:
        _write_xattrs(hands, fd, dict(wanted.xattrs))
    if what & {"mode", "owner", "xattrs"} and not stat.S_ISLNK(status.st_mode):
        mode = wanted.mode if "mode" in what else stat.S_IMODE(status.st_mode)
        if stat.S_IMODE(os.fstat(fd).st_mode) != mode:
            hands.chmod(fd, mode)
    if "times" in what:
        hands.utime(fd, wanted.atime_ns, wanted.mtime_ns)


EVERYTHING = frozenset({"mode", "owner", "xattrs", "times"})


def _write_xattrs(hands: Hands, fd: int, wanted: dict[str, bytes]) -> None:
    present = read_xattrs(fd)
    for name in present.keys() - wanted.keys():  # an ACL inherited from a directory above, for one
        if name != "security.selinux":  # every file has one: it cannot be removed, only set
            hands.removexattr(fd, os.fsencode(name))
    for name, content in sorted(wanted.items()):
        if present.get(name) != content:
            hands.setxattr(fd, os.fsencode(name), content)


def narrowed(old: int, new: int) -> int:
    """Permissions while a directory's entries change: nobody but the owner may do more than both before and after.

    The owner may do what either lets him: who is not root needs that to change the entries.
    """
    return (old & new & 0o077) | ((old | new) & (OWNER_MAY | stat.S_ISVTX)) | (old & 0o6000)


def to_json(attributes: Attributes) -> dict[str, Any]:
    """As the journal has them."""
    fields = dict(vars(attributes))
    fields["xattrs"] = [[name, base64.b64encode(content).decode()] for name, content in attributes.xattrs]
    return fields


def from_json(fields: dict[str, Any]) -> Attributes:
    """The way back from `to_json`."""
    xattrs = tuple((name, base64.b64decode(content)) for name, content in fields["xattrs"])
    return Attributes(**{**fields, "xattrs": xattrs})
