"""Copying files out of containers, with the rules of docker's cp.

What comes out of a container is made by its processes, and hostile. It is packed where it is (packing_path.py), goes
through a pipe, and is unpacked below a new directory of our own at its destination; only what is whole is moved from
there to its place, by names below descriptors. So no name and no link of the container's is ever followed on this
machine, and a file is replaced at once or not at all.
"""

from __future__ import annotations

import os
import threading
from errno import EACCES, EIO, ENOENT, ENOTDIR, EXDEV
from stat import S_IMODE, S_IRWXU, S_ISDIR, S_ISREG

from lamina.engine.packing_path import Shown, is_directory, pack_running, pack_stopped
from lamina.errors import Conflict, InvalidInput, KernelError, LaminaError, NotFound, Unsupported
from lamina.image.apply.directories import PLAINLY
from lamina.image.apply.extract import Extractor
from lamina.image.apply.ids import IdMap
from lamina.image.tar.limits import given
from lamina.image.tar.reader import entries
from lamina.linux.constants import AT_FDCWD, RESOLVE_NO_SYMLINKS
from lamina.linux.fd import Fd, ready
from lamina.linux.files import openat2
from lamina.linux.process import pidfd_open
from lamina.runtime.identity import same_process
from lamina.store.containers import LIVING
from lamina.store.events import about, note
from lamina.store.tree import remove_tree
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.engine.container import Container
    from lamina.image.tar.entry import Entry

SET_IDS = 0o6000
_ITEM = b"item"  # what is copied, in the directory where it is unpacked
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@value
class Copied:
    """What was copied: bytes of all files, or of the archive; how many files were left out (devices, sockets)."""

    size: int
    left_out: int = 0


def copy_to_stream(container: Container, path: str, out: int, *, follow: bool = False) -> Copied:
    """Write what is at *path* of the container as a tar archive to the descriptor *out*. As `Container.copy_out`."""
    source = os.fsencode(path)
    try:
        packed = _pack(container, source, out, _name_of(source), follow=follow, owners=True, devices=True)
    except OSError as error:
        if isinstance(error, (LaminaError, BrokenPipeError)):
            raise
        raise KernelError("copy", error.errno or EIO, path) from error
    _note(container, path)
    return Copied(*packed)


def copy_out(
    container: Container, path: str, target: str, *, archive: bool = False, follow: bool = False
) -> Copied:
    """See `Container.copy_out`."""
    if archive and os.geteuid() != 0:
        raise Unsupported(
            "copy with the owners of the files: only root may give files to others",
            remedy="leave out -a, or copy to '-', whose archive has the owners",
        )
    source = os.fsencode(path)
    try:
        with _Destination(os.fsencode(target)) as destination:
            copied = _unpack(container, source, destination.stage, archive=archive, follow=follow)
            destination.take(source)
    except OSError as error:
        if isinstance(error, LaminaError) and error.errno != EXDEV:
            raise
        remedy = "copy to a directory of one file system" if error.errno == EXDEV else ""
        raise KernelError("copy to", error.errno or EIO, target, remedy=remedy) from error
    _note(container, path)
    return copied


def _note(container: Container, path: str) -> None:
    note(container.store, about(container.record, "archive-path", path=path))


# -- reading in the container


def _pack(
    container: Container, path: bytes, out: int, name: bytes, *, follow: bool, owners: bool, devices: bool
) -> tuple[int, int]:
    """Pack *path* of the container to *out*, where its files can be read; the archive's size, and how many were left
    out.
    """
    from lamina.engine.within import FIRST_FILE, inside, maps_of

    if b"\0" in path:
        raise InvalidInput("copy: a path cannot have a NUL in it")
    maps = maps_of(container.record)
    running = container.state in LIVING
    known = container.record.get("id_maps") or maps
    ids = None
    if (
        owners and known and (running or maps is not None)
    ):  # on disk root's have their own ids (runtime/stacks)
        uids, gids = (
            tuple((line["hostID"], line["containerID"], line["size"]) for line in known[key])
            for key in ("uidMappings", "gidMappings")
        )
        ids = Shown(uids, gids)
    asked = (path, name, follow, ids, devices)
    if running:
        with _root_of(container) as root:
            if maps is None:
                return pack_running(root, out, *asked)
            done: tuple[int, int] = inside(
                maps, pack_running, FIRST_FILE, FIRST_FILE + 1, *asked, files=(root, out)
            )
            return done
    said = f"copy {os.fsdecode(path)} of container {container.name}, which does not run"
    if not container.image_id:
        raise Unsupported(
            f"{said}: it is over this system",
            remedy="'lamina diff' shows what it did, 'lamina apply' does it",
        )
    if _in_volume(container, path):
        raise Unsupported(
            f"{said}: the path is in a mount, which is there while it runs", remedy="start it first"
        )
    stack = container.overlays()[0][1]
    if maps is None:
        return pack_stopped(stack, out, *asked)
    done = inside(maps, pack_stopped, stack, FIRST_FILE, *asked, files=(out,))
    return done


