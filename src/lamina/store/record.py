"""Records: small JSON documents, written whole or not at all.

Bytes that are not UTF-8 come back as they were: see `lamina.document`.
"""

from __future__ import annotations

import os

from lamina import document
from lamina.document import encode as encode  # for who compares records
from lamina.errors import Corrupt, InvalidInput
from lamina.linux.fd import owned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# a record that is larger was not written by us
LARGEST = 64 << 20
# nearly all are shorter
USUAL = 1 << 15


def decode(data: bytes, name: str) -> dict[str, Any]:
    """The record in *data*. Raises Corrupt, naming *name*, for anything but a JSON object."""
    import json

    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"read {name}: not a record: {error}") from None
    if not isinstance(record, dict):
        raise Corrupt(f"read {name}: not a record")
    return record


def write(directory: bytes, name: bytes, record: object) -> None:
    """Write *record* to the file *name* of *directory*: readers see the old record or the new one, whole; those after a
    power cut as well where durable.Batch does it.

    Only the holder of the directory's lock writes, so the stage needs no name of its own. Raises OSError.
    """
    stage = directory + b"/" + name + b".new"
    descriptor = os.open(stage, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)  # whatever the caller's umask
        data = (encode(record) + "\n").encode()
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        os.close(descriptor)
    os.rename(stage, directory + b"/" + name)


def read(directory: bytes, name: bytes) -> dict[str, Any] | None:
    """The record in the file *name* of *directory*, or None where there is none. Raises Corrupt, OSError."""
    return _read(directory + b"/" + name, decode)


def read_light(directory: bytes, name: bytes) -> dict[str, Any] | None:
    """As `read`, without importing json: for small records, on the way to a start."""
    return _read(directory + b"/" + name, decode_light)


def read_of(directory: bytes, name: bytes) -> dict[str, Any] | None:
    """The record without which *directory*, which comes and goes whole, is damaged; None where there is no directory.

    As `read_light`. Directories of that name may come and go meanwhile. Raises Corrupt, OSError.
    """
    while True:
        if (found := read_light(directory, name)) is not None:
            return found
        try:
            held = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:  # it has come this moment; or goes; or is one without
            if (found := read_light(b"/proc/self/fd/%d" % held, name)) is not None:
                return found
            if _is_still(directory, held):
                raise Corrupt(f"read {os.fsdecode(directory)}: there is no {os.fsdecode(name)} in it")
        finally:
            os.close(held)


def _is_still(directory: bytes, held: int) -> bool:
    try:
        return os.path.samestat(os.lstat(directory), os.fstat(held))
    except FileNotFoundError:
        return False


def decode_light(data: bytes, name: str) -> dict[str, Any]:
    """As `decode`, without importing json."""
    try:
        return document.decode(data, name)
    except InvalidInput as error:
        raise Corrupt(error.message.replace("not JSON", "not a record", 1)) from None


def check(
    record: dict[str, Any],
    kinds: dict[str, type | tuple[type, ...]],
    needed: tuple[str, ...],
    place: str,
) -> None:
    """Raises Corrupt where the *record* read at *place* lacks a *needed* field, or has one of another type than *kinds*
    says; null is none.
    """
    for field in needed:
        if record.get(field) is None:
            raise Corrupt(f"read {place}: there is no {field} in it")
    for field, found in record.items():
        kind = kinds.get(field)
        if kind is None or type(found) is kind or found is None:
            continue
        if not isinstance(found, kind) or isinstance(found, bool):
            raise Corrupt(f"read {place}: its {field} is not what it should be: {str(found)[:40]!r}")


def _read(path: bytes, parse: Callable[[bytes, str], dict[str, Any]]) -> dict[str, Any] | None:
    try:
        descriptor = owned(os.open, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with descriptor:
        return parse(content(descriptor, path), os.fsdecode(path))


def content(descriptor: int, path: bytes) -> bytes:
    """All of the record opened as *descriptor*. Raises Corrupt, OSError."""
    data = os.read(descriptor, USUAL)
    if len(data) < USUAL:  # of a file that is all there was
        return data
    size = os.fstat(descriptor).st_size
    if size > LARGEST:
        raise Corrupt(f"read {os.fsdecode(path)}: {size} bytes are too much for a record")
    while chunk := os.read(descriptor, 1 << 20):
        data += chunk
    return data


def make_durable(directory: bytes, *names: bytes) -> None:
    """Wait until the files *names* of *directory*, and their names, are on the disk. Missing files are none."""
    for name in (*names, b"."):
        try:
            descriptor = os.open(directory + b"/" + name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
