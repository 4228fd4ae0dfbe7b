"""Reading a stack without mounting it, in the manner of `pathlib`.

    with Overlay.from_options("lowerdir=A:B,upperdir=C").open() as tree:
        (tree / "etc" / "hostname").read_text()
        for entry in tree.iterdir(): print(entry.name, entry.stat().st_size)

What shows is what a mount of the same stack would show. Where this differs from the kernel:

* `stat`: st_dev and st_ino are the real file's, not the mount's. st_nlink of a merged directory is 1, as in a mount.
  With `index=on` a mount also knows the other names of a copied-up hard link; here they still show the lower file
  (`Overlay.changes` refuses such a stack).
* permissions are those of the reader, on every layer it has to look into; a mount uses those of whoever mounted.
* a whiteout that hides nothing, in a directory that is not merged, is listed by a mount but cannot be opened there; it
  is not listed here. Neither is an attribute such as "trusted.overlay.overlayfs", which a mount lists under a wrong
  name.
* a file of a stack that is mounted and written to meanwhile may be seen before or after; overlayfs.rst calls changes
  below a mount undefined, and so are they here.

Content and names are anybody's: nothing is opened but by descriptors within a layer, no symbolic link of a layer is
followed by the kernel; those that `stat`, `open` and others follow are resolved inside the tree, at most 40 of them.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, Any, Literal, overload

from lamina.errors import InvalidInput
from lamina.linux.fd import Fd
from lamina.overlay.lookup import Found, Hit, OpenDir, View

AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]

SYMLINKS = 40  # MAXSYMLINKS in include/linux/namei.h
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EBADF)


class Tree:
    """A path in the merged tree. `/` makes another; methods are `pathlib.Path`'s, errors are OSError as there.

    An entry that `iterdir` or `walk` gave remembers what was found then, as `os.DirEntry` does; `tree / name` looks
    anew every time. The tree whose layers these are stays open until `close()`, the end of a `with`, or the last of
    its entries is forgotten.
    """

    __slots__ = ("_found", "_view", "parts")

    def __init__(self, view: View, parts: tuple[bytes, ...] = (), found: Found | None = None) -> None:
        """Not for callers: use `Overlay.open()`."""
        self._view = view
        self.parts: tuple[bytes, ...] = parts
        self._found = found

    # -- which path

    def __truediv__(self, path: AnyPath) -> Tree:
        name = os.fsencode(path)
        if b"\0" in name:
            raise ValueError("embedded null byte")
        parts = tuple(part for part in name.split(b"/") if part not in (b"", b"."))
        return Tree(self._view, parts if name[:1] == b"/" else self.parts + parts)

    def joinpath(self, *paths: AnyPath) -> Tree:
        """`self / first / second ...`; as there, an absolute path starts from the tree's root again."""
        tree = self
        for path in paths:
            tree = tree / path
        return tree

    @property
    def path(self) -> bytes:
        """The path from the tree's root, b"/" for the root itself."""
        return b"/" + b"/".join(self.parts)

    @property
    def name(self) -> str:
        """The last part, "" for the root."""
        return os.fsdecode(self.parts[-1]) if self.parts else ""

    @property
    def parent(self) -> Tree:
        """The path without its last part; the root is its own."""
        return Tree(self._view, self.parts[:-1])

    @property
    def root(self) -> Tree:
        """The root of the tree."""
        return Tree(self._view)

    def __str__(self) -> str:
        return os.fsdecode(self.path)

    def __repr__(self) -> str:
        return f"Tree({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tree):
            return NotImplemented
        return self._view.layers is other._view.layers and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(self.parts)

    # -- what is there

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """What a mount would say, but for st_dev and st_ino. Raises FileNotFoundError and so on."""
        return self._find(follow_symlinks).status

    def lstat(self) -> os.stat_result:
        """`stat` of a symbolic link itself."""
        return self._find(False).status

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is anything of that name. Raises PermissionError where it cannot be told."""
        return self._mode(follow_symlinks) != 0

    def is_dir(self) -> bool:
        """Whether this is a directory or a link to one."""
        return stat.S_ISDIR(self._mode())

    def is_file(self) -> bool:
        """Whether this is a regular file or a link to one."""
        return stat.S_ISREG(self._mode())

    def is_symlink(self) -> bool:
        """Whether this is a symbolic link."""
        return stat.S_ISLNK(self._mode(follow=False))

    def is_fifo(self) -> bool:
        """Whether this is a fifo or a link to one."""
        return stat.S_ISFIFO(self._mode())

    def is_socket(self) -> bool:
        """Whether this is a socket or a link to one."""
        return stat.S_ISSOCK(self._mode())

    def is_block_device(self) -> bool:
        """Whether this is a block device or a link to one."""
        return stat.S_ISBLK(self._mode())

    def is_char_device(self) -> bool:
        """Whether this is a character device or a link to one."""
        return stat.S_ISCHR(self._mode())

    def readlink(self) -> PurePosixPath:
        """Where a symbolic link points. Raises OSError EINVAL if it is none."""
        return PurePosixPath(os.fsdecode(self.readlink_bytes()))

    def readlink_bytes(self) -> bytes:
        """The text of a symbolic link to the byte: a PurePosixPath drops what does not matter ("a//b", "./a")."""
        found = self._find(False)
        if not stat.S_ISLNK(found.status.st_mode):
            raise _error(errno.EINVAL, self)
        with self._named():
            return self._view.layers.readlink(found.hits[0])

    def resolve(self, strict: bool = False) -> Tree:
        """The same without symbolic links and "..". Unless *strict*, what does not exist is taken as it is."""
        with self._named():
            return self._walk_to(follow=True, strict=strict)[0]

    def listxattr(self, *, follow_symlinks: bool = True) -> list[str]:
        """The names of the extended attributes, without overlayfs' own, sorted."""
        shown = map(self._view.layers.format.to_visible, self._find(follow_symlinks).hits[0].names)
        return sorted(name for name in shown if name is not None)

    def getxattr(self, name: str | bytes, *, follow_symlinks: bool = True) -> bytes:
        """One extended attribute. Raises OSError ENODATA."""
        hit = self._find(follow_symlinks).hits[0]
        with self._named():
            stored = self._view.layers.format.to_disk(os.fsdecode(name))
            fd = self._view.layers.open(hit.layer, hit.path, os.O_PATH)
        with fd:
            return os.getxattr(b"/proc/self/fd/%d" % fd, stored)

    # -- what is in it

    def iterdir(self) -> Iterator[Tree]:
        """The entries of a directory, sorted by name. Raises NotADirectoryError."""
        with OpenDir(self._view.layers, self._directory().hits) as within:
            with self._named():
                names = sorted(within.names())
            for name in names:
                try:
                    entry = self._view.find(within, name)
                except OSError:
                    # As in a mount: listed, but what is asked of it fails. (Where a layer may hold whiteouts of the
                    # xattr form the kernel looks each file up, reports the first that fails, and then leaves it out;
                    # and it lists nothing of an impure directory of the upper in which a look-up fails.)
                    yield Tree(self._view, (*self.parts, name))
                else:
                    if entry is not None:
                        yield Tree(self._view, (*self.parts, name), entry)

    def walk(
        self,
        top_down: bool = True,
        on_error: Callable[[OSError], object] | None = None,
        follow_symlinks: bool = False,
    ) -> Iterator[tuple[Tree, list[str], list[str]]]:
        """`(directory, names of directories, names of others)` for everything below, as `pathlib.Path.walk`.

        With *top_down* the list of directories may be changed to say where to go. An error ends nothing but its own
        directory; it is passed to *on_error*, without which it is ignored.
        """
        pending: list[Tree | tuple[Tree, list[str], list[str]]] = [self]
        while pending:
            tree = pending.pop()
            if isinstance(tree, tuple):
                yield tree
                continue
            try:
                entries = list(tree.iterdir())
            except OSError as error:
                if on_error is not None:
                    on_error(error)
                continue
            directories = {
                e.name: e for e in entries if (e.is_dir() if follow_symlinks else e._is_real_dir())
            }
            visit = tree, list(directories), [e.name for e in entries if e.name not in directories]
            if top_down:
                yield visit
            else:
                pending.append(visit)
            pending.extend(directories.get(name) or tree / name for name in reversed(visit[1]))

    def read_bytes(self) -> bytes:
        """The content of a regular file."""
        with self.open("rb") as file:
            return file.read()

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The content of a regular file as text."""
        with self.open("r", encoding=encoding, errors=errors) as file:
            return file.read()

    @overload
    def open(
        self, mode: Literal["r", "rt"] = "r", buffering: int = -1, encoding: str = "utf-8",
        errors: str | None = None, newline: str | None = None,
    ) -> io.TextIOWrapper: ...  # fmt: skip

    @overload
    def open(self, mode: Literal["rb"], buffering: int = -1) -> io.BufferedReader: ...

    def open(
        self, mode: str = "r", buffering: int = -1, encoding: str | None = None, errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:  # fmt: skip
        """A regular file, for reading: *mode* "r" (UTF-8 unless said otherwise) or "rb".

        Raises OSError: EISDIR for a directory, EINVAL for what is neither (devices and fifos of a layer are never
        opened).
        """
        if mode not in ("r", "rt", "rb"):
            raise InvalidInput(f"open {self} with mode {mode!r}: a stack that is not mounted is only read")
        text = mode != "rb"
        with self.open_content() as fd:
            # what is refused before anything is opened ("binary mode doesn't take ...") leaves it ours
            return open(
                str(self), mode, buffering, encoding=encoding or "utf-8" if text else encoding,
                errors=errors, newline=newline, opener=lambda *_: fd.steal(),
            )  # fmt: skip

    # -- for those who copy

    def open_content(self, *, follow_symlinks: bool = True) -> Fd:
        """A regular file's bytes as a descriptor for reading, from wherever they are (see `Overlay.explain`)."""
        found = self._find(follow_symlinks)
        if found.content is None:
            raise _error(errno.EISDIR if found.is_dir else errno.EINVAL, self)
        with self._named():
            return self._view.layers.open_content(found)

    def open_path(self) -> Fd:
        """An O_PATH descriptor of the topmost real file, links not followed: its attributes are the entry's.

        For a metacopy the content is elsewhere: `open_content`.
        """
        hit = self._find(False).hits[0]
        with self._named():
            return self._view.layers.open(hit.layer, hit.path, os.O_PATH)

    def xattrs(self) -> dict[str, bytes]:
        """All extended attributes with their values, links not followed, overlayfs' own left out."""
        hit = self._find(False).hits[0]
        with self._named():
            return self._view.layers.xattrs(hit)

    def sources(self) -> tuple[tuple[int, bytes], ...]:
        """Where the entry comes from: (layer, path in it), top first; 0 is the upper, 1 the topmost lower layer."""
        return tuple((hit.layer, hit.path) for hit in self._find(False).hits)

    # -- keeping it

    def close(self) -> None:
        """Close the layers, for all entries of this tree. Idempotent."""
        self._view.layers.close()

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- lookup

    def _mode(self, follow: bool = True) -> int:
        try:
            return self._find(follow).hits[0].status.st_mode
        except OSError as error:
            if error.errno in _ABSENT:
                return 0
            raise

    def _is_real_dir(self) -> bool:
        return stat.S_ISDIR(self._mode(follow=False))

    def _directory(self) -> Found:
        found = self._find(True)
        if not found.is_dir:
            raise _error(errno.ENOTDIR, self)
        return found

    def _find(self, follow: bool) -> Found:
        if self._found is not None and not (follow and stat.S_ISLNK(self._found.hits[0].status.st_mode)):
            return self._found
        with self._named():
            found = self._walk_to(follow, strict=True)[1]
        assert found is not None
        return found

    def _walk_to(self, follow: bool, strict: bool) -> tuple[Tree, Found | None]:
        """Path resolution, path_resolution(7), with the tree's root as "/"."""
        layers, root = self._view.layers, self._view.root
        todo = list(reversed(self.parts))
        done: list[bytes] = []
        above: list[Found] = [root]  # the directories on the way to `done`, and what is there
        links = 0
        while todo:
            name = todo.pop()
            if not above[-1].is_dir:
                raise _error(errno.ENOTDIR, self)
            if name == b".":
                continue
            if name == b"..":
                if done:
                    done.pop()
                    above.pop()
                continue
            with OpenDir(layers, above[-1].hits) as within:
                found = self._view.find(within, name)
            if found is None:
                if strict:
                    raise _error(errno.ENOENT, self)
                return self._lexically(done, [name, *reversed(todo)]), None
            if (follow or todo) and stat.S_ISLNK(found.hits[0].status.st_mode):
                links += 1
                if links > SYMLINKS:
                    raise _error(errno.ELOOP, self)
                self._go_on_at(self._target(found.hits[0]), todo, done, above)
                continue
            done.append(name)
            above.append(found)
        return Tree(self._view, tuple(done), above[-1]), above[-1]

    def _target(self, hit: Hit) -> bytes:
        target = self._view.layers.readlink(hit)
        if not target:
            raise _error(errno.ENOENT, self)
        return target

    @staticmethod
    def _go_on_at(target: bytes, todo: list[bytes], done: list[bytes], above: list[Found]) -> None:
        if target[:1] == b"/":
            done.clear()
            del above[1:]
        parts = [part for part in target.split(b"/") if part]
        if target[-1:] == b"/":
            parts.append(b".")  # what a slash follows must be a directory
        todo.extend(reversed(parts))

    def _lexically(self, done: list[bytes], rest: list[bytes]) -> Tree:
        parts = list(done)
        for part in rest:
            if part == b"..":
                del parts[-1:]
            else:
                parts.append(part)
        return Tree(self._view, tuple(parts))

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors are about this path, and are the standard library's: PermissionError and so on."""
        try:
            yield
        except OSError as error:
            if error.filename == str(self) or getattr(error, "call", "") == "open layer":
                raise
            raise OSError(error.errno, error.strerror, str(self)) from error


def _error(code: int, tree: Tree) -> OSError:
    return OSError(code, os.strerror(code), str(tree))  # becomes FileNotFoundError and so on
