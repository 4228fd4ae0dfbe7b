"""Opening namespaces that are to be joined: each looked at before anything is entered (ioctl_nsfs(2))."""

from __future__ import annotations

import os
from errno import EPERM

from lamina.errors import InvalidInput, KernelError, NotFound
from lamina.linux.fd import Fd
from lamina.linux.namespaces import ns_owner, ns_type
from lamina.runtime.bundle import Joined
from lamina.runtime.plan.namespaces import FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# /proc/self/ns: what the specification calls mount and network
_FILES = {"mount": "mnt", "network": "net"}


def open_namespaces(namespaces: list[dict[str, Any]], held: list[Fd]) -> tuple[Joined, ...]:
    """The namespaces with a `path`, opened; the descriptors are added to *held*.

    Raises NotFound for a path where nothing is, InvalidInput for one that is not a namespace of that type.
    """
    opened: dict[str, Fd] = {}
    for namespace in namespaces:
        kind, path = namespace["type"], namespace.get("path")
        if path and kind in FLAGS:
            opened[kind] = _open(kind, str(path))
            held.append(opened[kind])
    own = {kind: _same(fd, os.stat(f"/proc/self/ns/{_FILES.get(kind, kind)}")) for kind, fd in opened.items()}
    user = opened.get("user")
    joined = []
    for kind, fd in opened.items():
        outside = kind != "user" and (user is None or own["user"] or not _owned_by(fd, user))
        joined.append(Joined(kind, -1 if own[kind] else int(fd), outside))
    return tuple(joined)


def _open(kind: str, path: str) -> Fd:
    what = f"join {kind} namespace {path}"
    try:
        fd = Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise NotFound(f"{what}: {error.strerror}") from error
        raise KernelError(
            "open", error.errno or 0, path, hint=f"it is the {kind} namespace to join"
        ) from error
    try:
        found = ns_type(fd)
    except OSError as error:
        fd.close()
        raise InvalidInput(
            f"{what}: that is no namespace", remedy="name a file such as /proc/<pid>/ns/net"
        ) from error
    if found != FLAGS[kind]:
        fd.close()
        name = next((word for word, flag in FLAGS.items() if flag == found), hex(found))
        raise InvalidInput(f"{what}: that is a {name} namespace")
    return fd


def _same(fd: int, other: os.stat_result) -> bool:
    status = os.fstat(fd)
    return (status.st_dev, status.st_ino) == (other.st_dev, other.st_ino)


def _owned_by(fd: int, user: int) -> bool:
    """Whether the namespace belongs to the user namespace *user*, and not to one above it."""
    try:
        with ns_owner(fd) as owner:
            return _same(owner, os.fstat(user))
    except KernelError as error:
        if error.errno == EPERM:  # above our own
            return False
        raise
