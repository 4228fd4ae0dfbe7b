"""The words after `-o` in `mount -t overlay overlay -o ...`, read into a MountSpec and written back.

The rules are the kernel's own (fs/overlayfs/params.c, Documentation/filesystems/overlayfs.rst):

- Options are separated by commas; a backslash protects the character behind it. A later option replaces an earlier.
- `lowerdir=A:B::D` separates lower layers by `:` and data-only layers by `::`, top first; `\\:` `\\,` `\\\\` stand for
  the characters themselves. It replaces every lower layer given before it; an empty one only removes them.
- `upperdir=` and `workdir=` take one path; a backslash protects here as well, a colon is an ordinary character.
- `lowerdir+=` and `datadir+=` add one layer each. Their value is taken literally: a colon or a backslash needs no
  escape, and for a comma there is none (the kernel keeps the backslash of `\\,` as part of the name): use `lowerdir=`.

What mount(8) turns into flags of the mount (`ro nosuid nodev noexec noatime ...`) says nothing about the stack: it is
kept apart from the MountSpec, as MOUNT_ATTR flags. `sync dirsync lazytime` belong to the file system and are options.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lamina.errors import InvalidInput
from lamina.linux.constants import (
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
)
from lamina.linux.mount_options import ATTRIBUTES
from lamina.overlay.page import option_data
from lamina.overlay.spec import MountSpec

Text = str | bytes | Iterable[str | bytes]

# option: the values it takes (overlayfs.rst; fsync= is of 7.0)
_VALUES: dict[str, tuple[str, ...]] = {
    "redirect_dir": ("on", "follow", "nofollow", "off"),
    "metacopy": ("on", "off"),
    "index": ("on", "off"),
    "uuid": ("on", "auto", "null", "off"),
    "nfs_export": ("on", "off"),
    "xino": ("on", "auto", "off"),
    "verity": ("on", "require", "off"),
    "fsync": ("auto", "strict", "volatile"),
}
# bare option: the bare options it takes back
_FLAGS: dict[str, tuple[str, ...]] = {
    "default_permissions": (),
    "override_creds": ("nooverride_creds",),
    "nooverride_creds": ("override_creds",),
    "sync": (),
    "async": ("sync",),
    "dirsync": (),
    "lazytime": (),
    "nolazytime": ("lazytime",),
}
_ABSENT = ("async", "nolazytime")  # what a mount has anyhow: they only take back
_CONTEXTS = (
    "context",
    "fscontext",
    "defcontext",
    "rootcontext",
)  # SELinux: a label, in quotes if it has commas
_PATHS = ("lowerdir", "lowerdir+", "datadir+", "upperdir", "workdir")

# word of mount(8): (MOUNT_ATTR flags it sets, flags it clears)
_NOTHING_RUNS = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
_ATTRIBUTES = {
    **ATTRIBUTES,
    "defaults": (0, MOUNT_ATTR_RDONLY | _NOTHING_RUNS),
    "norelatime": (
        0,
        MOUNT_ATTR__ATIME,
    ),  # mount(8) only takes the flag back, which the kernel sets by itself
    "user": (_NOTHING_RUNS, 0),
    "users": (_NOTHING_RUNS, 0),
    "owner": (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0),
    "group": (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0),
}
# the words that write a set of flags back
_WRITTEN = ("ro", "nosuid", "nodev", "noexec", "noatime", "strictatime", "nodiratime", "nosymfollow")
# words of fstab(5) that have no effect at the moment of mounting
_FOR_FSTAB = re.compile(r"auto|noauto|nouser|nofail|_netdev|silent|loud|comment=.*|x-.*", re.S)
# words that ask mount(8) for something else than a new mount
_OTHER_DEEDS = re.compile(r"remount|r?bind|move|r?(shared|private|slave|unbindable)|loop(=.*)?|X-.*", re.S)

_LABELS = tuple(f"{key}=".encode() for key in _CONTEXTS)
_SEPARATOR = re.compile(rb'\\.?|[,"]', re.S)
_UNESCAPE = re.compile(rb"\\(.?)", re.S)


@dataclass(frozen=True)
class MountOptions:
    """What `-o` says: the stack, and the MOUNT_ATTR flags of its mount (mount_setattr(2))."""

    spec: MountSpec
    attributes: int = 0


def parse_mount_options(
    text: Text, *, relative_to: str | bytes | os.PathLike[str] | None = None
) -> MountOptions:
    """Read the options of one overlay mount; several texts are several `-o`, one after the other.

    Relative paths stay relative, or are taken to be below *relative_to*. Raises InvalidInput for what the kernel
    would refuse to read (an unknown option or value, misplaced colons, no lower layer, an upperdir without workdir),
    naming the nearest option that exists.
    """
    texts = [text] if isinstance(text, (str, bytes)) else list(text)
    reader = _Reader()
    for one in texts:
        for option in _split(os.fsencode(one)):
            reader.take(option)
    return reader.finish(None if relative_to is None else os.fsencode(relative_to))


def parse_options(text: Text, *, relative_to: str | bytes | os.PathLike[str] | None = None) -> MountSpec:
    """As parse_mount_options, where only a stack can be meant: flags of the mount such as `nosuid` are InvalidInput."""
    found = parse_mount_options(text, relative_to=relative_to)
    if found.attributes:
        raise InvalidInput(
            f"read overlay options: {_words(found.attributes)[0]!r} is a flag of a mount, not of a stack of directories"
        )
    return found.spec


def format_options(spec: MountSpec, attributes: int = 0) -> bytes:
    """The text that parse_mount_options reads as *spec* and *attributes*; without attributes, also mount(2)'s data.

    Raises InvalidInput as `page.option_data` does.
    """
    return b",".join([option_data(spec), *(word.encode() for word in _words(attributes))])


def printable(path: bytes) -> str:
    """A path for a message: what cannot be printed is shown by its escape, so that a message stays one line."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _words(attributes: int) -> list[str]:
    def holds(word: str) -> bool:
        flags, cleared = _ATTRIBUTES[word]
        return attributes & (cleared or flags) == flags

    return [word for word in _WRITTEN if holds(word)]


