"""Stacks of layers for property tests: how to draw them, write them to a disk, mount them, and look at everything.

A stack is drawn as plain values (`layers`, `operations`), written by `write_layer`, mounted with mount(2) (`mounted`)
and compared by `snapshot` (of a directory, by descriptors) and `snapshot_tree` (of a `lamina.overlay.tree.Tree`).
Both are {path: record}; a record is a tuple of everything lstat(2), read, readlink and xattrs say, or an errno.
All of it is meant to run in a private mount namespace, in a directory of its own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from lamina.linux.mount import mount, umount2
from lamina.overlay.layer import TRUSTED, USER, LayerFormat
from lamina.overlay.spec import MountSpec
from lamina.overlay.tree import Tree

MNT_DETACH = 2

# few names, so that layers meet often; all kinds of odd ones
NAMES = (b"a", b"b", b"c", b"-rf", b"new\nline", b"\xff\xfe.", b"..." + b"n" * 252)
TIMES = (0, 1, 1_000_000_000_000_000_001, 1_700_000_000_123_456_789)
MODES = (0o644, 0o600, 0o755, 0o4755, 0o2711, 0o1777, 0o000, 0o444)
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, identity)
    for tag, permissions, identity in (
        (0x01, 6, 0xFFFFFFFF), (0x02, 4, 0), (0x04, 4, 0xFFFFFFFF), (0x10, 4, 0xFFFFFFFF), (0x20, 4, 0xFFFFFFFF),
    )
)  # fmt: skip


@dataclass(frozen=True)
class Node:
    """One entry of a layer to be written. `kind` is file dir symlink fifo socket char block link whiteout xwhiteout."""

    kind: str
    content: bytes = b""
    mode: int = 0o755
    owner: tuple[int, int] = (0, 0)
    mtime_ns: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()
    children: tuple[tuple[bytes, Node], ...] = ()
    opaque: bytes = b""
    redirect: bytes = b""
    metacopy: bool = False


@dataclass(frozen=True)
class Kit:
    """What may be drawn: as real root everything; in a user namespace no devices, one owner, the other xattr family."""

    root: bool = True
    redirects: bool = True
    metacopies: bool = True

    @property
    def format(self) -> LayerFormat:
        return TRUSTED if self.root else USER

    @property
    def owners(self) -> tuple[tuple[int, int], ...]:
        return ((0, 0), (1000, 0), (0, 33)) if self.root else ((0, 0),)


# -- drawing ---------------------------------------------------------------------------------------------------


def names() -> st.SearchStrategy[bytes]:
    return st.sampled_from(NAMES)


def contents() -> st.SearchStrategy[bytes]:
    return st.sampled_from((b"", b"one", b"two", b"a longer content\n" * 300, b"\0" * 9000 + b"end"))


def xattrs(kit: Kit, kind: str) -> st.SearchStrategy[tuple[tuple[str, bytes], ...]]:
    known = []
    if kind in ("file", "dir"):
        known += ["user.a", "user.b"]
        known += [kit.format.prefix + "overlay.opaque", kit.format.prefix + "overlay.overlay.x"]
        known += [kit.format.prefix + "origin", kit.format.prefix + "impure", kit.format.prefix + "protattr"]
    if kit.root:
        known += ["trusted.a", "user.overlay.opaque"] if kind in ("file", "dir") else ["trusted.a"]
    if not known:
        return st.just(())
    return st.lists(
        st.tuples(st.sampled_from(known), st.sampled_from((b"", b"y", b"\0\xff"))),
        max_size=3,
        unique_by=lambda pair: pair[0],
    ).map(
        lambda pairs: tuple(pair for pair in pairs if not (pair[0].endswith("protattr") and pair[1] == b""))
    )


def redirects() -> st.SearchStrategy[bytes]:
    below = st.lists(names(), min_size=1, max_size=3).map(lambda parts: b"/" + b"/".join(parts))
    return st.one_of(names(), below, st.sampled_from((b"..", b"a/b", b"//a")))


@st.composite
def nodes(draw: st.DrawFn, kit: Kit, depth: int) -> Node:
    common = ["file", "dir", "file", "dir", "whiteout", "symlink", "link", "xwhiteout"]
    kind = draw(
        st.sampled_from(common + (["fifo", "socket", "char", "block"] if kit.root else ["fifo", "socket"]))
    )
    if kind in ("whiteout", "xwhiteout", "link"):
        return Node(kind, content=draw(names()) if kind == "link" else b"")
    plain: dict[str, Any] = {
        "mode": draw(st.sampled_from(MODES)) if kind != "symlink" else 0o777,
        "owner": draw(st.sampled_from(kit.owners)),
        "mtime_ns": draw(st.sampled_from(TIMES)),
        "xattrs": draw(xattrs(kit, kind)),
    }
    if kind == "file":
        plain["content"] = draw(contents())
        if kit.metacopies and draw(st.integers(0, 7)) == 0:
            plain["metacopy"] = True
            plain["redirect"] = draw(st.one_of(st.just(b""), redirects()))
        elif draw(st.integers(0, 9)) == 0:
            plain["xattrs"] += ((("security.capability", CAPABILITY) if kit.root else ("user.c", b"c")),)
            if kit.root and draw(st.booleans()):
                plain["xattrs"] += (("system.posix_acl_access", ACL),)
    elif kind == "symlink":
        plain["content"] = draw(
            st.sampled_from((b"a", b"../b", b"/a/b", b"./c//x", b"/", b"..", b"b/", b"\xff\xfe."))
        )
    elif kind == "dir":
        if depth > 0:
            plain["children"] = draw(directories(kit, depth - 1))
        plain["opaque"] = draw(st.sampled_from((b"", b"", b"", b"", b"y", b"yy")))
        if kit.redirects and draw(st.integers(0, 5)) == 0:
            plain["redirect"] = draw(redirects())
    return Node(kind, **plain)


def directories(kit: Kit, depth: int) -> st.SearchStrategy[tuple[tuple[bytes, Node], ...]]:
    entry = st.tuples(names(), nodes(kit, depth))
    return st.lists(entry, max_size=4, unique_by=lambda pair: pair[0]).map(tuple)


def layers(kit: Kit, least: int = 1, most: int = 6) -> st.SearchStrategy[list[Node]]:
    """Whole layers, top first."""
    root = st.builds(
        lambda children, mode, mtime_ns: Node("dir", mode=mode, mtime_ns=mtime_ns, children=children),
        directories(kit, 2),
        st.sampled_from((0o755, 0o700, 0o1777)),
        st.sampled_from(TIMES),
    )
    return st.lists(root, min_size=least, max_size=most)


# -- writing ---------------------------------------------------------------------------------------------------


def write_layer(path: bytes, layer: Node, kit: Kit) -> None:
    os.mkdir(path)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _fill(fd, layer, kit, {})
        _finish(fd, b".", layer)
    finally:
        os.close(fd)


def _fill(fd: int, directory: Node, kit: Kit, files: dict[bytes, bytes]) -> None:
    place = b"/proc/self/fd/%d" % fd
    marks = kit.format
    opaque = directory.opaque
    for name, node in directory.children:
        if node.kind == "dir":
            os.mkdir(name, dir_fd=fd)
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            try:
                _fill(inner, node, kit, files)
                if node.redirect:
                    os.setxattr(inner, marks.redirect, node.redirect)
                _finish(fd, name, node)
            finally:
                os.close(inner)
        elif node.kind == "whiteout":
            marks.make_whiteout(fd, name)
        elif node.kind == "xwhiteout":
            marks.make_whiteout(fd, name, by_xattr=True)
            opaque = opaque or b"x"
        else:
            _write_leaf(fd, name, node, kit, files)
            if node.kind != "link":
                files.setdefault(name, os.readlink(place) + b"/" + name)
    if opaque:
        os.setxattr(fd, marks.opaque, opaque)


def _write_leaf(fd: int, name: bytes, node: Node, kit: Kit, files: dict[bytes, bytes]) -> None:
    if node.kind == "link":
        other = files.get(node.content)  # an earlier file of that name in this layer, wherever it is
        if other is not None:
            os.link(other, name, dst_dir_fd=fd, follow_symlinks=False)
            files.setdefault(name, other)
        return
    if node.kind == "file":
        _write_file(fd, name, node, kit)
    elif node.kind == "symlink":
        os.symlink(node.content, name, dir_fd=fd)
    elif node.kind == "socket":
        os.mknod(name, stat.S_IFSOCK | 0o600, dir_fd=fd)
    elif node.kind == "fifo":
        os.mkfifo(name, 0o600, dir_fd=fd)
    else:
        kind = stat.S_IFCHR if node.kind == "char" else stat.S_IFBLK
        os.mknod(name, kind | 0o600, os.makedev(1, 3 + len(node.xattrs)), dir_fd=fd)
    _finish(fd, name, node)


def _write_file(fd: int, name: bytes, node: Node, kit: Kit) -> None:
    inner = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=fd)
    try:
        if node.metacopy:
            os.truncate(inner, len(node.content))
            os.setxattr(inner, kit.format.metacopy, b"")
            if node.redirect:
                os.setxattr(inner, kit.format.redirect, node.redirect)
        else:
            os.write(inner, node.content)
    finally:
        os.close(inner)


def _finish(fd: int, name: bytes, node: Node) -> None:
    place = b"/proc/self/fd/%d/%b" % (fd, name)
    os.chown(name, *node.owner, dir_fd=fd, follow_symlinks=False)
    if node.kind != "symlink":
        os.chmod(name, node.mode, dir_fd=fd)
    for key, text in node.xattrs:
        os.setxattr(place, key, text, follow_symlinks=False)
    os.utime(name, ns=(node.mtime_ns, node.mtime_ns), dir_fd=fd, follow_symlinks=False)


# -- mounting --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def scratch(place: bytes, *, disk: bool = False) -> Iterator[bytes]:
    """An empty directory to build a stack in: a tmpfs of its own, or of whatever file system *place* is."""
    if disk:
        os.mkdir(place + b"/disk")
        try:
            yield place + b"/disk"
        finally:
            shutil.rmtree(place + b"/disk")
    else:
        mount(b"scratch", place, b"tmpfs", 0, b"mode=755")
        try:
            yield place
        finally:
            umount2(place, MNT_DETACH)


@contextlib.contextmanager
def mounted(spec: MountSpec, target: bytes) -> Iterator[bytes]:
    """The kernel's own mount of *spec*; its paths are short and contain nothing that needs an escape."""
    options = [b"lowerdir=" + b":".join(spec.lowerdirs) + b"".join(b"::" + d for d in spec.datadirs)]
    if spec.upperdir is not None and spec.workdir is not None:
        shutil.rmtree(spec.workdir, ignore_errors=True)
        os.mkdir(spec.workdir)
        options += [b"upperdir=" + spec.upperdir, b"workdir=" + spec.workdir]
    options += [f"{key}={text}".encode() if text else key.encode() for key, text in spec.options]
    if spec.userxattr:
        options.append(b"userxattr")
    if spec.volatile:
        options.append(b"volatile")
    mount(b"overlay", target, b"overlay", 0, b",".join(options))
    try:
        yield target
    finally:
        umount2(target, 0)


