"""Names of images, and what people type for one.

A name is kept in its canonical form, `docker.io/library/debian:12`; how it is read is lamina.image.reference's matter.
`quick_name` knows the plain ones, so that a start need not import that.
"""

from __future__ import annotations

import os
import time

from lamina.errors import Conflict, Corrupt, InvalidInput
from lamina.store.digest import check_digest
from lamina.store.images import ImageRecord, check_id, get, no_such, place_of, turn
from lamina.store.names import is_id, is_id_prefix, only_one
from lamina.store.record import read_light
from lamina.store.root import raise_storage_error
from lamina.store.trace import point
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from lamina.store.durable import Batch
    from lamina.store.root import Store

if TYPE_CHECKING:
    from hashlib import sha256
else:  # a start looks a name up, and hashlib loads OpenSSL for it: milliseconds
    try:
        from _sha2 import sha256
    except ImportError:
        try:
            from _sha256 import sha256  # Python 3.11
        except ImportError:
            from hashlib import sha256

LONGEST_NAME = 1024
_REPAIR = "'lamina system check --repair' takes it away; then tag the image again"
_ALNUM = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_PATH = _ALNUM | frozenset("._-")
_HOST = _ALNUM | frozenset(".-")
_DIGITS = frozenset("0123456789")
_TAG_FIRST = _ALNUM | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_TAG = _TAG_FIRST | frozenset(".-")


@value
class ImageName:
    """A name in its canonical form, the id it stands for, the digests under which its registry knows it, and when it
    was given (nanoseconds since 1970).
    """

    name: str
    id: str
    digests: tuple[str, ...]
    when: int


def check_name(name: str) -> str:
    """*name*, if it may be kept as one; its grammar is lamina.image.reference's. Raises InvalidInput."""
    if not name or len(name) > LONGEST_NAME or not name.isascii() or not name.isprintable() or " " in name:
        raise InvalidInput(f"image name {name[:200]!r}: not a name")
    return name


def file_of(name: str) -> bytes:
    """The file of a canonical name: names have slashes, and may be longer than a file's."""
    return sha256(name.encode()).hexdigest().encode() + b".json"


def find_name(store: Store, name: str) -> ImageName | None:
    """What the canonical *name* stands for, None if for nothing. Raises InvalidInput, Corrupt, KernelError."""
    directory, file = store.images + b"/names", file_of(check_name(name))
    try:
        found = read_light(directory, file)
    except OSError as error:
        raise_storage_error(error, "read image name", directory + b"/" + file)
    if found is None:
        return None
    read = decode_name(found, file)
    # its record went in the moment between, or a power cut came between
    return read if os.path.lexists(place_of(store, read.id)) else None


