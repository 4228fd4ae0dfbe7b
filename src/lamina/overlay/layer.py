"""The on-disk vocabulary of one layer directory: how "deleted", "replaced" and "moved" are written down.

Source: the kernel's Documentation/filesystems/overlayfs.rst ("whiteouts and opaque directories", "renaming
directories", "Metadata only copy up", "Nesting overlayfs mounts") and, where it is silent, fs/overlayfs/{namei,util,
xattrs}.c. Everything that depends on the xattr family is in one value, `LayerFormat`; it says what a name or an
attribute means and writes it the same way. Nothing here knows about more than one layer.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable

from lamina.values import value

WHITEOUT_DEV = os.makedev(0, 0)
NAME_MAX = 255  # linux/limits.h: the longest name, and the longest xattr name
_ESCAPE = "overlay."


@value
class LayerFormat:
    """One xattr family's spelling of overlayfs' marks.

    `prefix` is "trusted.overlay." or, with the mount option `userxattr`, "user.overlay.". Attribute names are `str`
    as in the `os` module (bytes that are not UTF-8 by surrogateescape); use `TRUSTED` and `USER`.

    Marks: a *whiteout* deletes a name from the layers below; an *opaque* directory hides a directory of that name
    below; a *redirect* says under which path a moved directory (or metacopy) continues below; a *metacopy* has its
    attributes here and its content below. `origin`, `impure`, `nlink`, `upper`, `uuid`, `protattr` are overlayfs' own
    notes and mean nothing to a reader.
    """

    prefix: str

    # -- names

    @property
    def whiteout(self) -> str:
        """On an empty regular file: this is a whiteout (its directory is marked opaque "x")."""
        return self.prefix + "whiteout"

    @property
    def opaque(self) -> str:
        """On a directory, "y": nothing of that name below shows; "x": it holds whiteouts of the xattr form."""
        return self.prefix + "opaque"

    @property
    def redirect(self) -> str:
        """On a directory or metacopy: "/path" from the layers' root, or another "name" in the same directory."""
        return self.prefix + "redirect"

    @property
    def metacopy(self) -> str:
        """On a regular file: the content is below. The value may carry an fs-verity digest, which is not looked at."""
        return self.prefix + "metacopy"

    @property
    def origin(self) -> str:
        """On what was copied up: from where, or nothing where that is not known. A directory with it is looked through
        for whiteouts even where it is merged with nothing.
        """
        return self.prefix + "origin"

    @property
    def nlink(self) -> str:
        """On a file in the index of `index=on`: by how much a mount counts more or fewer links than its file system."""
        return self.prefix + "nlink"

    def is_private(self, name: str) -> bool:
        """Whether the attribute *name*, as stored in a layer, is overlayfs' own and not shown in a mount."""
        return name.startswith(self.prefix) and not name.startswith(self.prefix + _ESCAPE)

    def to_visible(self, name: str) -> str | None:
        """The name that a mount shows for the stored attribute *name*; None if it shows none.

        "trusted.overlay.overlay.x" is how a mount stores "trusted.overlay.x", so that a layer can itself hold layers.
        """
        if not name.startswith(self.prefix):
            return name
        rest = name[len(self.prefix) :]
        return self.prefix + rest[len(_ESCAPE) :] if rest.startswith(_ESCAPE) else None

    def to_disk(self, name: str) -> str:
        """The inverse of `to_visible`: under which name the attribute that users call *name* is stored.

        Raises OSError (EOPNOTSUPP) where the escaped name would be too long, as the kernel does.
        """
        if not name.startswith(self.prefix):
            return name
        stored = self.prefix + _ESCAPE + name[len(self.prefix) :]
        if len(os.fsencode(stored)) > NAME_MAX:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), name)
        return stored

    # -- reading

    def is_whiteout(self, status: os.stat_result, names: Iterable[str]) -> bool:
        """Whether an entry with this status and these stored attributes deletes its name below."""
        if stat.S_ISCHR(status.st_mode):
            return status.st_rdev == WHITEOUT_DEV
        return stat.S_ISREG(status.st_mode) and status.st_size == 0 and self.whiteout in names

    @staticmethod
    def parse_redirect(content: bytes) -> bytes:
        """Check the form of a redirect: b"/a/b" or b"name". Raises OSError EINVAL, as ovl_get_redirect_xattr() does.

        The bytes come from a layer and may be hostile; a part may be "." or "..", which `lookup` refuses when it gets
        there.
        """
        content, _, _ = content.partition(b"\0")
        parts = content[1:].split(b"/") if content[:1] == b"/" else [content]
        if b"" in parts or (content[:1] != b"/" and b"/" in content):
            raise OSError(errno.EINVAL, "invalid redirect", os.fsdecode(content))
        return content

    # -- writing: a directory by descriptor and a name in it, or the thing itself by descriptor

    def make_whiteout(self, dir_fd: int, name: bytes, *, by_xattr: bool = False) -> None:
        """Write a whiteout called *name*: the device 0/0, or the xattr form where devices cannot be made.

        For the xattr form the directory must also be marked: `set_opaque(dir_fd, b"x")`. Raises OSError.
        """
        if not by_xattr:
            os.mknod(name, stat.S_IFCHR, WHITEOUT_DEV, dir_fd=dir_fd)
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=dir_fd)
        try:
            os.setxattr(fd, self.whiteout, b"y")
        finally:
            os.close(fd)

    def set_opaque(self, fd: int, content: bytes = b"y") -> None:
        """Mark the directory *fd*: b"y" hides what is below, b"x" announces whiteouts of the xattr form."""
        os.setxattr(fd, self.opaque, content)


TRUSTED = LayerFormat("trusted.overlay.")
USER = LayerFormat("user.overlay.")