# -- looking ---------------------------------------------------------------------------------------------------

Record = tuple[Any, ...]
Snapshot = dict[bytes, Record]


def _record(status: os.stat_result, payload: Any, attributes: Any) -> Record:
    directory = stat.S_ISDIR(status.st_mode)
    return (
        oct(status.st_mode), status.st_uid, status.st_gid, status.st_nlink, None if directory else status.st_size,
        status.st_mtime_ns, status.st_ctime_ns, status.st_rdev, payload, attributes,
    )  # fmt: skip


FIELDS = ("mode", "uid", "gid", "nlink", "size", "mtime", "ctime", "rdev", "payload", "xattrs")


def errno_of(call: Callable[[], Any]) -> Any:
    """What *call* returns, or ("errno", name) of what it raised."""
    try:
        return call()
    except OSError as error:
        return ("errno", errno.errorcode[error.errno or 0])


def snapshot(root: bytes, broken: Iterable[bytes] = ()) -> Snapshot:
    """Everything below a directory, by descriptors: entries that cannot be looked up have their errno as record.

    Whether a mount lists these depends on what it has cached, so they are not in listings; *broken* are paths to ask
    for even if they are not listed. Nor are names that are listed but not there: a whiteout that hides nothing.
    """
    found: Snapshot = {}
    asked: dict[bytes, set[bytes]] = {}
    for path in broken:
        asked.setdefault(os.path.dirname(path), set()).add(os.path.basename(path))
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _snapshot(fd, b"", found, asked)
    finally:
        os.close(fd)
    return found


