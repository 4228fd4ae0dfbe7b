"""What is mounted where: /proc/<pid>/mountinfo, read into values. proc_pid_mountinfo(5).

Paths are bytes, with the kernel's octal escapes undone: they may contain anything but NUL.
"""

from __future__ import annotations

import os

from lamina.errors import KernelError
from lamina.linux.fd import Fd
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_CHUNK = 65536


@value
class Mount:
    """One line of mountinfo.

    `root` is what of the file system is mounted, `mount_point` where (both absolute, the latter as seen from the
    reader's root). `options` are the mount's own (`ro`, `nosuid`, ...), `super_options` the file system's;
    `propagation` are the optional fields (`shared:1`, `master:2`, `unbindable`). `fstype` includes a subtype
    (`fuse.sshfs`). A mount that was moved out of the reader's root is not in the file.
    """

    id: int
    parent: int
    major: int
    minor: int
    root: bytes
    mount_point: bytes
    options: tuple[bytes, ...]
    propagation: tuple[bytes, ...]
    fstype: bytes
    source: bytes
    super_options: tuple[bytes, ...]

    @property
    def device(self) -> int:
        """The file system's st_dev, as os.stat() gives it (not so for btrfs subvolumes and overlays)."""
        return os.makedev(self.major, self.minor)

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written here: the mount or its whole file system is read-only."""
        return b"ro" in self.options or b"ro" in self.super_options


def read_mountinfo(pid: int | str = "self") -> list[Mount]:
    """Every mount that the process *pid* sees, in the kernel's order; a parent may come after its children.

    Raises KernelError: ENOENT when there is no such process, EACCES when it is not ours to see.
    """
    return parse_mountinfo(_text(pid))


def read_mount(identity: int, pid: int | str = "self") -> Mount | None:
    """Of what `read_mountinfo` reads the mount with that id, None where there is none: the other lines, of which a
    machine full of containers has thousands, are not looked into. Raises as that.
    """
    begin = b"%d " % identity
    return next((_mount(line) for line in _text(pid).split(b"\n") if line.startswith(begin)), None)


def read_mount_ids(pid: int | str = "self") -> set[int]:
    """The ids of what `read_mountinfo` reads. Raises as that."""
    return {int(line.partition(b" ")[0]) for line in _text(pid).split(b"\n") if line}


def _text(pid: int | str) -> bytes:
    path = f"/proc/{pid}/mountinfo"
    try:
        with Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC)) as file:
            chunks = []
            while chunk := os.read(file, _CHUNK):
                chunks.append(chunk)
    except OSError as error:
        raise KernelError("read", error.errno or 0, path) from None
    return b"".join(chunks)


def parse_mountinfo(text: bytes) -> list[Mount]:
    """The mounts in the *text* of a mountinfo file. Raises ValueError for a line that is none."""
    return [_mount(line) for line in text.split(b"\n") if line]


def mount_of(path: bytes, mounts: list[Mount]) -> Mount | None:
    """The mount that an absolute, normalised *path* without symbolic links lies on, as a path walk would find it.

    Exact for stacked mounts and for those hidden under a later mount further up. None if nothing in *mounts*
    covers the path. Who looks for many paths makes a `MountTable`.
    """
    return MountTable(mounts).mount_of(path)


class MountTable:
    """Mounts by what they are mounted on, for looking up many paths: each takes as long as it has names, however many
    mounts there are.
    """

    def __init__(self, mounts: Iterable[Mount]) -> None:
        self._at: dict[tuple[int | None, bytes], Mount] = {}
        every = tuple(mounts)
        known = {mount.id for mount in every}
        for mount in every:
            # the root's own parent is not shown, or is itself
            parent = mount.parent if mount.parent in known and mount.parent != mount.id else None
            self._at.setdefault((parent, mount.mount_point), mount)

    def mount_of(self, path: bytes) -> Mount | None:
        """See the function of that name."""
        here, way = None, list(prefixes(path))
        while (found := self._next(here, way)) is not None:
            here = found
        return here

    def _next(self, here: Mount | None, way: list[bytes]) -> Mount | None:
        above = here.id if here else None
        return next((found for place in way if (found := self._at.get((above, place))) is not None), None)


def prefixes(path: bytes) -> Iterator[bytes]:
    """The absolute, normalised *path* and all directories above it, "/" first."""
    yield b"/"
    at = 0
    while path != b"/" and at >= 0:
        at = path.find(b"/", at + 1)
        yield path if at < 0 else path[:at]


def covers(directory: bytes, path: bytes) -> bool:
    """Whether the absolute, normalised *path* is *directory* or lies below it."""
    return path == directory or directory == b"/" or path.startswith(directory + b"/")


def unescape(field: bytes) -> bytes:
    r"""Undo the octal escapes of /proc files: space, tab, newline, backslash and `#` are written as \040 and so on."""
    if b"\\" not in field:
        return field
    first, *others = field.split(b"\\")
    return first + b"".join([_byte(part) for part in others])


def _byte(part: bytes) -> bytes:
    digits = part[:3]
    if len(digits) == 3 and digits.isdigit() and digits < b"400" and not set(digits) & {0x38, 0x39}:
        return bytes((int(digits, 8),)) + part[3:]
    return b"\\" + part


def _mount(line: bytes) -> Mount:
    # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
    fields = line.split(b" ")
    separator = fields.index(b"-", 6)
    major, _, minor = fields[2].partition(b":")
    fstype, source, super_options = fields[separator + 1], fields[separator + 2], fields[separator + 3 :]
    return Mount(
        id=int(fields[0]),
        parent=int(fields[1]),
        major=int(major),
        minor=int(minor),
        root=unescape(fields[3]),
        mount_point=unescape(fields[4]),
        options=tuple(fields[5].split(b",")),
        propagation=tuple(fields[6:separator]),
        fstype=unescape(fstype),
        source=unescape(source),
        super_options=tuple(map(unescape, b" ".join(super_options).split(b","))),
    )
