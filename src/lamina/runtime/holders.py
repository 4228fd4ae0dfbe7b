"""Who holds on to a file system that is to be taken away from under a container, found in /proc while nobody moves.

What is looked for is whatever would go on with the old one when the root has been replaced: what can be written
through, and what would lose touch with the new one. A file that is open for reading only, a program or a library that
is mapped does neither, and is not looked for.

Sources: proc_pid_fd(5), proc_pid_fdinfo(5), proc_pid_cwd(5), proc_pid_map_files(5), kcmp(2), unix(7), inotify(7),
pidfd_getfd(2).
"""

from __future__ import annotations

import os
from errno import EACCES, EBADF, EINVAL, ENAMETOOLONG, ENOENT, ENOTTY, EPERM, ESRCH, EXDEV
from stat import S_ISDIR, S_ISFIFO, S_ISREG, S_IWUSR

from lamina.errors import KernelError
from lamina.linux.constants import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_STATX_DONT_SYNC,
    OVERLAYFS_SUPER_MAGIC,
    PIDFD_THREAD,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_XDEV,
    STATX_ATTR_MOUNT_ROOT,
    STATX_MNT_ID,
    STATX_NLINK,
    STATX_TYPE,
)
from lamina.linux.files import openat2, statfs, statx, unix_file
from lamina.linux.mountinfo import read_mount_ids, read_mountinfo
from lamina.linux.process import KCMP_FILES, KCMP_FS, kcmp, pidfd_getfd, pidfd_open
from lamina.runtime.bound_sockets import GONE, address, is_unix, names_of
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeVar

    from lamina.linux.files import Statx

    T = TypeVar("T")

# what the mount table of a process is refused with that is ending, and has let go of its mounts (fs/proc_namespace.c)
MOUNTLESS = (*GONE, EINVAL)
LONGEST_SAID = 80
# how long, in seconds, a file system may take to answer: one of the container's own, whose server stands still as well
# (FUSE), never does
PATIENCE = 2.0
# instead of a path that the kernel does not tell (proc_pid_fd(5))
TOO_LONG = b"/(a path that is too long to be told)"
WATCHERS = (b"anon_inode:inotify", b"anon_inode:[fanotify]")
_UNASKED = AT_EMPTY_PATH | AT_STATX_DONT_SYNC
_WHERE = STATX_MNT_ID | STATX_NLINK | STATX_TYPE
_CAP_SYS_ADMIN = 21


@value
class Holder:
    """Somebody who would go on with what is taken away. `pid` is this machine's, 0 for nobody in particular; `path` as
    the container sees it; `why` says what it holds.
    """

    pid: int
    command: str
    path: str
    why: str

    def __str__(self) -> str:
        who = f"process {self.pid} ({self.command})" if self.pid else "somebody"
        return f"{who} has {self.why}{f' {self.path}' if self.path else ''}"


@value
class Directory:
    """The working directory of the thread *tid* (and of those that share it), which is not the root of its mount.

    *mount* may be none that is known: somebody was killed who had replaced the root, before the directory had followed.
    *space* is the process's mount namespace (an inode number): whoever has its pid in another one is another process.
    """

    pid: int
    tid: int
    path: bytes
    mount: int
    space: int


@value
class Old:
    """What is to be taken away: file systems by device, and all of their mounts by id; who is at the root of one of
    `places` is moved by the kernel.
    """

    devices: frozenset[tuple[int, int]]
    mounts: frozenset[int]
    places: frozenset[int]


@value
class Found:
    """Who holds on, and whose working directory has to be moved."""

    holders: tuple[Holder, ...]
    directories: tuple[Directory, ...]


def look(pids: Iterable[int], first: int, root: int, old: Old) -> Found:
    """Look at each of the processes *pids*, which stand still. *first* is the container's first one, *root* its root (a
    descriptor).
    """
    looking = _Looking(first, root, old)
    for pid in sorted(pids):
        try:
            looking.at(pid)
        except OSError as error:
            if error.errno in (EACCES, EPERM):
                looking.hold(pid, "files that cannot be looked at", b"")
            elif error.errno not in GONE:
                raise
    looking.at_sockets()
    return Found(tuple(looking.holders), tuple(looking.directories))