def _snapshot(fd: int, path: bytes, found: Snapshot, asked: dict[bytes, set[bytes]]) -> None:
    listed = errno_of(lambda: set(map(os.fsencode, os.listdir(fd))))
    names = (listed if isinstance(listed, set) else set()) | asked.get(path, set())
    payload = []
    for name in sorted(names):
        below = path + b"/" + name if path else name
        record = _entry(fd, name, below, found, asked)
        if isinstance(record, tuple) and record[0] == "errno":
            if record[1] != "ENOENT":
                found[below] = record
        else:
            payload.append(name)
            if record is not None:
                found[below] = record
    broken = isinstance(listed, tuple)
    found[path] = _record(
        os.fstat(fd), listed if broken else payload, _xattrs(b"/proc/self/fd/%d" % fd, True)
    )


def _entry(
    fd: int, name: bytes, path: bytes, found: Snapshot, asked: dict[bytes, set[bytes]]
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
            _snapshot(inner, path, found, asked)
        finally:
            os.close(inner)
        return None
    if stat.S_ISREG(status.st_mode):
        payload = errno_of(lambda: _read(fd, name))
    elif stat.S_ISLNK(status.st_mode):
        payload = os.readlink(name, dir_fd=fd)
    return _record(status, payload, _xattrs(b"/proc/self/fd/%d/%b" % (fd, name), False))


def broken(found: Snapshot) -> list[bytes]:
    """The entries of a snapshot that cannot be looked up."""
    return [path for path, record in found.items() if record[0] == "errno"]


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
