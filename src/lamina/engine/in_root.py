"""Looking names up in a container, and what is made there: each step from a descriptor, one name at a time.

The container may run, and its processes may do to any name what they like, between any two of our system calls
(CVE-2018-15664). So a path is resolved by the kernel with the container's root as "/" (openat2(2), RESOLVE_IN_ROOT);
what is then done is done to the descriptor that came of it, or to one name in that directory, which is not followed.
Nothing that was there is ever opened for its content but a regular file, and that by the descriptor that was looked at:
a fifo would block, a device would act. What is the kernel's own face (/proc, /sys) is not written to: there our
rights would count, not the container's.
"""

from __future__ import annotations

import os
from errno import EBUSY, EIO, EISDIR, ELOOP, ENOENT, EOPNOTSUPP
from stat import S_ISDIR, S_ISREG

from lamina.errors import Conflict, KernelError, NotFound, Unsupported
from lamina.linux.constants import (
    AT_EMPTY_PATH,
    AT_SYMLINK_NOFOLLOW,
    CGROUP2_SUPER_MAGIC,
    CGROUP_SUPER_MAGIC,
    DEVPTS_SUPER_MAGIC,
    NSFS_MAGIC,
    PID_FS_MAGIC,
    PROC_SUPER_MAGIC,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    STATX_MNT_ID,
    STATX_TYPE,
    SYSFS_MAGIC,
)
from lamina.linux.fd import Fd
from lamina.linux.files import fstatfs, openat2, statx

INSIDE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
MOST_LINKS = 40  # path_resolution(7)
# linux/magic.h: file systems whose files are the kernel's switches, and whose directories are its objects. Those
# without a name in lamina.linux: debugfs, tracefs, securityfs, configfs, bpf, efivarfs, binfmt_misc, selinuxfs,
# smackfs, pstore, resctrl, mqueue, fusectl
_KERNELS = frozenset(
    {
        PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, DEVPTS_SUPER_MAGIC, NSFS_MAGIC,
        PID_FS_MAGIC, 0x64626720, 0x74726163, 0x73636673, 0x62656570, 0xCAFE4A11, 0xDE5E81E4, 0x42494E4D, 0xF97CFF8C,
        0x43415D53, 0x6165676C, 0x07655821, 0x19800202, 0x65735543,
    }
)  # fmt: skip


def reach(root: int, path: bytes, flags: int = os.O_PATH) -> Fd:
    """What is at *path*, links followed inside the root. Raises KernelError."""
    return openat2(root, path.lstrip(b"/") or b".", flags, resolve=INSIDE)


def parent_of(root: int, path: bytes) -> tuple[Fd, bytes]:
    """The directory of *path*, to make and remove things in, and the last name, which is not looked at.

    For a path that ends in ".." or is "/" itself the name is b".". Raises KernelError.
    """
    above, _, name = path.rstrip(b"/").rpartition(b"/")
    if name in (b"", b".", b".."):
        return reach(root, path, os.O_RDONLY | os.O_DIRECTORY), b"."
    return reach(root, above, os.O_RDONLY | os.O_DIRECTORY), name


def place_of(root: int, path: bytes) -> tuple[Fd, bytes]:
    """As `parent_of`, where *path* leads: if the last name is a symbolic link, where what it leads to is, or would be.

    Raises KernelError.
    """
    for _ in range(MOST_LINKS):
        parent, name = parent_of(root, path)
        try:
            target = os.readlink(name, dir_fd=parent)
        except FileNotFoundError:
            return parent, name
        except OSError:  # it is no link
            return parent, name
        parent.close()
        above = path.rstrip(b"/").rpartition(b"/")[0]
        path = target if target.startswith(b"/") else above + b"/" + target
    raise KernelError("open", ELOOP, os.fsdecode(path))


