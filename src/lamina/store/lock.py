"""flock(2) on files of the store. The kernel gives a lock up with the life of its holder, so none is ever stale.

A forked child of the caller's program inherits the descriptors, and with them the locks: it lets go at once, or what
is locked looks held as long as the child lives. (execve closes them.)
"""

from __future__ import annotations

import os

from lamina.linux.descriptors import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock, locked
from lamina.linux.fd import CLOSED, Fd, owned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["LOCK_EX", "LOCK_SH", "Lock", "alone", "are_held", "joining", "take", "turn", "unlock_all"]

_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_descriptors: set[Fd] = set()
_forks = 0


def _let_go() -> None:
    global _forks
    _forks += 1
    for descriptor in tuple(_descriptors):
        try:
            descriptor.close()
        except OSError:
            pass
    _descriptors.clear()


os.register_at_fork(after_in_child=_let_go)


class Lock:
    """A held lock: given up by `release()`, at the end of a `with`, or when nobody has the object any more."""

    __slots__ = ("_forks", "fd")

    def __init__(self, fd: Fd) -> None:
        self.fd: Fd = fd
        self._forks = _forks
        _descriptors.add(fd)

    @property
    def held(self) -> bool:
        """Whether it is still held by this process."""
        return self.fd >= 0 and self._forks == _forks

    def release(self) -> None:
        """Give the lock up; a second call does nothing."""
        fd, self.fd = self.fd, CLOSED
        if fd >= 0 and self._forks == _forks:
            try:
                _descriptors.discard(fd)
            finally:  # a Ctrl-C in between would leave it locked for as long as this program runs
                _unlock(fd)

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        try:
            self.release()
        except (OSError, AttributeError, TypeError):  # the interpreter is leaving
            pass


def take(
    path: bytes, how: int, *, wait: bool = True, create: bool = False, named: bool = False
) -> Lock | None:
    """Lock the file *path* with LOCK_SH or LOCK_EX; None if somebody is in the way and *wait* is false.

    What is locked in the end still has a name; with *create* or *named* it is what *path* names. What lost its name
    meanwhile is looked for once more. Raises FileNotFoundError when there is no such file (any more), OSError.
    """
    while True:
        fd = owned(os.open, path, _OPEN | os.O_CREAT if create else _OPEN, 0o600)
        try:
            if not _flock(fd, how, wait):
                fd.close()
                return None
            found = os.fstat(fd)
            if create and found.st_mode & 0o777 != 0o600:
                os.fchmod(fd, 0o600)  # whatever the caller's umask
            if not found.st_nlink or ((create or named) and not _is_at(path, found)):
                _unlock(fd)
                continue  # somebody removed or replaced it
            return Lock(fd)
        except BaseException:
            _unlock(fd)
            raise


def take_from_lookers(path: bytes, *, create: bool = False) -> Lock | None:
    """The exclusive lock, None while somebody has it; those who merely look (shared, for microseconds) are waited for.
    Raises OSError.
    """
    while (held := take(path, LOCK_EX, wait=False, create=create)) is None:
        looking = take(path, LOCK_SH, wait=False)
        if looking is None:
            return None
        looking.release()
    return held


def is_held(path: bytes) -> bool:
    """Whether anybody, this process included, has the file *path* locked exclusively at this moment.

    It is asked for by a shared lock, so two who look do not mistake each other for the holder. Raises
    FileNotFoundError, OSError.
    """
    fd = owned(os.open, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        flock(fd, LOCK_SH | LOCK_NB)
    except BlockingIOError:
        fd.close()
        return True
    finally:
        _unlock(fd)
    return False


def are_held(directory: bytes, names: list[bytes], file: bytes) -> list[bool | None]:
    """As `is_held` of the *file* in the directory of each of these *names* below *directory*; None where there is none.
    Raises OSError.
    """
    if not names:
        return []
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return locked(place, names, file)
    finally:
        os.close(place)


def unlock_all() -> None:
    """Give up every lock of this process, for one that is about to end while threads of it may still be at work.

    The files stay open: a thread that writes to one must not find another file under the same number.
    """
    for descriptor in tuple(_descriptors):
        try:
            flock(descriptor, LOCK_UN)
        except OSError:
            pass


def turn(directory: bytes, how: int) -> Lock:
    """Lock the directory itself, waiting for one's turn: for steps of a few system calls. Raises OSError."""
    fd = owned(os.open, directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        flock(fd, how)
        return Lock(fd)
    except BaseException:
        _unlock(fd)
        raise


def free_turn(directory: bytes) -> Lock | None:
    """As `turn`, exclusive, if nobody has it just now; else None. Raises OSError."""
    try:
        return turn(directory, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return None


def joining(directory: bytes) -> Lock:
    """For who has a process begin in the container in that *directory*, or works below its root: it does not stand
    still meanwhile, nor is its root replaced. Waits for its turn; raises OSError.

    It is a lock on a file of its own: the directory itself is locked for a few system calls at a time (`turn`).
    """
    return _joined(directory, LOCK_SH)


def alone(directory: bytes) -> Lock:
    """For who stops all processes of the container in that *directory*: none is being added meanwhile, and nobody else
    stops them or has them go on. Waits for its turn; raises OSError.
    """
    return _joined(directory, LOCK_EX)


def _joined(directory: bytes, how: int) -> Lock:
    lock = take(directory + b"/joining", how, create=True)
    assert lock is not None  # it was waited for
    return lock


def _is_at(path: bytes, found: os.stat_result) -> bool:
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino)


def _flock(fd: int, how: int, wait: bool) -> bool:
    try:
        flock(fd, how if wait else how | LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unlock(fd: Fd) -> None:
    """Closing alone does not give the lock up while a child, forked by another thread in that moment, has a copy."""
    if not fd.is_open:
        return  # a Lock has given it up already, and its number may be another file's by now
    try:
        flock(fd, LOCK_UN)
    finally:
        fd.close()
