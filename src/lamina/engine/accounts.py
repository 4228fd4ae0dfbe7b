"""/etc/passwd and the like of an image, read from its layers: nothing is mounted, and no link leads outside.

An image is hostile: its files are of a size it chose, and are devices, fifos or links where it likes (CVE-2024-9676).
"""

from __future__ import annotations

import os
from errno import ENODATA, EOPNOTSUPP
from stat import S_ISCHR, S_ISREG

from lamina.linux.fd import Fd
from lamina.runtime.users import content

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.engine.within import Maps
    from lamina.runtime.users import ReadFile

_HELD = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
WHITEOUT = 0  # the device of a whiteout (overlayfs.rst)


def reader(lowers: tuple[bytes, ...], userxattr: bool, maps: Callable[[], Maps | None]) -> ReadFile:
    """Reads files of the stack of *lowers*, top first: empty where there is no such file. *maps*: see `within.reach`.

    What nearly every image has, a regular file in a directory /etc, takes a few system calls a layer; `overlay.tree`,
    which knows everything, is loaded for the others.
    """

    def read(path: str) -> bytes:
        try:
            found = _look(lowers, userxattr, os.fsencode(path))
        except OSError:
            found = None
        if found is not None:
            return found
        from lamina.engine.within import reach

        try:
            found = reach(maps, read_in_stack, lowers, userxattr, path)
        except OSError:
            return b""
        return found or b""

    return read


def _look(lowers: tuple[bytes, ...], userxattr: bool, path: bytes) -> bytes | None:
    """A file "/directory/name", None where it is not so simple (a link, an odd file, a mark). Raises OSError."""
    _, directory, name = path.split(b"/")
    opaque = "user.overlay.opaque" if userxattr else "trusted.overlay.opaque"
    for lower in lowers:
        with Fd(os.open(lower, _HELD)) as layer:
            try:
                inside = Fd(os.open(directory, _HELD, dir_fd=layer))
            except FileNotFoundError:
                continue
            with inside:
                goes_on, found = _in_layer(inside, name, opaque)
        if not goes_on:
            return found
    return b""


def _in_layer(inside: Fd, name: bytes, opaque: str) -> tuple[bool, bytes | None]:
    """Whether the next layer decides, and else the file in this one's directory (None: not so simple)."""
    try:
        status = os.stat(name, dir_fd=inside, follow_symlinks=False)
    except FileNotFoundError:
        try:
            mark = os.getxattr(b"/proc/self/fd/%d" % inside, opaque)
        except OSError as error:
            if error.errno in (ENODATA, EOPNOTSUPP):
                return True, None
            raise
        return False, b"" if mark == b"y" else None
    if S_ISCHR(status.st_mode) and status.st_rdev == WHITEOUT:
        return False, b""
    if not S_ISREG(status.st_mode) or not status.st_size:  # an empty one may be a whiteout of the other form
        return False, None
    with Fd(os.open(name, _READING, dir_fd=inside)) as file:
        return False, content(file)


def read_in_stack(lowers: tuple[bytes, ...], userxattr: bool, path: str) -> bytes:
    """The same with every rule of overlayfs, and links followed inside. Raises OSError; ELOOP and so on give b""."""
    from lamina.overlay.spec import MountSpec
    from lamina.overlay.stack import Overlay

    with Overlay(MountSpec(lowerdirs=lowers, userxattr=userxattr)).open() as tree:
        try:
            fd = (tree / path).open_content()
        except PermissionError:
            raise
        except OSError:
            return b""
        with fd:
            return content(fd)