def checked(fd: int) -> None:
    """Raises Unsupported where *fd* is of a file system that is the kernel's own face."""
    if fstatfs(fd).type in _KERNELS:
        raise Unsupported(
            "write in a container: /proc, /sys and the like are the kernel's, not files of the container",
            remedy="'lamina exec' writes there with the container's own rights",
        )


def opened_again(fd: Fd, flags: int) -> Fd:
    """The very file *fd* (O_PATH), opened with *flags*, if it is regular. Raises Conflict, Unsupported, OSError."""
    if not S_ISREG(os.fstat(fd).st_mode):
        if S_ISDIR(os.fstat(fd).st_mode):
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
        raise Conflict("open: it is neither a file nor a directory")
    if flags & os.O_ACCMODE != os.O_RDONLY:
        checked(fd)
    # a lease that somebody holds would block the opening (fcntl(2), F_SETLEASE)
    return Fd(os.open(b"/proc/self/fd/%d" % fd, flags | os.O_NONBLOCK | os.O_CLOEXEC))


class NewFile:
    """A file that is made before it has a name, for a `with`: whoever sees it sees it whole.

    Where the file system has no files without a name (O_TMPFILE, open(2)), it has one that begins with `.lamina-`.
    """

    def __init__(self, parent: int) -> None:
        """Raises OSError."""
        self._parent = parent
        self._name: bytes | None = None
        try:
            self.fd = Fd(os.open(b".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=parent))
        except OSError as error:
            if error.errno not in (EOPNOTSUPP, EISDIR, ENOENT):
                raise
            self._name = fresh_name()
            self.fd = Fd(os.open(self._name, _NEW, 0o600, dir_fd=parent))

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, *_: object) -> None:
        with self.fd:
            if self._name is not None:
                discard(self._parent, self._name)

    def appear(self, name: bytes) -> None:
        """Give it its *name*: something else of that name, unless it is a directory, is replaced at once.

        Raises OSError.
        """
        if self._name is None:
            source = b"/proc/self/fd/%d" % self.fd
            try:
                os.link(source, name, dst_dir_fd=self._parent, follow_symlinks=True)
                return
            except FileExistsError:
                pass
            self._name = fresh_name()
            os.link(source, self._name, dst_dir_fd=self._parent, follow_symlinks=True)
        replaceable(self._parent, name)
        os.rename(self._name, name, src_dir_fd=self._parent, dst_dir_fd=self._parent)


def fresh_name() -> bytes:
    """A name that nobody has, of something that is there for a moment."""
    return b".lamina-cp-" + os.urandom(8).hex().encode()


def discard(parent: int, name: bytes) -> None:
    """Take a name away that is there for a moment, if it is there."""
    try:
        os.unlink(name, dir_fd=parent)
    except OSError:
        pass  # it became something else, or somebody in the container has taken it


def replaceable(parent: int, name: bytes) -> None:
    """Raises OSError (EBUSY) where something is mounted on *name*.

    The kernel refuses to take a mount point away only in the caller's own mount namespace. In another one it takes the
    mount away with it, in silence (namespace.c, __detach_mounts).
    """
    try:
        there = statx(parent, name, AT_SYMLINK_NOFOLLOW, STATX_MNT_ID | STATX_TYPE)
    except KernelError as error:
        if error.errno == ENOENT:
            return
        raise
    here = statx(parent, b"", AT_EMPTY_PATH, STATX_MNT_ID | STATX_TYPE)
    if there.mnt_id != here.mnt_id:
        raise OSError(EBUSY, os.strerror(EBUSY))


def said_of(error: OSError, verb: str, path: bytes) -> OSError | NotFound:
    """The error of doing something with *path*, in words."""
    where = os.fsdecode(path)
    if error.errno == ENOENT:
        return NotFound(f"{verb} {where}: the container has no such file or directory")
    if error.errno == ELOOP:
        return NotFound(f"{verb} {where}: its symbolic links lead nowhere")
    return KernelError(verb, error.errno or EIO, where)
