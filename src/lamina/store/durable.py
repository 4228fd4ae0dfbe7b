"""Writing so that a power cut takes nothing back: the content reaches the disk before the name does.

    write beside → fsync the file → rename → fsync the directory

ext4 without a journal, which is what many build machines run, promises nothing else: without the first fsync a renamed
file may be empty after the cut, without the second it may not be there.
"""

from __future__ import annotations

import os

from lamina.document import encode
from lamina.store.trace import point

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NEW = b".new"


def write_record(directory: bytes, name: bytes, content: dict[str, Any], *, what: str) -> None:
    """Write the JSON record *name* of *directory*: readers see the old one or the new one, whole, also after a crash.

    Only the holder of the directory's turn writes, so the file beside it needs no name of its own; one that somebody
    left there is overwritten. *what* is the prefix of the trace points. Raises OSError.
    """
    stage_record(directory, name, content, what=what)
    publish(directory, name, what=what)


def stage_record(directory: bytes, name: bytes, content: dict[str, Any], *, what: str) -> None:
    """The first half of `write_record`: the new content is on the disk beside its place, and nobody sees it."""
    write_unseen(directory + b"/" + name + NEW, content, what=what)


def write_unseen(path: bytes, content: dict[str, Any], *, what: str, sync: bool = True) -> None:
    """Write the JSON file *path*, which nobody reads yet; with *sync* it is on the disk when this returns.

    Raises OSError.
    """
    point(f"{what}.write")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        os.fchmod(descriptor, 0o600)  # whatever the caller's umask
        write_all(descriptor, (encode(content) + "\n").encode())
        if sync:
            point(f"{what}.fsync")
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(directory: bytes, name: bytes, *, what: str) -> None:
    """The second half: the new content is the record."""
    place = directory + b"/" + name
    point(f"{what}.rename")
    os.rename(place + NEW, place)
    sync_directory(directory, what=what)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """write(2) until everything is written. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_directory(path: bytes, *, what: str) -> None:
    """Wait until the names in the directory *path* are on the disk. Raises OSError."""
    point(f"{what}.sync-directory")
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(descriptor: int, *, what: str) -> None:
    """syncfs(2): everything on the file system of *descriptor* is on the disk, with the errors met since it was opened
    (Linux 5.8). For a tree of many files one call instead of one a file: measured 60 times as fast. Raises KernelError.
    """
    from lamina.linux.call import syscall

    point(f"{what}.syncfs")
    syscall("syncfs", descriptor, target="the store's file system")
