"""Stacks of layers for property tests: how to draw them, write them to a disk, and mount them.

A stack is drawn as plain values (`layers`), written by `write_layer`, and mounted with mount(2) (`mounted`). All of
it is meant to run in a private mount namespace, in a directory of its own (`scratch`).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from lamina.linux.mount import mount, umount2
from lamina.overlay.layer import TRUSTED, USER, LayerFormat
from lamina.overlay.spec import MountSpec

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
    dense: bool = False  # few names and kinds and many marks, which therefore often meet

    @property
    def format(self) -> LayerFormat:
        return TRUSTED if self.root else USER

    @property
    def owners(self) -> tuple[tuple[int, int], ...]:
        return ((0, 0), (1000, 0), (0, 33)) if self.root else ((0, 0),)


# -- drawing ---------------------------------------------------------------------------------------------------

# Strategies are made once: Hypothesis labels and validates each one that it meets for the first time, and a stack of
# hundreds of draws took most of a property's time in that.


@functools.cache
def names(kit: Kit = Kit()) -> st.SearchStrategy[bytes]:
    return st.sampled_from(NAMES[:3] if kit.dense else NAMES)


@functools.cache
def contents() -> st.SearchStrategy[bytes]:
    return st.sampled_from((b"", b"one", b"two", b"a longer content\n" * 300, b"\0" * 9000 + b"end"))


@functools.cache
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
    pairs = itertools.product(known, (b"", b"y", b"\0\xff"))
    allowed = [(name, text) for name, text in pairs if text or not name.endswith("protattr")]
    return st.lists(st.sampled_from(allowed), max_size=3, unique_by=lambda pair: pair[0]).map(tuple)


@functools.cache
def redirects(kit: Kit) -> st.SearchStrategy[bytes]:
    below = st.lists(names(kit), min_size=1, max_size=3).map(lambda parts: b"/" + b"/".join(parts))
    sane = st.one_of(names(kit), below)
    return sane if kit.dense else st.one_of(sane, st.sampled_from((b"..", b"a/b", b"//a")))


@functools.cache
def kinds(kit: Kit) -> st.SearchStrategy[str]:
    common = ["file", "dir", "file", "dir", "whiteout", "symlink", "link", "xwhiteout"]
    return st.sampled_from(common + (["fifo", "socket", "char", "block"] if kit.root else ["fifo", "socket"]))


@functools.cache
def plain_attributes(kit: Kit, link: bool) -> st.SearchStrategy[tuple[int, tuple[int, int], int]]:
    """Mode, owner and time, as one draw: they have nothing to do with each other."""
    return st.sampled_from(tuple(itertools.product((0o777,) if link else MODES, kit.owners, TIMES)))


TARGETS = st.sampled_from((b"a", b"../b", b"/a/b", b"./c//x", b"/", b"..", b"b/", b"\xff\xfe."))
OPAQUE = st.sampled_from((b"", b"", b"", b"", b"y", b"yy"))
ONE_IN = {count: st.integers(0, count - 1) for count in (2, 6, 8, 10)}  # it is if 0 is drawn


@functools.cache
def perhaps_redirected(kit: Kit) -> st.SearchStrategy[bytes]:
    return st.one_of(st.just(b""), redirects(kit))


@st.composite
def _nodes(draw: st.DrawFn, kit: Kit, depth: int) -> Node:
    kind = draw(kinds(kit))
    if kind in ("whiteout", "xwhiteout", "link"):
        return Node(kind, content=draw(names(kit)) if kind == "link" else b"")
    mode, owner, mtime_ns = draw(plain_attributes(kit, kind == "symlink"))
    plain: dict[str, Any] = {
        "mode": mode, "owner": owner, "mtime_ns": mtime_ns, "xattrs": draw(xattrs(kit, kind))
    }  # fmt: skip
    if kind == "file":
        plain["content"] = draw(contents())
        if kit.metacopies and draw(ONE_IN[2 if kit.dense else 8]) == 0:
            plain["metacopy"] = True
            plain["redirect"] = draw(perhaps_redirected(kit))
        elif draw(ONE_IN[10]) == 0:
            plain["xattrs"] += ((("security.capability", CAPABILITY) if kit.root else ("user.c", b"c")),)
            if kit.root and draw(ONE_IN[2]) == 0:
                plain["xattrs"] += (("system.posix_acl_access", ACL),)
    elif kind == "symlink":
        plain["content"] = draw(TARGETS)
    elif kind == "dir":
        if depth > 0:
            plain["children"] = draw(directories(kit, depth - 1))
        plain["opaque"] = draw(OPAQUE)
        if kit.redirects and draw(ONE_IN[2 if kit.dense else 6]) == 0:
            plain["redirect"] = draw(redirects(kit))
    return Node(kind, **plain)


nodes = functools.cache(_nodes)


@functools.cache
def directories(kit: Kit, depth: int) -> st.SearchStrategy[tuple[tuple[bytes, Node], ...]]:
    entry = st.tuples(names(kit), nodes(kit, depth))
    return st.lists(
        entry, min_size=1 if kit.dense else 0, max_size=3 if kit.dense else 4, unique_by=lambda pair: pair[0]
    ).map(tuple)


@functools.cache
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
