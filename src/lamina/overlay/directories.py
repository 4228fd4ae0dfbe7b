"""The directories of a stack as they are found on this machine, for saying why the kernel would not mount them.

Nothing here raises: what cannot be found out is None. It is asked after a refusal, when the directory, its file
system or /proc may well be the thing that is missing.
"""

from __future__ import annotations

import os
import stat
from functools import cached_property

from lamina.errors import KernelError
from lamina.linux.mountinfo import Mount, read_mount, read_mountinfo
from lamina.overlay.options import printable, unescape_upper
from lamina.overlay.spec import MountSpec

KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
}


class MountTable:
    """The mounts this process sees, read once, when first asked for."""

    @cached_property
    def mounts(self) -> list[Mount]:
        """Every mount, or none at all where /proc is not to be had."""
        try:
            return read_mountinfo()
        except KernelError:
            return []

    def mount(self, identity: int | None) -> Mount | None:
        """The mount with that id; the others are not read for it."""
        if identity is None:
            return None
        if "mounts" in vars(self):
            return next((mount for mount in self.mounts if mount.id == identity), None)
        try:
            return read_mount(identity)
        except KernelError:
            return None

    def below(self, real: bytes) -> list[bytes]:
        """What is mounted below the directory *real* (absolute, without symbolic links)."""
        inside = real.rstrip(b"/") + b"/"
        return [
            m.mount_point for m in self.mounts if m.mount_point.startswith(inside) and m.mount_point != b"/"
        ]

    def has(self, real: bytes) -> bool:
        """Whether something is mounted on *real*."""
        return any(mount.mount_point == real for mount in self.mounts)

    def overlay_using(self, identity: tuple[int, int]) -> tuple[str, Mount] | None:
        """The overlay that has the directory *identity* as its upperdir or workdir, and as which of them.

        The kernel shows the names it was given: a relative one can mean anything, and is passed over.
        """
        for mount in self.mounts:
            if mount.fstype != b"overlay":
                continue
            for option in mount.super_options:
                role, _, name = option.partition(b"=")
                if role in (b"upperdir", b"workdir") and identity in _identities(name):
                    return role.decode(), mount
        return None


def _identities(name: bytes) -> set[tuple[int, int]]:
    """What *name* may mean: as it stands (given as a descriptor), or escaped (given as a string)."""
    paths = {path for path in (name, unescape_upper(name)) if path.startswith(b"/")}
    return {identity for path in paths if (identity := _identity(path))}


def _identity(path: bytes) -> tuple[int, int] | None:
    """Device and inode; None for what cannot be looked at."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class Directory:
    """One directory of a stack. `role` is its option's name, `path` as it was given."""

    def __init__(self, role: str, path: bytes, table: MountTable) -> None:
        self.role, self.path, self._table = role, path, table

    def __str__(self) -> str:
        return f"{self.role} {printable(self.path)}"

    @cached_property
    def found(self) -> os.stat_result | OSError:
        """What stat(2) says, or why it says nothing."""
        try:
            return os.stat(self.path)
        except OSError as error:
            return error

    @property
    def identity(self) -> tuple[int, int] | None:
        """Device and inode."""
        return None if isinstance(self.found, OSError) else (self.found.st_dev, self.found.st_ino)

    @property
    def kind(self) -> str | None:
        """What it is if it is no directory: "a file"."""
        if isinstance(self.found, OSError) or stat.S_ISDIR(self.found.st_mode):
            return None
        return KINDS.get(stat.S_IFMT(self.found.st_mode), "something else")

    @cached_property
    def real(self) -> bytes:
        """Its absolute path without symbolic links (as given, where there is no telling)."""
        try:
            return os.path.realpath(self.path)
        except OSError:
            return self.path

    @cached_property
    def ancestors(self) -> set[tuple[int, int]]:
        """The directories it lies in, by device and inode; not itself."""
        found = set()
        path = self.real
        while (parent := os.path.dirname(path)) != path:
            path = parent
            found.add(_identity(path))
        return {identity for identity in found if identity}

    @cached_property
    def mount_id(self) -> int | None:
        """The id, in mountinfo, of the mount it lies on."""
        try:
            fd = os.open(self.path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            with open(f"/proc/self/fdinfo/{fd}", "rb") as info:
                fields = dict(line.split(b":", 1) for line in info if b":" in line)
            return int(fields[b"mnt_id"])
        except (OSError, KeyError, ValueError):
            return None
        finally:
            os.close(fd)

    @property
    def mount(self) -> Mount | None:
        """The mount it lies on, if this process sees that mount."""
        return self._table.mount(self.mount_id)

    @property
    def fstype(self) -> str:
        """The type of its file system, "" if unknown."""
        mount = self.mount
        return "" if mount is None else mount.fstype.decode("ascii", "replace")

    @property
    def read_only(self) -> bool:
        """Whether its mount or its file system is read-only."""
        try:
            return bool(os.statvfs(self.path).f_flag & os.ST_RDONLY)
        except OSError:
            return False

    def lies_in(self, other: Directory) -> bool:
        """Whether it is somewhere below *other*."""
        return other.identity is not None and other.identity in self.ancestors


def writable_directories(spec: MountSpec, table: MountTable) -> list[Directory]:
    """upperdir and workdir of the stack, as far as given."""
    given = (("upperdir", spec.upperdir), ("workdir", spec.workdir))
    return [Directory(role, path, table) for role, path in given if path is not None]


def lower_directories(spec: MountSpec, table: MountTable) -> list[Directory]:
    """The lower layers of the stack, top first."""
    found = [Directory("lowerdir", path, table) for path in spec.lowerdirs]
    return found + [Directory("data-only lowerdir", path, table) for path in spec.datadirs]


def initial_user_namespace() -> bool:
    """Whether this is the user namespace the machine started with (true as well where there is no telling)."""
    try:
        return (
            os.readlink("/proc/self/ns/user") == "user:[4026531837]"
        )  # PROC_USER_INIT_INO, the same everywhere
    except OSError:
        return True