def _split(text: bytes) -> list[bytes]:
    """At the commas that no backslash protects; inside the quotes of an SELinux label they are ordinary."""
    if b"\0" in text:
        raise InvalidInput("read overlay options: they contain a NUL byte")
    options = []
    start = protected = 0
    for found in _SEPARATOR.finditer(text):
        if found.start() < protected:
            continue
        if found[0] == b",":
            options.append(text[start : found.start()])
            start = found.end()
        elif found[0] == b'"' and text[start : found.start()] in _LABELS:
            protected = text.find(b'"', found.end())
            if protected < 0:
                raise InvalidInput("read overlay options: the quotes of an SELinux label are not closed")
            protected += 1
    options.append(text[start:])
    return [option for option in options if option]


def unescape_upper(path: bytes) -> bytes:
    """The path that an upperdir= or workdir= value means: each backslash only protects what follows it."""
    return _UNESCAPE.sub(rb"\1", path)


class _Reader:
    """The options read so far, as the kernel's fs context would hold them."""

    def __init__(self) -> None:
        self.lowers: list[bytes] = []
        self.datas: list[bytes] = []
        self.all_at_once = (
            False  # the last layers came from lowerdir=, to which the kernel lets nothing be added
        )
        self.upper: bytes | None = None
        self.work: bytes | None = None
        self.options: dict[str, str] = {}
        self.attributes = 0
        self.directories: dict[str, Callable[[bytes], None]] = {
            "lowerdir": self._lowerdir,
            "lowerdir+": self._add_lower,
            "datadir+": self._add_data,
            "upperdir": self._upperdir,
            "workdir": self._workdir,
        }

    def take(self, option: bytes) -> None:
        """One option, `key` or `key=value`."""
        key_bytes, equals, setting = option.partition(b"=")
        key = os.fsdecode(key_bytes)
        if key in self.directories:
            if not equals:
                raise _wrong(option, f"{key} needs a path")
            self.directories[key](setting)
        elif key in _VALUES:
            self._choose(option, key, setting)
        elif key in _CONTEXTS and setting:
            self._set(key, os.fsdecode(setting.replace(b'"', b"")))
        elif key in _FLAGS or key in _ATTRIBUTES or key in ("userxattr", "volatile"):
            if equals:
                raise _wrong(option, f"{key} takes no value")
            self._flag(key)
        elif not _FOR_FSTAB.fullmatch(os.fsdecode(option)):
            raise _unknown(option, key)

    def finish(self, base: bytes | None) -> MountOptions:
        """The whole, after the last option."""
        if not self.lowers:
            raise InvalidInput(
                "read overlay options: lowerdir is missing",
                remedy="say lowerdir=DIRECTORY[:DIRECTORY...], top first",
            )
        if self.upper is not None and self.work is None:
            raise InvalidInput(
                "read overlay options: an upperdir needs a workdir",
                remedy="add workdir=DIRECTORY, an empty directory on the file system of the upperdir",
            )

        def placed(path: bytes) -> bytes:
            return path if base is None else os.path.join(base, path)

        spec = MountSpec(
            lowerdirs=tuple(map(placed, self.lowers)),
            upperdir=None if self.upper is None else placed(self.upper),
            workdir=None if self.work is None else placed(self.work),
            datadirs=tuple(map(placed, self.datas)),
            userxattr="userxattr" in self.options,
            volatile="volatile" in self.options,
            options=tuple(item for item in self.options.items() if item[0] not in ("userxattr", "volatile")),
        )
        return MountOptions(spec, self.attributes)

    def _set(self, key: str, setting: str) -> None:
        self.options.pop(key, None)  # the last one counts, in its own place
        self.options[key] = setting

    def _choose(self, option: bytes, key: str, setting: bytes) -> None:
        chosen = os.fsdecode(setting)
        if chosen not in _VALUES[key]:
            raise _wrong(option, f"{key} is one of {' '.join(_VALUES[key])}")
        self._set(key, chosen)

    def _flag(self, key: str) -> None:
        if key in _ATTRIBUTES:
            flags, cleared = _ATTRIBUTES[key]
            self.attributes = self.attributes & ~cleared | flags
            return
        for other in _FLAGS.get(key, ()):
            self.options.pop(other, None)
        if key not in _ABSENT:
            self._set(key, "")

    def _lowerdir(self, text: bytes) -> None:
        self.lowers, self.datas, self.all_at_once = [], [], bool(text)
        if not text:
            return
        option = b"lowerdir=" + text
        pieces = _layers(text)
        if not pieces[0][1] or not pieces[-1][1] or any(colons > 2 for colons, _ in pieces):
            raise _wrong(
                option, "layers are separated by one colon, data-only layers begin with two; \\: is a colon"
            )
        for colons, piece in pieces:
            path = unescape_upper(piece)
            if not path:
                raise _wrong(option, "an empty path")
            if colons == 2:
                self.datas.append(path)
            elif self.datas:
                raise _wrong(option, "an ordinary layer cannot lie below a data-only one")
            else:
                self.lowers.append(path)

    def _add_lower(self, path: bytes) -> None:
        self._can_add(b"lowerdir+=" + path, path)
        if self.datas:
            raise _wrong(b"lowerdir+=" + path, "an ordinary layer cannot lie below a data-only one")
        self.lowers.append(path)

    def _add_data(self, path: bytes) -> None:
        self._can_add(b"datadir+=" + path, path)
        self.datas.append(path)

    def _can_add(self, option: bytes, path: bytes) -> None:
        if not path:
            raise _wrong(option, "an empty path")
        if self.all_at_once:
            raise _wrong(option, "lowerdir+ and datadir+ cannot follow lowerdir")

    def _upperdir(self, text: bytes) -> None:
        self.upper = self._one_path(b"upperdir=" + text, text)

    def _workdir(self, text: bytes) -> None:
        self.work = self._one_path(b"workdir=" + text, text)

    def _one_path(self, option: bytes, text: bytes) -> bytes:
        if not (path := unescape_upper(text)):
            raise _wrong(option, "an empty path")
        return path


def _layers(text: bytes) -> list[tuple[int, bytes]]:
    """The layers of a lowerdir= value, still escaped, each with the number of colons before it."""
    pieces = []
    colons, start = 0, 0
    for found in re.finditer(rb"\\.?|(:+)", text, re.S):
        if found[1]:
            pieces.append((colons, text[start : found.start()]))
            colons, start = len(found[1]), found.end()
    pieces.append((colons, text[start:]))
    return pieces


def _wrong(option: bytes, why: str) -> InvalidInput:
    return InvalidInput(f"read overlay option '{printable(option)}': {why}")


def _unknown(option: bytes, key: str) -> InvalidInput:
    import difflib

    if _OTHER_DEEDS.fullmatch(os.fsdecode(option)):
        return _wrong(option, "this is not about a new overlay mount")
    known = [*_PATHS, *_VALUES, *_FLAGS, "userxattr", "volatile", *_CONTEXTS, *_ATTRIBUTES]
    near = difflib.get_close_matches(key.strip().lower(), known, n=1, cutoff=0.5)
    return InvalidInput(
        f"read overlay option '{printable(option)}': there is no such option",
        remedy=f"did you mean {near[0]}?" if near else "see docs/overlay.md for those that exist",
    )
