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

    Other names may change between theirs. All contents are on the disk before the first name changes, so what there is
    in between is waited for only where the file system may have the later change and not the earlier one
    (order_of_names.py):

        batch.write(...)
        batch.move(work)                                    # changes names, after the records above have theirs
        batch.wait()                                        # all of that is on the disk, before
        batch.write(...)                                    # this has its name

    *what* is the prefix of the trace points. Whoever is killed in `publish` has done the first steps. A power cut in it
    may leave each record old or new, and whole: none may need that another one is new, if no `wait` is between them.
    """

    def __init__(self, *, sync: bool = True, places: tuple[bytes, ...] = ()) -> None:
        """Without *sync* nothing is waited for: readers see each record whole, and a power cut may take it. *places*
        are directories on all file systems on which names change; without any there is no order.
        """
        self._sync, self._places = sync, places
        self._order: bool | None = None
        self._afterwards: list[Callable[[], None]] = []
        self._begin()

    def _begin(self) -> None:
        self._contents: dict[bytes, str] = {}  # on the disk before anything else happens
        self._needed: dict[bytes, str] = {}  # when it is waited for next
        self._directories: dict[bytes, str] = {}  # whose names have changed
        self._steps: list[Callable[[], None]] = []
        self._last: list[Callable[[], None]] = []
        self._waits = False

    def write(
        self,
        directory: bytes,
        name: bytes,
        content: dict[str, Any],
        *,
        what: str,
        lasting: bool = True,
        beside: bytes = NEW,
    ) -> None:
        """The record *name* of *directory*, to which nobody else writes meanwhile, shall be *content*. Until then that
        is in a file which is called as it is, and *beside*: another one for each of several that follow one another.

        Not *lasting*: it is not waited for its name. After a power cut the record may be the one before, with which the
        same is done once more. Raises OSError.
        """
        place = directory + b"/" + name
        write_unseen(place + beside, content, what=what, sync=False)
        self.content(place + beside, what=what)
        self._steps.append(lambda: self.take_name(place + beside, place, what=what, lasting=lasting))

    def content(self, path: bytes, *, what: str) -> None:
        """What is in the file *path* has to be on the disk before anything else happens."""
        self._contents[path] = what

    def needs(self, path: bytes, *, what: str) -> None:
        """The file *path*, or the names in that directory, have to be on the disk first: before the first name changes,
        or, where something is moved, with that.
        """
        self._needed[path] = what

    def move(self, work: Callable[[], None]) -> None:
        """Do *work*, which changes names and says what it needs for them, when its turn comes."""
        self._steps.append(work)

    def wait(self) -> None:
        """Nothing that comes later is on the disk without all that came before."""
        self._waits = True
        self._steps.append(self.come_so_far)

    def last(self, work: Callable[[], None]) -> None:
        """Do *work*, which changes names, when all else is done: what its doer waits for before, a turn that others
        have, is not waited for with what that takes.
        """
        self._last.append(work)

    def then(self, work: Callable[[], None]) -> None:
        """Do *work* when it is closed, whether anything was published or not."""
        self._afterwards.append(work)

    def publish(self) -> None:
        """They are the records, in the order in which they were written. Raises OSError."""
        first = self._contents
        if not self._waits:
            first, self._needed = {**first, **self._needed}, {}
        if self._sync:
            sync_together(first, in_one=self._waits and self._commits_in_one())
        for step in self._steps:
            step()
        try:
            for step in self._last:
                step()
        finally:  # what was done before is done, also if that cannot be
            self._wait()
        self._begin()

    # -- for those who take a step

    @property
    def in_order(self) -> bool:
        """Whether nothing need be waited for between two changes of names."""
        if self._order is None:
            from lamina.store.order_of_names import keeps_order

            self._order = not self._sync or keeps_order(*self._places)
        return self._order

    def _commits_in_one(self) -> bool:
        """Whether the contents, which are files, may be waited for as one. Not the first time in this program: whether
        there is order is found out when something has been synced.
        """
        from lamina.store.order_of_names import commits_in_one

        return commits_in_one(*self._places)

    def come_so_far(self) -> None:
        """What was done so far is on the disk, if something later could be without it. Raises OSError."""
        if not self.in_order:
            self._wait()

    def take_name(self, source: bytes, place: bytes, *, what: str, lasting: bool = True) -> None:
        """The file *source*, whose content is on the disk, is called *place* now, in the same directory. Raises
        OSError.
        """
        point(f"{what}.rename")
        os.rename(source, place)
        if lasting:
            self._directories[os.path.dirname(place)] = what

    def _wait(self) -> None:
        if self._sync:
            sync_together({**self._needed, **self._directories})
        self._needed, self._directories = {}, {}

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
        if os.fstat(descriptor).st_mode & 0o777 != 0o600:
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


def sync_together(paths: Mapping[bytes, str], *, in_one: bool = False) -> None:
    """Wait until the files *paths*, and the names in those that are directories, are on the disk. Each comes with what
    its trace point begins with. Writing begins with all before the first is waited for, so a journal has them in one
    commit, and all wait for that at once. Raises OSError.
    """
    from lamina.linux.flush import flush

    opened: list[int] = []
    try:
        for path, what in paths.items():
            point(f"{what}.fsync")
            opened.append(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
        flush(opened, in_one=in_one)
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
