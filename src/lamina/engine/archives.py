"""Images and containers as archives: where they come from, and where they go."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack, contextmanager
from errno import EIO, ENOTDIR
from typing import TYPE_CHECKING

from lamina.engine.design import HOST
from lamina.engine.digesting import digested
from lamina.engine.images import Image, of_record
from lamina.engine.naming import resolve
from lamina.engine.storage import within_limit
from lamina.engine.unpacking import outside, packing, unpacking, words
from lamina.errors import Conflict, InvalidInput, KernelError, LaminaError, Unsupported
from lamina.image.archive import load as loading
from lamina.image.archive import save as saving
from lamina.image.archive.flat import import_ as import_flat
from lamina.image.archive.members import Archive, Directory
from lamina.image.archive.writing import Layout, Tar
from lamina.image.pack import pack_tree
from lamina.image.platform import parse as parse_platform
from lamina.image.reference import parse
from lamina.image.tar.limits import given
from lamina.linux.fd import Fd
from lamina.overlay.spec import MountSpec
from lamina.overlay.stack import Overlay
from lamina.store import images
from lamina.store.events import about, event, note
from lamina.store.scratch import Scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from os import PathLike

    from lamina.engine.container import Container
    from lamina.engine.image_verbs import LayerLimits
    from lamina.engine.parameters import Source
    from lamina.image.apply import IdMap
    from lamina.image.archive.members import Members
    from lamina.image.platform import Platform
    from lamina.image.tar.limits import Limits
    from lamina.store.root import Store

    Events = Callable[..., None]

FORMS = ("docker-archive", "oci-archive", "oci-dir")


def load(
    store: Store,
    source: Source,
    platform: str | None,
    events: Events | None,
    limits: LayerLimits | None = None,
) -> list[Image]:
    """See `Engine.load`."""
    wanted, allowed = _platform(platform), given(wanted=limits)
    with _members(store, source, allowed) as members:
        records = loading.load(store, members, wanted, events, unpacking(allowed))
    note(store, *[event("image", "load", f"sha256:{record.id}") for record in records])
    within_limit(store, [record.id for record in records], events)
    return [of_record(store, record) for record in records]


def save(store: Store, references: Sequence[str], target: Source, form: str, events: Events | None) -> None:
    """See `Engine.save`."""
    if form not in FORMS:
        raise InvalidInput(f"save: there is no form {form!r}", remedy=", ".join(FORMS))
    if not references:
        raise InvalidInput("save: no image is named", remedy="'lamina images' lists what there is")
    with ExitStack() as stack:
        wanted: dict[str, tuple[images.Held, list[str]]] = {}
        for reference in references:
            record, name = resolve(store, reference)
            record = digested(store, record, events)
            if record.id not in wanted:
                wanted[record.id] = (stack.enter_context(images.hold(store, record.id)), [])
            if name is not None and parse(name).digest is None and name not in wanted[record.id][1]:
                wanted[record.id][1].append(name)
        chosen = [(held.record, names) for held, names in wanted.values()]
        saved = [event("image", "save", f"sha256:{record.id}") for record, _ in chosen]
        if form == "oci-dir":
            if isinstance(target, int) or hasattr(target, "fileno"):
                raise InvalidInput(
                    "save: a directory has to be named for oci-dir",
                    remedy="-o DIRECTORY names it; oci-archive can go through a pipe",
                )
            saving.save(
                store, chosen, Layout(os.fspath(target)), docker=False, events=events, packing=packing()
            )
            note(store, *saved)
            return
        with _written(target) as descriptor:
            saving.save(
                store,
                chosen,
                Tar(descriptor),
                docker=form == "docker-archive",
                events=events,
                packing=packing(),
            )
        note(store, *saved)


def import_(
    store: Store,
    source: Source,
    name: str | None,
    changes: Sequence[str],
    message: str,
    platform: str | None,
    events: Events | None,
    limits: LayerLimits | None = None,
) -> Image:
    """See `Engine.import_`."""
    wanted = _platform(platform)
    canonical = None if name is None else tag_of(name)
    with _opened(source) as descriptor:
        record = import_flat(
            store, Reading(descriptor), canonical, changes=changes, message=message, platform=wanted, events=events,
            unpacking=unpacking(given(wanted=limits)),
        )  # fmt: skip
    _note_import(store, record)
    within_limit(store, [record.id], events)
    return of_record(store, record)


def from_directory(
    store: Store,
    directory: str | PathLike[str],
    name: str | None,
    changes: Sequence[str],
    message: str,
    platform: str | None,
    limits: LayerLimits | None = None,
) -> Image:
    """See `Engine.from_directory`. One thread packs, this one unpacks: nothing is kept in between."""
    wanted = _platform(platform)
    canonical = None if name is None else tag_of(name)
    path = os.path.abspath(directory)
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        number = error.errno or 0
        remedy = "'lamina import' takes archives" if number == ENOTDIR else ""
        raise InvalidInput(f"make image of {path}: {os.strerror(number).lower()}", remedy=remedy) from None
    said = message or f"Made of the directory {os.path.basename(path)}"

    def pack(out: Fd) -> None:
        found = words()
        with Overlay(MountSpec((os.fsencode(path),))).open() as tree:
            pack_tree(tree, Writing(out), ids=outside(found["ids"]) if found else None)

    with packed(pack, path) as packer:
        record = import_flat(
            store, Reading(packer.reading), canonical, changes=changes, message=said, platform=wanted,
            unpacking=unpacking(given(wanted=limits)), before=packer.check,
        )  # fmt: skip
    _note_import(store, record)
    within_limit(store, [record.id])
    return of_record(store, record)


@contextmanager
def packed(pack: Callable[[Fd], object], what: str) -> Iterator[Packer]:
    """What *pack* writes into a pipe, by a thread of its own, to be read meanwhile. Its failure, an OSError being about
    *what*, counts for more than that of whoever reads, to whom the archive has merely ended.
    """
    reading, writing = map(Fd, os.pipe2(os.O_CLOEXEC))
    with reading:
        packer = Packer(pack, what, reading, writing)
        packer.start()
        try:
            yield packer
        except BaseException:
            reading.close()
            packer.join()
            packer.check()
            raise
        packer.join()


class Packer(threading.Thread):
    """The thread of `packed`. `reading` is the end of the pipe that is read."""

    def __init__(self, pack: Callable[[Fd], object], what: str, reading: Fd, writing: Fd) -> None:
        super().__init__(name="lamina-pack", daemon=True)
        self.reading = reading
        self._pack, self._what, self._writing = pack, what, writing
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Pack; what goes wrong is kept for `check`."""
        try:
            with self._writing:
                self._pack(self._writing)
        except BrokenPipeError:
            pass  # whoever unpacks says why
        except BaseException as failure:
            self._failure = failure

    def check(self) -> None:
        """Raise what went wrong: an archive that ends early looks like one that is cut off."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            if isinstance(failure, OSError) and not isinstance(failure, LaminaError):
                raise KernelError("read", failure.errno or EIO, self._what) from failure
            raise failure


def export(container: Container, target: Source) -> None:
    """See `Engine.export`."""
    stacks = container.overlays()
    if not container.image_id:
        raise Unsupported(
            f"export container {container.name}: it is over this machine, of which an archive would be a copy",
            remedy="'lamina diff' shows what it did; 'lamina apply' does it",
        )
    spec = stacks[0][1]
    found = words()
    note(container.store, about(container.record, "export"))
    with _written(target) as descriptor:
        if not found:
            with Overlay(spec).open() as tree:
                pack_tree(tree, Writing(descriptor))
            return
        scratch = Scratch(container.store)
        try:
            path = scratch.path + b"/export.tar"
            found["within"](export_file, spec, path, outside(found["ids"]))
            with open(path, "rb") as file:
                while data := file.read(1 << 20):
                    Writing(descriptor).write(data)
        finally:
            scratch.remove()


def export_file(spec: MountSpec, path: bytes, ids: IdMap) -> None:
    """Write what the stack shows to the new file *path*: where its files can be read."""
    with open(path, "xb") as file, Overlay(spec).open() as tree:
        pack_tree(tree, file, ids=ids)


def _note_import(store: Store, record: images.ImageRecord) -> None:
    note(store, event("image", "import", f"sha256:{record.id}"))


def tag_of(name: str) -> str:
    """The canonical form of a *name* that is to be given to an image. Raises InvalidReference, InvalidInput."""
    if name == HOST:
        raise Conflict(f"name {name}: 'run host' is always this system", remedy="take another name")
    reference = parse(name)
    if reference.digest is not None:
        raise InvalidInput(
            f"name {name}: a digest cannot be given, it is found out",
            remedy="leave out the @ and what follows",
        )
    return reference.canonical


def _platform(text: str | None) -> Platform | None:
    return None if text is None else parse_platform(text)


class Writing:
    """A descriptor to write to."""

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor

    def write(self, data: bytes, /) -> None:
        """Write all of *data*. Raises BrokenPipeError, KernelError."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise KernelError("write", error.errno or EIO, "archive") from error