def mapped(pids: Iterable[int], old: Old) -> list[Holder]:
    """Who can write to a file through memory, for when the kernel says that somebody can write: a shared mapping of a
    file that was open for writing. Others than the old file systems' own are left out as far as they can be told.
    """
    found = []
    devices = {f"{major:02x}:{minor:02x}".encode() for major, minor in old.devices}
    for pid in sorted(pids):
        try:
            tid = next(iter(_living(pid)), pid)  # the first thread has no memory any more where it has ended
            with open(f"/proc/{tid}/maps", "rb") as file:
                for line in file:
                    fields = line.split(None, 5)
                    if len(fields) < 6 or fields[1][3:4] != b"s" or fields[3] not in devices:
                        continue
                    if os.lstat(b"/proc/%d/map_files/%s" % (tid, fields[0])).st_mode & S_IWUSR:
                        path = fields[5].rstrip(b"\n")
                        found.append(Holder(pid, command_of(pid), said(path), "mapped for writing"))
        except OSError as error:
            if error.errno not in (*GONE, EACCES, EPERM):
                raise
    return list(dict.fromkeys(found))


def may_mount(pids: Iterable[int]) -> bool:
    """Whether one of them has, or can get, CAP_SYS_ADMIN, or no filter of system calls that would keep it from making
    namespaces: it may have mounts, and be in control groups, of its own making.
    """
    for pid in pids:
        try:
            with open(f"/proc/{pid}/status", "rb", buffering=0) as status:
                text = status.read(1 << 14)
        except OSError:
            continue
        bounding = text.partition(b"\nCapBnd:\t")[2][:16]
        if bounding and (int(bounding, 16) >> _CAP_SYS_ADMIN & 1 or b"\nSeccomp:\t2\n" not in text):
            return True
    return False


def command_of(pid: int) -> str:
    """Its command line, with nothing in it that a terminal would obey."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb", buffering=0) as file:
            words = file.read(4 * LONGEST_SAID).rstrip(b"\0").replace(b"\0", b" ")
        if not words:
            with open(f"/proc/{pid}/comm", "rb", buffering=0) as file:
                words = file.read(64).rstrip(b"\n")
    except OSError:
        return "?"
    return said(words)


def said(words: bytes) -> str:
    """*words* of a container's, for people."""
    text = "".join(letter if letter.isprintable() else "?" for letter in words.decode("utf-8", "replace"))
    return text if len(text) <= LONGEST_SAID else text[:LONGEST_SAID] + "..."


def table(read: Callable[[int], T], pid: int) -> T:
    """What *read* finds in the mount table of a process. Raises ProcessLookupError where that is ending, or gone."""
    try:
        return read(pid)
    except KernelError as error:
        if error.errno in MOUNTLESS:
            raise ProcessLookupError(ESRCH, os.strerror(ESRCH)) from error
        raise


