"""Small layers, written as they read: `grow(path, {"etc": {"motd": "hello"}, "gone": WHITEOUT})`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lamina.overlay.layer import TRUSTED, LayerFormat


@dataclass(frozen=True)
class Marked:
    """A directory with marks."""

    entries: Mapping[str, object] = field(default_factory=dict)
    opaque: bytes = b""
    redirect: bytes = b""


@dataclass(frozen=True)
class To:
    """A symbolic link."""

    target: str


@dataclass(frozen=True)
class Metacopy:
    """Attributes of a file whose content is below."""

    size: int = 0
    redirect: bytes = b""
    mode: int = 0o644


WHITEOUT, XWHITEOUT = object(), object()


def opaque(**entries: object) -> Marked:
    return Marked(entries, opaque=b"y")


def moved(path: str, **entries: object) -> Marked:
    return Marked(entries, redirect=os.fsencode(path))


def grow(root: Path, entries: Mapping[str, object], marks: LayerFormat = TRUSTED) -> Path:
    """Write *entries* below *root* (made if missing): str and bytes are files, dicts and Marked are directories."""
    root.mkdir(parents=True, exist_ok=True)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name, entry in entries.items():
            _entry(root, fd, os.fsencode(name), entry, marks)
    finally:
        os.close(fd)
    return root


def _entry(root: Path, fd: int, name: bytes, entry: object, marks: LayerFormat) -> None:
    path = root / os.fsdecode(name)
    if entry is WHITEOUT:
        marks.make_whiteout(fd, name)
    elif entry is XWHITEOUT:
        marks.make_whiteout(fd, name, by_xattr=True)
        marks.set_opaque(fd, b"x")
    elif isinstance(entry, To):
        path.symlink_to(entry.target)
    elif isinstance(entry, Marked):
        grow(path, entry.entries, marks)
        if entry.opaque:
            os.setxattr(path, marks.opaque, entry.opaque)
        if entry.redirect:
            os.setxattr(path, marks.redirect, entry.redirect)
    elif isinstance(entry, Metacopy):
        path.touch(entry.mode)
        os.truncate(path, entry.size)
        os.setxattr(path, marks.metacopy, b"")
        if entry.redirect:
            os.setxattr(path, marks.redirect, entry.redirect)
    elif isinstance(entry, Mapping):
        grow(path, entry, marks)
    else:
        assert isinstance(entry, str | bytes), entry
        path.write_bytes(os.fsencode(entry))
