"""The digest of a layer's tree, by which damage to it is found later.

A tar's digest cannot be made again from the tree alone: the order of its entries, its format and padding are not in
there. So the first `check --rehash` seals a layer: it writes down the digest of everything in the tree (names, types,
modes, owners, sizes, times of change, extended attributes, links, contents), and the next ones compare. Where the
layer's tar can be made again (image/pack/again.py), whoever calls `check` proves the contents by that as well, which
finds what was damaged before there was a seal.
"""

from __future__ import annotations

import os
import stat

from lamina.store import record
from lamina.store.digest import hasher
from lamina.store.durable import write_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.store.digest import Hasher

FILE = b"seal.json"
_AT_ONCE = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def tree_digest(path: bytes) -> str:
    """The digest of the tree *path*: the same wherever the same tree lies. Links are not followed. Raises OSError.

    One directory is open at a time: what a container has written may be deeper than a program has descriptors or calls.
    """
    hashed = hasher()
    links: dict[tuple[int, int], bytes] = {}
    here = os.open(path, _DIRECTORY)
    try:
        _entry(hashed, b".", os.fstat(here), b"/proc/self/fd/%d" % here)
        waiting = [(b"", _names(here))]
        while waiting:
            above, names = waiting[-1]
            if not names:
                waiting.pop()
                if waiting:
                    here = _moved(here, b"..")
            elif _is_directory(hashed, here, above, name := names.pop(), links):
                here = _moved(here, name)
                waiting.append((above + name + b"/", _names(here)))
    finally:
        os.close(here)
    return f"sha256:{hashed.hexdigest()}"


def _names(directory: int) -> list[bytes]:
    """What is in it, the first one last."""
    return sorted(map(os.fsencode, os.listdir(directory)), reverse=True)


def _moved(here: int, name: bytes) -> int:
    there = os.open(name, _DIRECTORY, dir_fd=here)
    os.close(here)
    return there


def _is_directory(
    hashed: Hasher, here: int, above: bytes, name: bytes, links: dict[tuple[int, int], bytes]
) -> bool:
    """Hash the entry *name*; whether it is a directory, whose own entries come next."""
    status = os.stat(name, dir_fd=here, follow_symlinks=False)
    path = above + name
    if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
        first = links.setdefault((status.st_dev, status.st_ino), path)
        if first != path:
            _field(hashed, b"hard link", path, first)
            return False
    _entry(hashed, path, status, b"/proc/self/fd/%d/%b" % (here, name))
    if stat.S_ISREG(status.st_mode):
        _content(hashed, name, here)
    elif stat.S_ISLNK(status.st_mode):
        _field(hashed, b"target", os.readlink(name, dir_fd=here))
    return stat.S_ISDIR(status.st_mode)


def _entry(hashed: Hasher, path: bytes, status: os.stat_result, place: bytes) -> None:
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    facts = (status.st_mode, status.st_uid, status.st_gid, size, status.st_mtime_ns, status.st_rdev)
    _field(hashed, path, b" ".join([b"%d" % fact for fact in facts]))
    follow = path == b"."  # /proc/self/fd is a link by itself
    for name in sorted(os.listxattr(place, follow_symlinks=follow)):
        _field(hashed, b"xattr", os.fsencode(name), os.getxattr(place, name, follow_symlinks=follow))


def _content(hashed: Hasher, name: bytes, directory: int) -> None:
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME | os.O_CLOEXEC, dir_fd=directory)
    try:
        while data := os.read(file, _AT_ONCE):
            hashed.update(data)
    finally:
        os.close(file)


def _field(hashed: Hasher, *parts: bytes) -> None:
    for part in parts:
        hashed.update(b"%d:%s," % (len(part), part))


def sealed(place: bytes) -> str | None:
    """The digest that was written down for the layer in the directory *place*. Raises Corrupt, OSError."""
    found = record.read_light(place, FILE)
    digest = None if found is None else found.get("tree")
    return digest if isinstance(digest, str) else None


def seal(place: bytes, digest: str) -> None:
    """Write down the digest of the layer in the directory *place*. Raises OSError."""
    write_record(place, FILE, {"tree": digest}, what="seal")