class Reading:
    """A descriptor as a stream of bytes."""

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor

    def read(self, size: int, /) -> bytes:
        """At most *size* bytes, b"" at the end."""
        return os.read(self._fd, size)


@contextmanager
def _members(store: Store, source: Source, limits: Limits) -> Iterator[Members]:
    if isinstance(source, (str, os.PathLike)) and os.path.isdir(source):
        with Directory(os.fspath(source)) as directory:
            yield directory
        return
    with _opened(source) as descriptor, Archive(store, descriptor, limits) as archive:
        yield archive


@contextmanager
def _opened(source: Source) -> Iterator[int]:
    """A descriptor of what is to be read. Raises KernelError."""
    if isinstance(source, int):
        yield source
        return
    if not isinstance(source, (str, os.PathLike)):
        yield source.fileno()
        return
    try:
        opened = Fd(os.open(source, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise KernelError("open", error.errno or EIO, os.fspath(source)) from error
    with opened:
        yield opened


@contextmanager
def _written(target: Source) -> Iterator[int]:
    """A descriptor to write to; a file of that path appears when everything was written. Raises KernelError."""
    if isinstance(target, int):
        yield target
        return
    if not isinstance(target, (str, os.PathLike)):
        yield target.fileno()
        return
    path = os.fspath(target)
    if os.path.lexists(path) and not os.path.isfile(path):  # a pipe, a device
        with _opened_for_writing(path, 0) as descriptor:
            yield descriptor
        return
    stage = f"{path}.lamina-{os.urandom(4).hex()}"
    with _opened_for_writing(stage, os.O_CREAT | os.O_EXCL, path) as descriptor:
        try:
            yield descriptor
            os.rename(stage, path)
        except BaseException:
            os.unlink(stage)
            raise


def _opened_for_writing(path: str, flags: int, named: str = "") -> Fd:
    """*named* is what an error calls it."""
    try:
        return Fd(os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o666))
    except OSError as error:
        raise KernelError("write", error.errno or EIO, named or path) from error
