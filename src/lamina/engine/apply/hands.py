"""Every write that apply and undo make, to the host and to the journal: one method a system call, one seam before each.

Tests subclass `Hands` and override `before`, to raise ENOSPC at the n-th write or to die there. Reading is not here.
Files are named by a directory's descriptor and one name in it, or by a descriptor of their own (O_PATH suffices).
"""

from __future__ import annotations

import os
import stat

from lamina.engine.progress import NOBODY
from lamina.linux.call import syscall
from lamina.linux.files import ficlone, renameat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

COPY_AT_ONCE = 1 << 26


class Hands:
    """Plain calls with the names of `os`; each says first what it is about to do. All raise OSError."""

    meter = NOBODY  # who is told how far the work has got

    def before(self, call: str, subject: bytes) -> None:
        """Called before every write, with its name, and at the named points between ("apply:planned")."""

    # -- making

    def mkdir(self, directory: int, name: bytes, mode: int = 0o700) -> None:
        """mkdirat(2)."""
        self.before("mkdir", name)
        os.mkdir(name, mode, dir_fd=directory)

    def create(self, directory: int, name: bytes) -> int:
        """Open a new regular file for reading and writing, mode 0600; the caller closes it."""
        self.before("create", name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, 0o600, dir_fd=directory)

    def symlink(self, target: bytes, directory: int, name: bytes) -> None:
        """symlinkat(2)."""
        self.before("symlink", name)
        os.symlink(target, name, dir_fd=directory)

    def mknod(self, directory: int, name: bytes, mode: int, device: int) -> None:
        """mknodat(2); *mode* carries the type, permissions are set later."""
        self.before("mknod", name)
        os.mknod(name, stat.S_IFMT(mode) | 0o600, device, dir_fd=directory)

    def link(self, directory: int, name: bytes, to_directory: int, to_name: bytes) -> None:
        """linkat(2) without following *name*."""
        self.before("link", to_name)
        os.link(name, to_name, src_dir_fd=directory, dst_dir_fd=to_directory, follow_symlinks=False)

    # -- content

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        """Write all of *data* at *offset*."""
        view = memoryview(data)
        while view:
            self.before("write", b"")
            done = os.pwrite(fd, view, offset)
            view, offset = view[done:], offset + done

    def clone(self, source: int, fd: int) -> None:
        """Share the content of *source*: as good as a copy, but free."""
        self.before("clone", b"")
        ficlone(fd, source)

    def copy_range(self, source: int, fd: int, start: int, end: int) -> None:
        """Copy the bytes from *start* to *end*, in the kernel; OSError where it will not do it for these two."""
        while start < end:
            self.before("copy_file_range", b"")
            done = os.copy_file_range(source, fd, min(end - start, COPY_AT_ONCE), start, start)
            if done == 0:
                return  # the source ends here: it became shorter meanwhile
            start += done
            self.meter.written(done)

    def truncate(self, fd: int, size: int) -> None:
        """ftruncate(2)."""
        self.before("truncate", b"")
        os.truncate(fd, size)

    def allocate(self, fd: int, start: int, size: int) -> None:
        """posix_fallocate(3): what is written there later cannot find the disk full."""
        self.before("allocate", b"")
        os.posix_fallocate(fd, start, size)

    # -- attributes: `fd` may be O_PATH, therefore the way through /proc

    def chown(self, fd: int, uid: int, gid: int) -> None:
        """Change the owner of what *fd* holds, a symbolic link too."""
        self.before("chown", b"")
        os.chown(b"/proc/self/fd/%d" % fd, uid, gid)

    def chmod(self, fd: int, mode: int) -> None:
        """Change the permissions of what *fd* holds."""
        self.before("chmod", b"")
        os.chmod(b"/proc/self/fd/%d" % fd, mode)

    def utime(self, fd: int, atime_ns: int, mtime_ns: int) -> None:
        """Set both times of what *fd* holds."""
        self.before("utime", b"")
        os.utime(b"/proc/self/fd/%d" % fd, ns=(atime_ns, mtime_ns))

    def setxattr(self, fd: int, name: bytes, content: bytes) -> None:
        """Set one extended attribute of what *fd* holds."""
        self.before("setxattr", name)
        os.setxattr(b"/proc/self/fd/%d" % fd, name, content)

    def removexattr(self, fd: int, name: bytes) -> None:
        """Remove one extended attribute of what *fd* holds."""
        self.before("removexattr", name)
        os.removexattr(b"/proc/self/fd/%d" % fd, name)

    # -- moving and removing

    def rename(self, directory: int, name: bytes, to_directory: int, to_name: bytes, flags: int) -> None:
        """renameat2(2) with RENAME_NOREPLACE or RENAME_EXCHANGE."""
        self.before("rename", to_name)
        renameat2(directory, name, to_directory, to_name, flags)

    def unlink(self, directory: int, name: bytes) -> None:
        """unlinkat(2) of anything but a directory."""
        self.before("unlink", name)
        os.unlink(name, dir_fd=directory)

    def rmdir(self, directory: int, name: bytes) -> None:
        """unlinkat(2) of an empty directory."""
        self.before("rmdir", name)
        os.rmdir(name, dir_fd=directory)

    # -- durability

    def fsync(self, fd: int) -> None:
        """fsync(2)."""
        self.before("fsync", b"")
        os.fsync(fd)

    def syncfs(self, fd: int) -> None:
        """syncfs(2): everything of the file system on which *fd* lies."""
        self.before("syncfs", b"")
        syncfs: Callable[..., int] = syscall
        syncfs("syncfs", fd)
