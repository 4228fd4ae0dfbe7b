"""The mount option `tmpcopyup`: a tmpfs begins with a copy of the directory that it covers. And without the option
`mode` it has the mode of that, as with runc and crun.

https://github.com/opencontainers/runtime-spec/blob/main/config.md#linux-mount-options

What is copied belongs to the image, so it is hostile: every step is by descriptor and follows no link.
"""

from __future__ import annotations

import errno
import os
import stat
import warnings

from lamina.errors import KernelError, LaminaError
from lamina.linux.fd import Fd
from lamina.linux.namespaces import setns
from lamina.overlay.copying import copy_content, listed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 256  # what a start copies into memory is a skeleton; whoever nests deeper wants something else


def copy_up(tmpfs: Fd, covered: Fd, pid: int, destination: str) -> None:
    """Copy what is in *covered* into *tmpfs*, both handed over by the process *pid*, our child.

    In a user namespace of the child's own this is done by a fork that joins it: only there may the image's owners be
    given to files. Raises KernelError (ENOSPC when the tmpfs is too small).
    """
    if os.stat(f"/proc/{pid}/ns/user").st_ino == os.stat("/proc/self/ns/user").st_ino:
        try:
            _copy_root(tmpfs, covered)
        except OSError as error:
            raise _failure(destination, error.errno or 0) from error
        return
    if number := _in_fork(pid, lambda: _copy_root(tmpfs, covered)):
        raise _failure(destination, number)


def take_mode(tmpfs: Fd, covered: Fd, pid: int, destination: str) -> None:
    """Give the root of *tmpfs* the mode of *covered*, both handed over by the process *pid*, our child. In a user
    namespace of the child's own it may be nobody's whom we may change. Raises KernelError.
    """

    def take() -> None:
        os.chmod(f"/proc/self/fd/{int(tmpfs)}", stat.S_IMODE(os.fstat(covered).st_mode))

    try:
        take()
    except PermissionError:
        if number := _in_fork(pid, take):
            raise KernelError(f"give a tmpfs the mode of {destination}", number) from None


def _failure(destination: str, number: int) -> LaminaError:
    hint = "the tmpfs is too small for what it covers" if number == errno.ENOSPC else ""
    return KernelError(f"copy {destination} into its tmpfs", number, hint=hint)


def _in_fork(pid: int, work: Callable[[], None]) -> int:
    """Done in the user namespace of the process *pid*: 0, or the errno of what went wrong."""
    namespace = Fd(os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC))
    reader, writer = map(Fd, os.pipe2(os.O_CLOEXEC))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the fork needs none of their locks
        helper = os.fork()
    if helper == 0:
        number = errno.EIO
        try:
            setns(namespace)
            for become in (os.setresgid, os.setresuid):
                try:
                    become(0, 0, 0)
                except OSError:  # 0 is not mapped: it stays nobody, with every capability
                    pass
            work()
            number = 0
        except OSError as error:
            number = error.errno or errno.EIO
        finally:
            os.write(writer, number.to_bytes(4, "little"))
            os._exit(0)
    with reader, namespace:
        writer.close()
        said = os.read(reader, 4)  # nothing where it was killed
    try:
        os.waitpid(helper, 0)
    except ChildProcessError:
        pass  # this program waits for any child, or lets the kernel reap
    return int.from_bytes(said, "little") if said else errno.EIO


def _copy_root(tmpfs: Fd, covered: Fd) -> None:
    with (
        Fd(os.open(".", _DIRECTORY, dir_fd=covered)) as source,
        Fd(os.open(".", _DIRECTORY, dir_fd=tmpfs)) as target,
    ):
        _copy_directory(source, target, 0)


def _copy_directory(source: int, target: int, depth: int) -> None:
    if depth > _DEEPEST:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    for name in os.listdir(source):
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            os.mkdir(name, 0o700, dir_fd=target)
            with (
                Fd(os.open(name, _DIRECTORY, dir_fd=source)) as below,
                Fd(os.open(name, _DIRECTORY, dir_fd=target)) as new,
            ):
                _copy_directory(below, new, depth + 1)
                _finish(below, new)
        elif stat.S_ISREG(status.st_mode):
            _copy_file(name, source, target)
        elif stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        else:
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)


def _copy_file(name: str, source: int, target: int) -> None:
    flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with (
        Fd(os.open(name, os.O_RDONLY | flags, dir_fd=source)) as old,
        Fd(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags, 0o600, dir_fd=target)) as new,
    ):
        if not stat.S_ISREG(os.fstat(old).st_mode):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))  # exchanged meanwhile
        copy_content(old, new)
        _finish(old, new)


def _finish(old: int, new: int) -> None:
    """Owner, then what a change of owner would take away: mode and attributes; then the times."""
    status = os.fstat(old)
    os.fchown(new, status.st_uid, status.st_gid)
    os.fchmod(new, stat.S_IMODE(status.st_mode))
    for name in listed(b"/proc/self/fd/%d" % old):
        if name.startswith(("user.", "security.capability", "system.posix_acl")):
            try:
                os.setxattr(new, name, os.getxattr(old, name))
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:  # a tmpfs without user attributes (before 6.6)
                    raise
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