def _root_of(container: Container) -> Fd:
    """The root of the container's first process, and of no other that has its number now. Raises Conflict."""
    state = container.first_process
    if state is not None:
        pid = int(state["pid"])
        try:
            with pidfd_open(pid) as pidfd:
                root = Fd(os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
                if same_process(pid, state) and not ready(0, pidfd):  # looked at after it was opened
                    return root
                root.close()
        except (FileNotFoundError, ProcessLookupError):
            pass
    raise Conflict(
        f"copy from container {container.name}: it has just ended, or is being started", remedy="try it again"
    )


def _in_volume(container: Container, path: bytes) -> bool:
    """Whether the path, as it is written, is in something that is mounted while the container runs."""
    plain = os.path.normpath(b"/" + path.lstrip(b"/"))
    targets = [os.fsencode(volume["target"]) for volume in container.record.get("volumes") or ()]
    return any(plain == target or plain.startswith(target.rstrip(b"/") + b"/") for target in targets)


def _name_of(path: bytes) -> bytes:
    """What a copy of *path* is called in an archive, b"." for the content of a directory."""
    return b"." if path.endswith(b"/.") else os.path.basename(path.rstrip(b"/")) or b"."


# -- unpacking here


class _Packing(threading.Thread):
    """Packs into a pipe."""

    def __init__(self, container: Container, path: bytes, out: Fd, *, follow: bool, owners: bool) -> None:
        super().__init__(name="lamina-copy", daemon=True)
        self._container, self._path, self._out = container, path, out
        self._follow, self._owners = follow, owners
        self._failure: BaseException | None = None
        self.left_out = 0

    def run(self) -> None:
        try:
            with self._out:
                _, self.left_out = _pack(
                    self._container, self._path, self._out, _ITEM,
                    follow=self._follow, owners=self._owners, devices=False,
                )  # fmt: skip
        except BaseException as failure:
            self._failure = failure

    def check(self) -> None:
        """Raise what went wrong: an archive that ends early looks like one that is cut off."""
        self.join()
        failure, self._failure = self._failure, None
        if isinstance(failure, OSError) and not isinstance(failure, LaminaError):
            raise KernelError("copy", failure.errno or EIO, os.fsdecode(self._path)) from failure
        if failure is not None and not isinstance(failure, BrokenPipeError):
            raise failure


def _unpack(container: Container, path: bytes, stage: int, *, archive: bool, follow: bool) -> Copied:
    """What is at *path* becomes the entry `item` of the directory *stage*."""
    reading, writing = map(Fd, os.pipe2(os.O_CLOEXEC))
    with reading:
        packing = _Packing(container, path, writing, follow=follow, owners=archive)
        packing.start()
        try:
            applied = _extracted(reading, stage, archive=archive)
        except BaseException:
            reading.close()
            packing.check()
            raise
        packing.check()
    return Copied(applied, packing.left_out)


def _extracted(reading: int, stage: int, *, archive: bool) -> int:
    uid, gid, limits = os.geteuid(), os.getegid(), given()
    ids = None if archive else IdMap(((0, uid, 1),), ((0, gid, 1),))
    extractor = Extractor(stage, userxattr=uid != 0, ids=ids, limits=limits)
    os.fchmod(stage, 0o700)  # nobody else looks in before it is in its place
    closed: list[tuple[bytes, int]] = []
    try:
        for entry in entries(lambda: os.read(reading, 1 << 18), limits):
            if not archive:
                _as_ours(entry)
            if uid and entry.kind == "directory" and entry.mode & S_IRWXU != S_IRWXU:
                closed.append((entry.name, entry.mode))  # what is in it can be made in an open one only
                entry.mode |= S_IRWXU
            extractor.put(entry)
        done = extractor.finish()
    finally:
        extractor.close()
    for name, mode in reversed(closed):
        with openat2(stage, name, _DIRECTORY, resolve=PLAINLY) as directory:
            os.fchmod(directory, mode)
    return done.size


def _as_ours(entry: Entry) -> None:
    """The file becomes the caller's: then what runs with its owner's rights, or was granted to others, must not."""
    entry.uid = entry.gid = 0
    entry.mode &= ~SET_IDS
    entry.xattrs = {name: text for name, text in entry.xattrs.items() if name.startswith("user.")}


# -- putting it in its place


class _Destination:
    """Where a copy goes, and a directory of our own there to make it in. For a `with`.

    The destination may be shared with a container, as a bind mount: so its path is looked up once, and no name below it
    is used again but from the descriptor.
    """

    def __init__(self, target: bytes) -> None:
        """Raises NotFound where there is no directory for it, KernelError."""
        self._target, self._said = target, os.fsdecode(target)
        real = os.path.realpath(target)
        self._is_directory = os.path.isdir(real)
        above, self._name = (real, b"") if self._is_directory else os.path.split(real)
        try:
            self._above = openat2(AT_FDCWD, above, os.O_RDONLY | os.O_DIRECTORY, resolve=RESOLVE_NO_SYMLINKS)
        except KernelError as error:
            if error.errno not in (ENOENT, ENOTDIR):
                raise
            raise NotFound(f"copy to {self._said}: there is no directory {os.fsdecode(above)}") from error
        self._staged = b".lamina-cp-" + os.urandom(8).hex().encode()

    def __enter__(self) -> _Destination:
        try:
            os.mkdir(self._staged, 0o700, dir_fd=self._above)
            self.stage = Fd(os.open(self._staged, _DIRECTORY, dir_fd=self._above))
            status = os.fstat(self.stage)
            if status.st_uid != os.geteuid() or S_IMODE(status.st_mode) & 0o77 or os.listdir(self.stage):
                raise Conflict(f"copy to {self._said}: somebody exchanges the files there")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with self._above:
            if hasattr(self, "stage"):
                self.stage.close()
            remove_tree(b"/proc/self/fd/%d/%b" % (self._above, self._staged))

    def take(self, source: bytes) -> None:
        """Move what was copied from *source* to where docker's cp puts it. Raises Conflict, NotFound, OSError."""
        directory = S_ISDIR(os.stat(_ITEM, dir_fd=self.stage, follow_symlinks=False).st_mode)
        if self._is_directory:
            name = _name_of(source)
            if name in (b".", b".."):
                _merge(self.stage, _ITEM, self._above, self._said)
                return
        else:
            name = self._name
            self._check(directory)
        _move(self.stage, _ITEM, self._above, name, self._said)

    def _check(self, directory: bool) -> None:
        said = self._said
        try:
            there = os.stat(self._name, dir_fd=self._above, follow_symlinks=False)
        except FileNotFoundError:
            if is_directory(self._target) and not directory:
                raise NotFound(
                    f"copy to {said}: there is no such directory", remedy=f"mkdir {said}"
                ) from None
            return
        if is_directory(self._target):
            raise Conflict(f"copy to {said}: it is not a directory")
        if not directory and not S_ISREG(there.st_mode):
            raise Conflict(f"copy to {said}: it is neither a file nor a directory")


def _move(source: int, name: bytes, target: int, new: bytes, said: str) -> None:
    """The entry *name* of *source* becomes *new* of *target*; directories that are there already are filled."""
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    try:
        there = os.stat(new, dir_fd=target, follow_symlinks=False)
    except FileNotFoundError:
        there = None
    if there is not None and S_ISDIR(status.st_mode) != S_ISDIR(there.st_mode):
        what = (
            "a directory cannot take the place of a file" if S_ISDIR(status.st_mode) else "it is a directory"
        )
        raise Conflict(f"copy to {said}: {os.fsdecode(new)}: {what}")
    if there is not None and S_ISDIR(there.st_mode):
        with Fd(os.open(new, _DIRECTORY, dir_fd=target)) as directory:
            _merge(source, name, directory, said)
        return
    try:
        os.rename(name, new, src_dir_fd=source, dst_dir_fd=target)
    except PermissionError as error:
        if error.errno != EACCES or not S_ISDIR(status.st_mode):
            raise
        # a directory that may not be written to cannot get another parent: its ".." is changed
        with _opened_up(source, name) as moved:
            try:
                os.rename(name, new, src_dir_fd=source, dst_dir_fd=target)
            finally:
                os.fchmod(moved, S_IMODE(status.st_mode))


def _opened_up(above: int, name: bytes) -> Fd:
    """The directory *name* where nobody else has access, with all its owner may have."""
    if os.geteuid() != 0:
        os.chmod(name, S_IRWXU, dir_fd=above)
    return Fd(os.open(name, _DIRECTORY, dir_fd=above))


def _merge(source: int, name: bytes, directory: int, said: str) -> None:
    with _opened_up(source, name) as inside:
        for entry in sorted(map(os.fsencode, os.listdir(inside))):
            _move(inside, entry, directory, entry, said)