def decode_name(found: dict[str, Any], file: bytes) -> ImageName:
    """The name in the file called *file*. Raises Corrupt."""
    try:
        read = ImageName(
            name=check_name(found["name"]),
            id=check_id(found["id"]),
            digests=tuple([check_digest(digest) for digest in found["digests"]]),
            when=int(found["when"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt(f"image name {os.fsdecode(file)[:12]}: damaged: {error}", remedy=_REPAIR) from None
    if file_of(read.name) != file:
        raise Corrupt(f"image name {read.name}: in a file that is another name's", remedy=_REPAIR)
    return read


def named(store: Store, name: str) -> str | None:
    """The id that the canonical *name* stands for, or None. Raises InvalidInput, Corrupt, KernelError."""
    found = find_name(store, name)
    return None if found is None else found.id


def list_names(store: Store) -> Iterator[ImageName]:
    """All names, in no order; those that are damaged are left to `check`. Raises KernelError."""
    directory = store.images + b"/names"
    for entry in os.listdir(directory):
        if not entry.endswith(b".json"):
            continue
        try:
            found = read_light(directory, entry)
            if found is not None:
                yield decode_name(found, entry)
        except Corrupt:
            continue
        except OSError as error:
            raise_storage_error(error, "read image name", directory + b"/" + entry)


def tag(store: Store, name: str, identity: str, digests: Iterable[str] = ()) -> None:
    """Let the canonical *name* stand for the image, whatever it stood for before.

    *digests* are those under which the name's registry knows it. Raises NotFound, InvalidInput, KernelError.
    """
    from lamina.store.successors import current

    digests = [check_digest(digest) for digest in digests]
    check_name(name)
    try:
        with turn(store):
            write(store, name, current(store, identity), digests)
    except OSError as error:
        raise_storage_error(error, f"tag {name}", store.images)


def write(
    store: Store, name: str, identity: str, digests: Iterable[str] = (), batch: Batch | None = None
) -> None:
    """As `tag`, for the holder of the turn, who has looked whether the image is there, or will be before the name is
    when *batch* is published. Raises OSError.
    """
    from lamina.store.durable import Batch as Own

    known: tuple[str, ...] = ()
    try:
        old = find_name(store, name)
        if old is not None and old.id == identity:
            known = old.digests
        elif old is not None and batch is not None:
            batch.publish()  # a power cut may take none of the images away that it stands for
    except Corrupt:
        pass
    content = encoded(name, identity, dict.fromkeys((*digests, *known)))
    own = batch or Own()
    own.write(store.images + b"/names", file_of(name), content, what="name")
    if batch is None:
        own.publish()


def encoded(name: str, identity: str, digests: Iterable[str] = ()) -> dict[str, Any]:
    """The content of the file of a name that is given now."""
    return {"name": name, "id": identity, "digests": list(digests), "when": time.time_ns()}


def untag(store: Store, name: str, identity: str | None = None) -> str:
    """Let the canonical *name* stand for nothing; the id that it stood for.

    With *identity*, only if it stands for that. Raises NotFound, Conflict, InvalidInput, KernelError.
    """
    from lamina.store.durable import sync_directory

    try:
        with turn(store):
            found = find_name(store, name)
            if found is None:
                raise no_such(name)
            if identity not in (None, found.id):
                raise Conflict(f"untag {name}: it stands for image {found.id[:12]} by now")
            unlink(store, name)
            sync_directory(store.images + b"/names", what="name")
            return found.id
    except OSError as error:
        raise_storage_error(error, f"untag {name}", store.images)


def unlink(store: Store, name: str) -> None:
    """As `untag`, for the holder of the turn, who syncs in the end. Raises OSError."""
    point("name.unlink")
    try:
        os.unlink(store.images + b"/names/" + file_of(name))
    except FileNotFoundError:
        pass


def resolve(store: Store, text: str, name: str | None = "") -> tuple[ImageRecord, str | None]:
    """The image that *text* means, and the canonical name by which it was found.

    *name* is *text* in canonical form as the caller understands it, None if it cannot be a name; "" for `quick_name`.
    A whole id, with or without `sha256:`, comes before a name, and a name before the beginning of an id, as in docker.
    Raises NotFound, InvalidInput (several ids begin so), Corrupt, KernelError.
    """
    digits = text.removeprefix("sha256:")
    if is_id(digits):
        record = get(store, digits)
        if record is None:
            raise no_such(text)
        return record, None
    name = quick_name(text) if name == "" else name
    identity = None if name is None else named(store, name)
    if identity is not None and (record := get(store, identity)) is not None:
        return record, name
    if is_id_prefix(digits):
        from lamina.store.successors import known

        identity = only_one("image", digits, known(store))
        if identity is not None and (record := get(store, identity)) is not None:
            return record, None
    raise no_such(text)


def quick_name(text: str) -> str | None:
    """The canonical form of a plain name: `debian`, `debian:12`, `team/tool`, `host:5000/team/tool:tag`.

    None for anything that is less plain, right or wrong: that is for lamina.image.reference, which agrees on these.
    (distribution/reference, "familiar names".)
    """
    if "@" in text:
        return None
    above, slash, last = text.rpartition("/")
    last, colon, tag = last.partition(":")
    if not colon:
        tag = "latest"
    if not (0 < len(tag) <= 128 and tag[0] in _TAG_FIRST and _TAG.issuperset(tag)):
        return None
    parts = [*above.split("/"), last] if slash else [last]
    host = "docker.io"
    if len(parts) > 1 and ("." in parts[0] or ":" in parts[0] or parts[0] == "localhost"):
        host = parts.pop(0)
        name, colon, port = host.partition(":")
        if not _plain(name, _HOST) or (colon and not (port and _DIGITS.issuperset(port))):
            return None
        if host == "index.docker.io":
            host = "docker.io"
    if not all(_plain(part, _PATH) for part in parts) or (len(parts) == 1 and is_id(last)):
        return None
    if host == "docker.io" and len(parts) == 1:
        parts.insert(0, "library")
    path = "/".join(parts)
    return f"{host}/{path}:{tag}" if len(path) <= 255 else None


def _plain(part: str, allowed: frozenset[str]) -> bool:
    """Letters and digits, with single separators between them."""
    if not part or not allowed.issuperset(part) or part[0] not in _ALNUM or part[-1] not in _ALNUM:
        return False
    return all(part[n] in _ALNUM or part[n - 1] in _ALNUM for n in range(1, len(part)))


def sweep(store: Store) -> None:
    """Remove what those who were killed left beside records and names, and what stands for images that are gone.

    Raises OSError.
    """
    from lamina.store import lock, pins, successors
    from lamina.store.durable import NEW

    with turn(store):
        successors.sweep(store)
        for below in (b"records", b"names"):
            directory = store.images + b"/" + below
            for entry in os.listdir(directory):
                if not entry.endswith(NEW):
                    continue
                try:  # locked: of somebody who waits for the turn (coming_image.py)
                    left = lock.take(directory + b"/" + entry, lock.LOCK_EX, wait=False)
                except FileNotFoundError:  # who has given up
                    continue
                if left is not None:
                    with left:
                        os.unlink(directory + b"/" + entry)
        for found in list_names(store):
            if not os.path.lexists(place_of(store, found.id)):
                unlink(store, found.name)
        pins.sweep(store)