class _Looking:
    """What was found so far."""

    def __init__(self, first: int, root: int, old: Old) -> None:
        self.root, self.old = root, old
        self.space = os.stat(f"/proc/{first}/ns/mnt").st_ino
        self.known = table(read_mount_ids, first)
        self.holders: list[Holder] = []
        self.directories: list[Directory] = []
        self._elsewhere: dict[int, bool] = {}  # other mount namespaces: whether they have something of it
        self._mute = False  # whether a file system did not answer: no other one is asked then
        # by inode, who has it: process, thread, descriptor
        self._sockets: dict[bytes, tuple[int, int, int]] = {}
        self._networks: dict[int, str] = {}  # network namespaces of threads, and a thread's place in /proc

    def hold(self, pid: int, why: str, path: bytes) -> None:
        self.holders.append(Holder(pid, command_of(pid) if pid else "", said(path), why))

    def at(self, pid: int) -> None:
        """Everything of one process."""
        spaces = _living(pid)
        for tid, space in spaces.items():
            if space != self.space and self._has_some(space, tid):
                self.hold(pid, "a mount namespace of its own, with the same root", b"")
                return
        threads = [*spaces]
        for tid in _apart(threads, KCMP_FS):
            self._places(pid, tid, spaces[tid])
        known = len(self._sockets)
        for tid in _apart(threads, KCMP_FILES):
            self._files(pid, tid)
        if len(self._sockets) > known:  # one may be of whichever namespace a thread was in when it made it
            for tid in threads:
                place = f"/proc/{pid}/task/{tid}"
                self._networks.setdefault(os.stat(f"{place}/ns/net").st_ino, place)

    def _has_some(self, space: int, tid: int) -> bool:
        if space not in self._elsewhere:
            there = table(read_mountinfo, tid)
            self.known |= {mount.id for mount in there}
            self._elsewhere[space] = any((one.major, one.minor) in self.old.devices for one in there)
        return self._elsewhere[space]

    # -- directories

    def _places(self, pid: int, tid: int, space: int) -> None:
        for name, why in (("root", "its root in"), ("cwd", "its working directory in")):
            link = f"/proc/{pid}/task/{tid}/{name}"
            # a file system whose server stands still as well (FUSE) would never answer
            there = statx(AT_FDCWD, link, AT_STATX_DONT_SYNC, _WHERE)
            at_root = there.mnt_id in self.old.places and there.attributes & STATX_ATTR_MOUNT_ROOT
            if at_root or not self._is_old(pid, there, link):
                continue
            path = _path_of(link)
            if name == "cwd" and there.nlink and path != TOO_LONG:
                self.directories.append(Directory(pid, tid, path, there.mnt_id, space))
            else:
                self.hold(pid, why, path)

    def _is_old(self, pid: int, there: Statx, link: str) -> bool:
        if there.mnt_id in self.old.mounts:
            return True
        # attached nowhere, or in a namespace that nobody here is in: whose overlay it is cannot be told
        return there.mnt_id not in self.known and self._is_overlay(pid, link)

    def _is_overlay(self, pid: int, link: str) -> bool:
        """Whether that lies on some overlay. What does not answer is held by whoever has it open: nobody knows."""
        # what lies on a disk has a device of its own, and is neither an overlay nor answered for by a process
        if os.major(statx(AT_FDCWD, link, AT_STATX_DONT_SYNC, _WHERE).dev):
            return False
        if not self._mute:
            found = _answered(lambda: statfs(link).type)
            if found is not None:
                return found == OVERLAYFS_SUPER_MAGIC
            self._mute = True
        self.hold(pid, "something of a file system that does not answer:", _path_of(link))
        return False

    # -- descriptors

    def _files(self, pid: int, tid: int) -> None:
        place = f"/proc/{pid}/task/{tid}"
        for fd in os.listdir(f"{place}/fd"):
            try:
                self._file(pid, place, fd)
            except OSError as error:
                if error.errno not in GONE:
                    raise

    def _file(self, pid: int, place: str, fd: str) -> None:
        link = f"{place}/fd/{fd}"
        target = _path_of(link)
        kind, _, rest = target.partition(b":[")
        if kind == b"socket":
            self._sockets.setdefault(rest.rstrip(b"]"), (pid, int(place.rpartition("/")[2]), int(fd)))
            if int(_fdinfo(f"{place}/fdinfo/{fd}").get(b"scm_fds", b"0")):
                self.hold(pid, f"descriptors on their way through a socket, descriptor {fd}", b"")
        elif kind == b"mnt":
            if int(rest.rstrip(b"]")) != self.space:
                self.hold(pid, f"another mount namespace open as descriptor {fd}", b"")
        elif target == b"anon_inode:[io_uring]":
            self.hold(pid, f"requests to the kernel (io_uring) as descriptor {fd}", b"")
        elif target in WATCHERS:
            if self._watches(f"{place}/fdinfo/{fd}"):
                self.hold(pid, f"files watched (inotify) by descriptor {fd}", b"")
        elif target.startswith(b"/"):
            why = self._open_file(pid, place, link, fd)
            if why:
                self.hold(pid, f"{why} as descriptor {fd}:", target)

    def _open_file(self, pid: int, place: str, link: str, fd: str) -> str:
        """What it holds by it; "" for nothing."""
        info = _fdinfo(f"{place}/fdinfo/{fd}")
        mount, flags = int(info.get(b"mnt_id", b"0")), int(info.get(b"flags", b"0"), 8)
        if mount not in self.old.mounts:
            return (
                "a mount of its own open" if mount not in self.known and self._is_overlay(pid, link) else ""
            )
        status = os.stat(link)
        if S_ISDIR(status.st_mode):
            return "a directory open"
        if flags & os.O_PATH:
            return "a file held (O_PATH)"
        if S_ISFIFO(status.st_mode):
            return "a fifo open"
        if not S_ISREG(status.st_mode):
            return ""  # a device: what is written goes there
        if flags & os.O_ACCMODE != os.O_RDONLY:
            return "a deleted file open for writing" if not status.st_nlink else "a file open for writing"
        return "a file locked" if b"lock" in info else ""

    def _watches(self, fdinfo: str) -> bool:
        with open(fdinfo, "rb", buffering=0) as file:
            text = file.readall()
        for line in text.splitlines():
            if line.startswith((b"inotify ", b"fanotify ")) and b" sdev:" in line:
                device = int(line.partition(b" sdev:")[2].split()[0], 16)
                if (device >> 20, device & 0xFFFFF) in self.old.devices:
                    return True
        return False

    # -- sockets with a name in the file system: who connects looks for the old inode

    def at_sockets(self) -> None:
        """Those of all the processes at once: a network namespace has one list of them. In none is what was made in
        one that nobody is in any more, or in another container, or by this machine.
        """
        names = names_of(self._sockets, self._networks.values())
        for inode, (pid, tid, fd) in self._sockets.items():
            name = names.get(inode)
            if name is None and not is_unix(f"/proc/{pid}/task/{tid}/fd/{fd}"):
                continue
            if name != b"":
                try:
                    self._at_socket(pid, tid, fd, name)
                except OSError as error:
                    if error.errno not in GONE:
                        raise

    def _at_socket(self, pid: int, tid: int, fd: int, name: bytes | None) -> None:
        """Hold it where it is bound to a file here, whatever that is called by now: the socket itself says which."""
        try:
            with pidfd_open(tid, 0 if tid == pid else PIDFD_THREAD) as pidfd, pidfd_getfd(pidfd, fd) as end:
                name = address(end) if name is None else name
                bound = bool(name) and not name.startswith(b"\0") and self._leads_end_here(pid, end, name)
        except KernelError as error:
            if error.errno not in (EACCES, EPERM, EBADF, EINVAL):
                raise
            if name is None:  # nor can it be told what it is bound to
                self.hold(pid, "a socket that cannot be looked at", b"")
                return
            bound = self._is_bound_here(name)
        if bound and name is not None:
            self.hold(pid, "a socket bound to", name)

    def _leads_end_here(self, pid: int, end: int, name: bytes) -> bool:
        try:
            with unix_file(end) as file:
                there = statx(file, b"", _UNASKED, _WHERE)
                return bool(there.nlink) and self._is_old(pid, there, f"/proc/self/fd/{int(file)}")
        except KernelError as error:
            if error.errno == EPERM:  # of a network namespace that is not ours
                return self._is_bound_here(name)
            if error.errno in (EINVAL, ENOENT, ENOTTY):
                return False
            raise

    def _is_bound_here(self, path: bytes) -> bool:
        if path.startswith(b"@"):
            return False
        if not path.startswith(b"/"):
            return True  # relative to what was its working directory then
        try:
            return self._leads_here(path, RESOLVE_NO_XDEV)
        except KernelError as error:
            if error.errno != EXDEV:
                return error.errno not in GONE  # a name that was taken away leads nobody there
        try:  # the way goes through other mounts, one of which may have to be asked
            found = None if self._mute else _answered(lambda: self._leads_here(path, 0))
        except KernelError as error:
            return error.errno not in GONE
        self._mute = self._mute or found is None
        return found is not False

    def _leads_here(self, path: bytes, how: int) -> bool:
        inside = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | how
        with openat2(self.root, path.lstrip(b"/"), os.O_PATH | os.O_NOFOLLOW, resolve=inside) as there:
            return statx(there, b"", _UNASKED, STATX_MNT_ID).mnt_id in self.old.mounts


