"""Writing so that a power cut takes nothing back: the content reaches the disk before the name does.

    write beside → fsync the file → rename → fsync the directory

ext4 without a journal, which is what many build machines run, promises nothing else: without the first fsync a renamed
file may be empty after the cut, without the second it may not be there.

Each fsync waits for the disk, on a busy machine for what others write as well. Where several records change together
(`Batch`) that is waited for twice all the same, and not twice each.
"""

from __future__ import annotations

import os

from lamina.document import encode
from lamina.store.trace import point

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

NEW = b".new"


class Batch:
    """Records that change together: in their order for whoever reads, and after two waits for the disk, however many
    they are.

        batch.write(directory, name, content, what="...")   # beside its place, where nobody sees it
        batch.needs(path, what="...")                       # has to be on the disk before any of them has its name
        batch.publish()                                     # all of that is; each gets its name; so are the names

    *what* is the prefix of the trace points. Whoever is killed in `publish` has published the first ones. A power cut
    in it may leave each of them old or new, and whole: none may need that another one is new.
    """

    def __init__(self, *, sync: bool = True) -> None:
        """Without *sync* nothing is waited for: readers see each record whole, and a power cut may take it."""
        self._sync = sync
        self._needed: dict[bytes, str] = {}
        self._staged: dict[tuple[bytes, bytes], str] = {}
        self._directories: dict[bytes, str] = {}
        self._beforehand: list[Callable[[], None]] = []
        self._meanwhile: list[Callable[[], None]] = []
        self._afterwards: list[Callable[[], None]] = []

    def write(
        self, directory: bytes, name: bytes, content: dict[str, Any], *, what: str, lasting: bool = True
    ) -> None:
        """The record *name* of *directory*, to which nobody else writes meanwhile, shall be *content*.

        Not *lasting*: it is not waited for its name. After a power cut the record may be the one before, with which the
        same is done once more. Raises OSError.
        """
        path = directory + b"/" + name + NEW
        write_unseen(path, content, what=what, sync=False)
        self._staged[directory, name] = what
        if lasting:
            self._directories[directory] = what
        self.needs(path, what=what)

    def needs(self, path: bytes, *, what: str) -> None:
        """The file *path*, or the names in that directory, have to be on the disk first."""
        self._needed[path] = what

    def first(self, work: Callable[[], None]) -> None:
        """Do *work*, which may write more to it, when it is about to be published: what its publisher waits for before,
        a turn that others have, is not waited for with what *work* takes.
        """
        self._beforehand.append(work)

    def meanwhile(self, work: Callable[[], None]) -> None:
        """Do *work* while the disk is waited for, before any record has its name. When it fails, none gets it."""
        self._meanwhile.append(work)

    def then(self, work: Callable[[], None]) -> None:
        """Do *work* when it is closed, whether anything was published or not."""
        self._afterwards.append(work)

    def publish(self) -> None:
        """They are the records, in the order in which they were written. Raises OSError."""
        while self._beforehand:
            self._beforehand.pop(0)()
        if self._sync:
            sync_together(self._needed, self._work if self._meanwhile else None)
        else:
            self._work()
        for (directory, name), what in self._staged.items():
            point(f"{what}.rename")
            place = directory + b"/" + name
            os.rename(place + NEW, place)
        if self._sync:
            sync_together(self._directories)
        self._needed, self._staged, self._directories = {}, {}, {}

    def _work(self) -> None:
        while self._meanwhile:
            self._meanwhile.pop(0)()

    def close(self) -> None:
        """Nothing more comes."""
        while self._afterwards:
            self._afterwards.pop()()


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


def sync_together(paths: Mapping[bytes, str], meanwhile: Callable[[], None] | None = None) -> None:
    """Wait until the files *paths*, and the names in those that are directories, are on the disk. Each comes with what
    its trace point begins with. Writing begins with all before the first is waited for, so a journal has them in one
    commit, and all wait for that at once. *meanwhile* is called then. Raises OSError.
    """
    from lamina.linux.flush import flush

    opened: list[int] = []
    try:
        for path, what in paths.items():
            point(f"{what}.fsync")
            opened.append(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
        flush(opened, meanwhile)
    finally:
        for descriptor in opened:
            os.close(descriptor)


def sync_file_system(descriptor: int, *, what: str) -> None:
    """syncfs(2): everything on the file system of *descriptor* is on the disk, with the errors met since it was opened
    (Linux 5.8). For a tree of many files one call instead of one a file: measured 60 times as fast. Raises KernelError.
    """
    from lamina.linux.call import syscall

    point(f"{what}.syncfs")
    syscall("syncfs", descriptor, target="the store's file system")
