"""Groups inside a group: walked and removed by descriptors, for they may be nested deeper than a path can say."""

from __future__ import annotations

import os
import time
from errno import EBUSY, ENOENT, ENOTEMPTY

from lamina.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def walk(place: bytes) -> Iterator[int]:
    """A descriptor of the group at *place* and of every group below, parents first; nothing if it is gone.

    A descriptor is ours and valid until the next one is asked for. Groups made meanwhile may be left out.
    """
    try:
        here = os.open(place, _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        yield here
        waiting = [_children(here)]
        while waiting:
            if not waiting[-1]:
                waiting.pop()
                if waiting:  # ".." is where it was: cgroups are never moved
                    here = _moved(here, b"..")
                continue
            try:
                here = _moved(here, waiting[-1].pop())
            except FileNotFoundError:
                continue  # removed meanwhile
            yield here
            waiting.append(_children(here))
    except FileNotFoundError:
        return
    finally:
        os.close(here)


def _moved(here: int, name: bytes) -> int:
    there = os.open(name, _DIRECTORY, dir_fd=here)
    os.close(here)
    return there


def _children(group: int) -> list[bytes]:
    try:
        with os.scandir(group) as entries:
            return [os.fsencode(entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if error.errno == ENOENT:
            return []
        raise


def remove_tree(place: bytes, timeout: float = 5.0) -> None:
    """Remove the group at *place* and all below it, whose processes are gone; what is gone already is no error.

    A group is busy for a moment after its last process was reaped, for its end is accounted later: so this tries
    again, up to *timeout* seconds. Raises KernelError.
    """
    end = 0.0
    pause = 0.001
    while (failure := _try_to_remove(place)) is not None:
        now = time.monotonic()
        end = end or now + timeout
        if failure.errno not in (EBUSY, ENOTEMPTY) or now > end:
            raise KernelError("rmdir", failure.errno or 0, os.fsdecode(place), hint=_why(place)) from failure
        time.sleep(pause)
        pause = min(pause * 2, 0.1)


def _try_to_remove(place: bytes) -> OSError | None:
    try:
        os.rmdir(place)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in (EBUSY, ENOTEMPTY):
            return error
        return _remove_children(place) or _remove_empty(place)
    return None


def _remove_empty(place: bytes) -> OSError | None:
    try:
        os.rmdir(place)
    except FileNotFoundError:
        return None
    except OSError as error:
        return error
    return None


def _remove_children(place: bytes) -> OSError | None:
    """Remove what is below, deepest first; the first refusal is the answer, after everything was tried."""
    failure = None
    try:
        here = os.open(place, _DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        waiting, names = [_children(here)], [b""]
        while True:
            if waiting[-1]:
                name = waiting[-1].pop()
                try:
                    here = _moved(here, name)
                except FileNotFoundError:
                    continue
                waiting.append(_children(here))
                names.append(name)
                continue
            waiting.pop()
            name = names.pop()
            if not waiting:
                return failure
            here = _moved(here, b"..")
            try:
                os.rmdir(name, dir_fd=here)
            except FileNotFoundError:
                pass
            except OSError as error:
                failure = failure or error
    except FileNotFoundError:
        return failure  # somebody else removes it as well
    finally:
        os.close(here)


def _why(place: bytes) -> str:
    count = 0
    for group in walk(place):
        count += len(read_at(group, b"cgroup.procs").split())
    return f"{count} processes still live there" if count else ""


def read_at(group: int, name: bytes) -> bytes:
    """What a file of a group says; nothing where it is not there or cannot be read."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=group)
    except OSError:
        return b""
    try:
        found = []
        while chunk := os.read(fd, 1 << 16):
            found.append(chunk)
        return b"".join(found)
    except OSError:  # EOPNOTSUPP: cgroup.procs of a threaded group; ENODEV: removed meanwhile
        return b"".join(found)
    finally:
        os.close(fd)


def write_at(group: int, name: bytes, text: bytes) -> None:
    """Write into a file of a group. Raises OSError."""
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=group)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)
