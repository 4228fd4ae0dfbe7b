"""The way to the store: every directory on it must be nobody else's.

The store is opened by its path again and again. Whoever may rename it, or a directory above it, can put something else
there between two of root's steps; so can whoever made a symbolic link on the way. (sudo and sshd ask the same.)
"""

from __future__ import annotations

import os
from errno import ELOOP
from stat import S_ISDIR, S_ISLNK, S_ISVTX, S_IWGRP, S_IWOTH

from lamina.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

LINKS = 40  # as many as the kernel follows (path_resolution(7))
_ACL = "system.posix_acl_access"


def resolve(path: bytes) -> bytes:
    """The absolute *path* without symbolic links; what is missing of it is taken as it is.

    Raises InvalidInput when another user than root could exchange something on the way, and OSError.
    """
    todo = _names(os.path.join(os.getcwdb(), path) if path[:1] != b"/" else path)
    done = b""
    links = 0
    _check(os.stat(b"/"), b"/")
    while todo:
        name = todo.pop()
        if name == b"..":
            done = done.rpartition(b"/")[0]
            continue
        here = done + b"/" + name
        try:
            found = os.lstat(here)
        except FileNotFoundError:
            rest = os.path.normpath(b"/".join((here, *reversed(todo))))
            return resolve(rest) if b".." in todo else rest  # ".." may lead to something that is there
        if S_ISLNK(found.st_mode):
            links += 1
            if links > LINKS:
                raise OSError(ELOOP, os.strerror(ELOOP), here)
            if not _trusted(found.st_uid):
                _refuse(here, f"is a symbolic link of uid {found.st_uid}'s, who could point it elsewhere")
            target = os.readlink(here)
            if target[:1] == b"/":
                done = b""
            todo += _names(target)
            continue
        done = here
        if todo and S_ISDIR(found.st_mode):  # of the store itself, more is asked
            _check(found, here)
    return done or b"/"


def _names(path: bytes) -> list[bytes]:
    """The names in *path*, the last one first."""
    return [name for name in reversed(path.split(b"/")) if name not in (b"", b".")]


def _check(found: os.stat_result, path: bytes) -> None:
    """Raise InvalidInput unless only root and we can change what is in the directory *path*, or it is like /tmp."""
    mode = found.st_mode
    if not _trusted(found.st_uid):
        _refuse(path, f"belongs to uid {found.st_uid}, who could exchange it")
    if mode & (S_IWGRP | S_IWOTH) and not mode & S_ISVTX:
        if mode & S_IWOTH:
            _refuse(path, "is writable for all, who could exchange it")
        # many have a group of their own, and directories that are open to it
        if found.st_gid not in (0, os.getegid()):
            _refuse(path, f"is writable for the group {found.st_gid}, which could exchange it")
        if _has_acl(path):
            _refuse(path, "is writable for more than its owner (it has an ACL), who could exchange it")


def _trusted(uid: int) -> bool:
    return uid in (0, os.geteuid()) or uid == _unmapped()


def _unmapped() -> int:
    """What stands for root, and for everybody else, outside of a user namespace; -1 where all ids are known."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        if file.read().split() == ["0", "0", "4294967295"]:
            return -1
    with open("/proc/sys/kernel/overflowuid", encoding="ascii") as file:
        return int(file.read())


def _has_acl(path: bytes) -> bool:
    try:
        return bool(os.getxattr(path, _ACL))
    except OSError:  # none, or a file system that has none
        return False


def _refuse(path: bytes, why: str) -> NoReturn:
    raise InvalidInput(
        f"open store: {os.fsdecode(path)} on the way to it {why}",
        remedy="take that right away, or name another place with --root or LAMINA_ROOT",
    )