def _answered(ask: Callable[[], T]) -> T | None:
    """What *ask* says, None where that takes longer than PATIENCE. Then the thread that asks goes on until it is
    answered. Raises what *ask* does.
    """
    from _thread import allocate_lock, start_new_thread

    found: list[T] = []
    failed: list[BaseException] = []
    done = allocate_lock()
    done.acquire()

    def asked() -> None:
        try:
            found.append(ask())
        except BaseException as error:
            failed.append(error)
        finally:
            done.release()

    start_new_thread(asked, ())
    if not done.acquire(timeout=PATIENCE):
        return None
    if failed:
        raise failed[0]
    return found[0]


def _living(pid: int) -> dict[int, int]:
    """The threads of a process, and the mount namespace of each: all of them but those that have ended. The first one
    stays, as a zombie that holds nothing, as long as there are others. Raises OSError.
    """
    found = {}
    for tid in sorted(map(int, os.listdir(f"/proc/{pid}/task"))):
        try:
            found[tid] = os.stat(f"/proc/{pid}/task/{tid}/ns/mnt").st_ino
        except OSError as error:
            if error.errno not in GONE:
                raise
    return found


def _apart(threads: list[int], what: int) -> Iterator[int]:
    """One of those threads that have it in common: kcmp(2). All of them where the kernel does not compare."""
    if not threads:
        return
    first, *others = threads
    yield first
    for tid in others:
        try:
            if kcmp(first, tid, what):
                continue
        except KernelError:
            pass
        yield tid


def _path_of(link: str) -> bytes:
    """Where that link of /proc leads, or TOO_LONG: the kernel names no more than a page. Raises OSError."""
    try:
        return os.fsencode(os.readlink(link))
    except OSError as error:
        if error.errno != ENAMETOOLONG:
            raise
        return TOO_LONG


def _fdinfo(path: str) -> dict[bytes, bytes]:
    with open(path, "rb", buffering=0) as file:
        text = file.read(1 << 14)
    return {name: rest.strip() for name, _, rest in (line.partition(b":") for line in text.splitlines())}
