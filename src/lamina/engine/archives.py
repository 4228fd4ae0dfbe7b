"""Images and containers as archives: where they come from, and where they go."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from errno import EIO
from typing import TYPE_CHECKING

from lamina.engine.images import Image, image
from lamina.engine.naming import resolve
from lamina.engine.unpacking import unpacking
from lamina.errors import InvalidInput, KernelError
from lamina.image.archive import load as loading
from lamina.image.archive import save as saving
from lamina.image.archive.flat import import_ as import_flat
from lamina.image.archive.members import Archive, Directory
from lamina.image.archive.writing import Layout, Tar
from lamina.image.platform import parse as parse_platform
from lamina.image.reference import parse
from lamina.linux.fd import Fd
from lamina.store import images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lamina.engine.engine import Source
    from lamina.image.archive.members import Members
    from lamina.image.platform import Platform
    from lamina.store.root import Store

    Events = Callable[..., None]

FORMS = ("docker-archive", "oci-archive", "oci-dir")


def load(store: Store, source: Source, platform: str | None, events: Events | None) -> list[Image]:
    """See `Engine.load`."""
    wanted = _platform(platform)
    with _members(store, source) as members:
        records = loading.load(store, members, wanted, events, unpacking())
    return [image(store, f"sha256:{record.id}") for record in records]


def save(store: Store, references: Sequence[str], target: Source, form: str, events: Events | None) -> None:
    """See `Engine.save`."""
    if form not in FORMS:
        raise InvalidInput(f"save: there is no form {form!r}", remedy=", ".join(FORMS))
    if not references:
        raise InvalidInput("save: no image is named")
    with ExitStack() as stack:
        wanted: dict[str, tuple[images.Held, list[str]]] = {}
        for reference in references:
            record, name = resolve(store, reference)
            if record.id not in wanted:
                wanted[record.id] = (stack.enter_context(images.hold(store, record.id)), [])
            if name is not None and parse(name).digest is None and name not in wanted[record.id][1]:
                wanted[record.id][1].append(name)
        chosen = [(held.record, names) for held, names in wanted.values()]
        if form == "oci-dir":
            if isinstance(target, int) or hasattr(target, "fileno"):
                raise InvalidInput("save: a directory has to be named for oci-dir")
            saving.save(store, chosen, Layout(os.fspath(target)), docker=False, events=events)
            return
        with _written(target) as descriptor:
            saving.save(store, chosen, Tar(descriptor), docker=form == "docker-archive", events=events)


def import_(
    store: Store,
    source: Source,
    name: str | None,
    changes: Sequence[str],
    message: str,
    platform: str | None,
    events: Events | None,
) -> Image:
    """See `Engine.import_`."""
    wanted = _platform(platform)
    canonical = None if name is None else _tag(name)
    with _opened(source) as descriptor:
        record = import_flat(
            store, Reading(descriptor), canonical, changes=changes, message=message, platform=wanted, events=events,
            unpacking=unpacking(),
        )  # fmt: skip
    return image(store, f"sha256:{record.id}")


def _tag(name: str) -> str:
    reference = parse(name)
    if reference.digest is not None:
        raise InvalidInput(f"name {name}: a digest cannot be given, it is found out")
    return reference.canonical


def _platform(text: str | None) -> Platform | None:
    return None if text is None else parse_platform(text)


class Reading:
    """A descriptor as a stream of bytes."""

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor

    def read(self, size: int, /) -> bytes:
        """At most *size* bytes, b"" at the end."""
        return os.read(self._fd, size)


@contextmanager
def _members(store: Store, source: Source) -> Iterator[Members]:
    if isinstance(source, (str, os.PathLike)) and os.path.isdir(source):
        with Directory(os.fspath(source)) as directory:
            yield directory
        return
    with _opened(source) as descriptor, Archive(store, descriptor) as archive:
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
    with _opened_for_writing(stage, os.O_CREAT | os.O_EXCL) as descriptor:
        try:
            yield descriptor
            os.rename(stage, path)
        except BaseException:
            os.unlink(stage)
            raise


def _opened_for_writing(path: str, flags: int) -> Fd:
    try:
        return Fd(os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o666))
    except OSError as error:
        raise KernelError("write", error.errno or EIO, path) from error
