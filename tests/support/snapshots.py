"""Everything there is to see of a tree, as plain values that can be compared.

`snapshot` looks at a directory by descriptors, `snapshot_tree` at a `lamina.overlay.tree.Tree`. Both are {path:
record}; a record is a tuple of what lstat(2), read, readlink and the xattrs say (FIELDS), or ("errno", name).
`copy_tree` writes what a Tree shows to a plain directory, independently of `lamina.overlay.apply`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from typing import Any

from lamina.overlay.tree import Tree

Record = tuple[Any, ...]
Snapshot = dict[bytes, Record]
Inodes = dict[bytes, tuple[int, int]]  # device and number of what is not a directory, by path


def _record(status: os.stat_result, payload: Any, attributes: Any) -> Record:
    directory = stat.S_ISDIR(status.st_mode)
    return (
        oct(status.st_mode), status.st_uid, status.st_gid, status.st_nlink, None if directory else status.st_size,
        status.st_mtime_ns, status.st_ctime_ns, status.st_rdev, payload, attributes,
    )  # fmt: skip


CTIME = frozenset({"ctime"})
FIELDS = ("mode", "uid", "gid", "nlink", "size", "mtime", "ctime", "rdev", "payload", "xattrs")


def errno_of(call: Callable[[], Any]) -> Any:
    """What *call* returns, or ("errno", name) of what it raised."""
    try:
        return call()
    except OSError as error:
        return ("errno", errno.errorcode[error.errno or 0])


def snapshot(root: bytes, broken: Iterable[bytes] = (), inodes: Inodes | None = None) -> Snapshot:
    """Everything below a directory, by descriptors: entries that cannot be looked up have their errno as record.

    Whether a mount lists these depends on what it has cached, so they are not in listings; *broken* are paths to
    ask for even if they are not listed, or if nothing is for their sake. Nor are names that are listed but not
    there: a whiteout that hides nothing. *inodes* is filled.
    """
    found: Snapshot = {}
    inodes = {} if inodes is None else inodes
    asked: dict[bytes, set[bytes]] = {}
    for path in broken:
        asked.setdefault(os.path.dirname(path), set()).add(os.path.basename(path))
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _snapshot(fd, b"", found, asked, inodes)
    finally:
        os.close(fd)
    return found


def _snapshot(fd: int, path: bytes, found: Snapshot, asked: dict[bytes, set[bytes]], inodes: Inodes) -> None:
    said = listed(fd)
    names = (said if isinstance(said, set) else set()) | asked.get(path, set())
    payload = []
    for name in sorted(names):
        below = _join(path, name)
        record = _entry(fd, name, below, found, asked, inodes)
        if isinstance(record, tuple) and record[0] == "errno":
            if record[1] != "ENOENT":
                found[below] = record
        else:
            payload.append(name)
            if record is not None:
                found[below] = record
    # it cannot be listed for another reason than that one of the files asked for cannot be looked up
    unknown = isinstance(said, tuple) and all(found.get(_join(path, name)) != said for name in names)
    found[path] = _record(os.fstat(fd), said if unknown else payload, _xattrs(b"/proc/self/fd/%d" % fd, True))


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name


def listed(fd: int) -> Any:
    """The names in a directory, or what listing it raises for good.

    Of a directory that may hold whiteouts of the xattr form the kernel looks every file up, and leaves out what cannot
    be; but it reports that once, as an error of this listing or not at all, as the names happen to follow each other.
    An impure directory, which is said to hold files that were copied up, it never lists with such a file in it.
    """
    for _ in range(50):
        names = errno_of(lambda: set(map(os.fsencode, os.listdir(fd))))
        if isinstance(names, set):
            break
    return names


def _entry(
    fd: int, name: bytes, path: bytes, found: Snapshot, asked: dict[bytes, set[bytes]], inodes: Inodes
) -> Record | None:
    status = errno_of(lambda: os.stat(name, dir_fd=fd, follow_symlinks=False))
    if not isinstance(status, os.stat_result):
        return status  # type: ignore[no-any-return]
    payload: Any = None
    if stat.S_ISDIR(status.st_mode):
        inner = errno_of(lambda: os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd))
        if isinstance(inner, tuple):
            return inner
        try:
            _snapshot(inner, path, found, asked, inodes)
        finally:
            os.close(inner)
        return None
    inodes[path] = status.st_dev, status.st_ino
    if stat.S_ISREG(status.st_mode):
        payload = errno_of(lambda: _read(fd, name))
    elif stat.S_ISLNK(status.st_mode):
        payload = os.readlink(name, dir_fd=fd)
    return _record(status, payload, _xattrs(b"/proc/self/fd/%d/%b" % (fd, name), False))


def broken(found: Snapshot) -> list[bytes]:
    """The entries of a snapshot that cannot be looked up."""
    return [path for path, record in found.items() if record[0] == "errno"]


def beside_broken(found: Snapshot) -> list[bytes]:
    """These and what is in the same directories: what a mount does not list because of them must be asked for."""
    directories = {os.path.dirname(path) for path in broken(found)}
    return [path for path in found if path and os.path.dirname(path) in directories]


def _read(fd: int, name: bytes) -> bytes:
    with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd), "rb") as file:
        return file.read()


def _xattrs(place: bytes, follow: bool) -> Any:
    listed = errno_of(lambda: sorted(os.listxattr(place, follow_symlinks=follow)))
    if isinstance(listed, tuple):
        return listed
    return [(key, errno_of(lambda: os.getxattr(place, key, follow_symlinks=follow))) for key in listed]  # noqa: B023


def snapshot_tree(tree: Tree) -> Snapshot:
    """The same through Lamina."""
    found: Snapshot = {}
    pending = [(b"", tree)]
    while pending:
        path, node = pending.pop()
        status = errno_of(node.lstat)
        if isinstance(status, tuple) and status[0] == "errno":
            found[path] = status
            continue
        payload: Any = None
        if stat.S_ISDIR(status.st_mode):
            children = errno_of(lambda: list(node.iterdir()))  # noqa: B023
            if isinstance(children, list):
                payload = [c.parts[-1] for c in children if isinstance(errno_of(c.lstat), os.stat_result)]
                pending += [
                    (path + b"/" + child.parts[-1] if path else child.parts[-1], child) for child in children
                ]
            else:
                payload = children
        elif stat.S_ISREG(status.st_mode):
            payload = errno_of(node.read_bytes)
        elif stat.S_ISLNK(status.st_mode):
            payload = node.readlink_bytes()
        attributes = [
            (key, errno_of(lambda: node.getxattr(key, follow_symlinks=False)))  # noqa: B023
            for key in node.listxattr(follow_symlinks=False)
        ]
        found[path] = _record(status, payload, attributes)
    return found


def without_stale(ours: Snapshot, theirs: Snapshot) -> tuple[Snapshot, Snapshot]:
    """Both without what the kernel calls ESTALE: it will not show one lower directory at two places.

    Only forged redirects lead there, and which of the two places fails depends on what was looked at first.
    """
    for stale in [path for path, record in theirs.items() if record == ("errno", "ESTALE")]:
        for found in (ours, theirs):
            for path in [p for p in found if p == stale or p.startswith(stale + b"/")]:
                del found[path]
            above = found[os.path.dirname(stale)]
            names = above[8]
            if isinstance(names, list) and os.path.basename(stale) in names:
                names.remove(os.path.basename(stale))
    return ours, theirs


def without_aliases(ours: Snapshot, theirs: Snapshot, inodes: Inodes) -> tuple[Snapshot, Snapshot]:
    """Both without files that the kernel takes for one another, if it shows at one of the places what is there.

    The content of a metacopy in the upper, if a forged redirect leads to it, may be a file that shows at a place of its
    own, too: to the kernel's cache both are the inode below (ovl_hash_bylower), and what was looked at first shows at
    both places. These have fewer links than places.
    """
    places: dict[tuple[int, int], list[bytes]] = {}
    for path in sorted(ours.keys() & inodes.keys() & theirs.keys()):
        places.setdefault(inodes[path], []).append(path)
    for paths in places.values():
        several = len({repr(ours[path]) for path in paths}) > 1 and len(paths) > theirs[paths[0]][3]
        if several and any(not differences({p: ours[p]}, {p: theirs[p]}, CTIME) for p in paths):
            for path in paths:
                del ours[path], theirs[path]
    return ours, theirs


def differences(ours: Snapshot, theirs: Snapshot, ignore: frozenset[str] = frozenset()) -> list[str]:
    """What differs, in words; *ignore* names of FIELDS."""
    lines = []
    for path in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(path), theirs.get(path)
        if a == b:
            continue
        if a is None or b is None or a[0] == "errno" or b[0] == "errno":
            lines.append(f"{path!r}: {a} but the kernel has {b}")
            continue
        lines += [
            f"{path!r} {name}: {x!r:.300} but the kernel has {y!r:.300}"
            for name, x, y in zip(FIELDS, a, b, strict=True)
            if x != y and name not in ignore
        ]
    return lines


# -- an independent copy ---------------------------------------------------------------------------------------


def copy_tree(tree: Tree, target: bytes) -> None:
    """A plain directory with everything that *tree* shows, hard links within it included."""
    links: dict[tuple[int, int], bytes] = {}
    later = []
    pending = [(target, tree)]
    while pending:
        path, node = pending.pop()
        status = node.lstat()
        if stat.S_ISDIR(status.st_mode):
            os.mkdir(path, 0o700)
            pending += [(path + b"/" + child.parts[-1], child) for child in node.iterdir()]
            later.append((path, node, status))
            continue
        first = links.setdefault((status.st_dev, status.st_ino), path)
        if first != path:
            os.link(first, path, follow_symlinks=False)
            continue
        if stat.S_ISREG(status.st_mode):
            with open(path, "wb") as file:
                file.write(node.read_bytes())
        elif stat.S_ISLNK(status.st_mode):
            os.symlink(node.readlink_bytes(), path)
        else:
            os.mknod(path, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev)
        _attributes(path, node, status)
    for path, node, status in reversed(later):
        _attributes(path, node, status)


def _attributes(path: bytes, node: Tree, status: os.stat_result) -> None:
    os.lchown(path, status.st_uid, status.st_gid)
    for key, text in node.xattrs().items():
        os.setxattr(path, key, text, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(path, stat.S_IMODE(status.st_mode))
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns), follow_symlinks=False)
