"""Records: small JSON documents, written whole or not at all.

Writing is on the path of every start, so it does without the json package (its import costs 6 ms); reading is not.
Bytes that are not UTF-8 (a path, an argument) live in strings as Python's surrogate escapes do, and in the file as
the JSON escape of such a surrogate: `os.fsencode` of what was read gives the bytes back.
"""

from __future__ import annotations

import os
from _json import encode_basestring_ascii as _quote

from lamina.errors import Corrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# a record that is larger was not written by us
LARGEST = 64 << 20


def encode(value: object) -> str:
    """*value* (dicts with string keys, lists, tuples, str, bytes, int, float, bool, None) as JSON text.

    Bytes are written as the string `os.fsdecode` makes of them. Raises TypeError for anything else.
    """
    kind = type(value)
    if kind is str:
        return _quote(value)  # type: ignore[arg-type]
    if kind is bytes:
        return _quote(os.fsdecode(value))  # type: ignore[arg-type]
    if value is None or kind is bool:
        return {None: "null", True: "true", False: "false"}[value]  # type: ignore[index]
    if isinstance(value, int):
        return int.__repr__(value)
    if kind is dict:
        return "{" + ",".join([_quote(k) + ":" + encode(v) for k, v in value.items()]) + "}"  # type: ignore[attr-defined]
    if kind is list or kind is tuple:
        return "[" + ",".join([encode(item) for item in value]) + "]"  # type: ignore[attr-defined]
    if kind is float and value - value == 0:  # type: ignore[operator]
        return float.__repr__(value)
    raise TypeError(f"a record cannot hold {value!r}")


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
    """Write *record* to the file *name* of *directory*: readers see the old record or the new one, whole.

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
    path = directory + b"/" + name
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        size = os.fstat(descriptor).st_size
        if size > LARGEST:
            raise Corrupt(f"read {os.fsdecode(path)}: {size} bytes are too much for a record")
        data = b""
        while chunk := os.read(descriptor, 1 << 20):
            data += chunk
    finally:
        os.close(descriptor)
    return decode(data, os.fsdecode(path))


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
