"""What programs do to files, drawn at random and done below a directory that nothing leads out of."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from lamina.linux.constants import RENAME_EXCHANGE, RESOLVE_IN_ROOT
from lamina.linux.files import openat2, renameat2
from support.stacks import CAPABILITY, MODES, TIMES, Kit, contents, names

Operation = tuple[Any, ...]


# a path is drawn as a number: the n-th entry that is there when its turn comes, the n-th directory, or a name in that
Place = tuple[int, bytes | None]


def existing() -> st.SearchStrategy[Place]:
    return st.tuples(st.integers(0, 40), st.none())


def directory() -> st.SearchStrategy[Place]:
    return st.tuples(st.integers(0, 8), st.just(b""))


def new() -> st.SearchStrategy[Place]:
    return st.tuples(st.integers(0, 8), names())


def operations(kit: Kit) -> st.SearchStrategy[list[Operation]]:
    """Programs; an operation that fails on the tree it meets is skipped."""
    one = st.one_of(
        st.tuples(st.just("write"), new(), contents()),
        st.tuples(st.just("write"), existing(), contents()),
        st.tuples(st.just("append"), existing()),
        st.tuples(st.just("truncate"), existing(), st.sampled_from((0, 2, 5000))),
        st.tuples(st.just("open"), existing()),
        st.tuples(st.just("unlink"), existing()),
        st.tuples(st.just("rmdir"), directory()),
        st.tuples(st.just("remove"), directory()),
        st.tuples(st.just("mkdir"), new()),
        st.tuples(st.just("again"), directory()),
        st.tuples(st.just("rename"), st.one_of(existing(), directory()), st.one_of(new(), existing())),
        st.tuples(st.just("exchange"), existing(), existing()),
        st.tuples(st.just("link"), existing(), new()),
        st.tuples(st.just("symlink"), new(), st.sampled_from((b"a", b"../b", b"/c", b"x" * 200))),
        st.tuples(st.just("chmod"), existing(), st.sampled_from(MODES)),
        st.tuples(st.just("chown"), existing(), st.sampled_from(kit.owners)),
        st.tuples(st.just("utime"), existing(), st.sampled_from(TIMES)),
        st.tuples(
            st.just("setxattr"), existing(), st.sampled_from(xattr_names(kit)), st.sampled_from((b"", b"v"))
        ),
        st.tuples(st.just("removexattr"), existing(), st.sampled_from(xattr_names(kit))),
        st.tuples(st.just("mknod"), new(), st.sampled_from((stat.S_IFIFO, stat.S_IFSOCK))),
    )
    return st.lists(one, min_size=1, max_size=12)


def xattr_names(kit: Kit) -> tuple[str, ...]:
    if kit.root:
        return "user.a", "trusted.a", "trusted.overlay.opaque", "security.capability"
    return "user.a", "user.overlay.opaque"


def perform(root: bytes, program: list[Operation]) -> int:
    """Do it below *root*; how many of the operations succeeded."""
    done = 0
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name, *arguments in program:
            places = _places(fd) if any(map(_is_place, arguments)) else ([], [])
            resolved = [_resolve(a, *places) if _is_place(a) else a for a in arguments]
            with contextlib.suppress(OSError):
                _DOING[name](fd, *resolved)
                done += 1
    finally:
        _HELD.clear()
        os.close(fd)
    return done


def _is_place(argument: object) -> bool:
    return (
        isinstance(argument, tuple)
        and len(argument) == 2
        and (argument[1] is None or type(argument[1]) is bytes)
    )


def _places(root: int) -> tuple[list[bytes], list[bytes]]:
    """Everything that is there, and which of it are directories, the root included."""
    entries, directories = [], []
    for path, inner, others, _ in os.fwalk(b".", dir_fd=root):
        inner.sort()
        directories.append(path)
        entries += [path + b"/" + name for name in sorted(inner + others)]
    return entries or [b"."], directories


def _resolve(place: Place, entries: list[bytes], directories: list[bytes]) -> bytes:
    number, name = place
    if name is None:
        return entries[number % len(entries)]
    path = directories[number % len(directories)]
    return path + b"/" + name if name else path


def _at(root: int, path: bytes) -> tuple[int, bytes]:
    above, _, base = path.rpartition(b"/")
    # links of the tree are absolute, too: they must not lead to the machine's own files
    return openat2(root, above or b".", os.O_PATH | os.O_DIRECTORY, resolve=RESOLVE_IN_ROOT), base


def _opened(root: int, path: bytes, flags: int) -> int:
    parent, base = _at(root, path)
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(base, flags, 0o640, dir_fd=parent)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError
    return fd


def _write(root: int, path: bytes, content: bytes) -> None:
    with open(_opened(root, path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
        file.write(content)


def _append(root: int, path: bytes) -> None:
    with open(_opened(root, path, os.O_WRONLY | os.O_APPEND), "ab") as file:
        file.write(b"more")


def _open(root: int, path: bytes) -> None:
    os.close(_opened(root, path, os.O_RDWR))


def _truncate(root: int, path: bytes, size: int) -> None:
    with open(_opened(root, path, os.O_WRONLY), "wb") as file:
        os.truncate(file.fileno(), size)


def _remove(root: int, path: bytes) -> None:
    parent, base = _at(root, path)
    if not stat.S_ISDIR(os.stat(base, dir_fd=parent, follow_symlinks=False).st_mode):
        raise NotADirectoryError  # rmtree would open a fifo and wait
    shutil.rmtree(base, dir_fd=parent)  # type: ignore[arg-type, unused-ignore]


def _again(root: int, path: bytes) -> None:
    _remove(root, path)
    parent, base = _at(root, path)
    os.mkdir(base, 0o750, dir_fd=parent)


def _renamed(root: int, path: bytes, to: bytes, flags: int = 0) -> None:
    (a, old), (b, new) = _at(root, path), _at(root, to)
    renameat2(a, old, b, new, flags)


def _link(root: int, path: bytes, to: bytes) -> None:
    (a, old), (b, new) = _at(root, path), _at(root, to)
    os.link(old, new, src_dir_fd=a, dst_dir_fd=b, follow_symlinks=False)


def _chmod(root: int, path: bytes, mode: int) -> None:
    parent, base = _at(root, path)
    if not stat.S_ISLNK(os.stat(base, dir_fd=parent, follow_symlinks=False).st_mode):
        os.chmod(base, mode, dir_fd=parent)


def _place(root: int, path: bytes) -> bytes:
    parent, base = _at(root, path)
    _HELD[:] = [parent]
    return b"/proc/self/fd/%d/%b" % (parent, base)


def _setxattr(root: int, path: bytes, name: str, content: bytes) -> None:
    content = CAPABILITY if name == "security.capability" else content
    os.setxattr(_place(root, path), name, content, follow_symlinks=False)


_HELD: list[int] = []  # keeps the descriptor of the last _place open
_DOING: dict[str, Callable[..., Any]] = {
    "write": _write,
    "append": _append,
    "truncate": _truncate,
    "open": _open,
    "unlink": lambda root, path: (lambda at: os.unlink(at[1], dir_fd=at[0]))(_at(root, path)),
    "rmdir": lambda root, path: (lambda at: os.rmdir(at[1], dir_fd=at[0]))(_at(root, path)),
    "mkdir": lambda root, path: (lambda at: os.mkdir(at[1], 0o755, dir_fd=at[0]))(_at(root, path)),
    "remove": _remove,
    "again": _again,
    "rename": _renamed,
    "exchange": lambda root, path, to: _renamed(root, path, to, RENAME_EXCHANGE),
    "link": _link,
    "symlink": lambda root, path, to: (lambda at: os.symlink(to, at[1], dir_fd=at[0]))(_at(root, path)),
    "chmod": _chmod,
    "chown": lambda root, path, owner: os.chown(_place(root, path), *owner, follow_symlinks=False),
    "utime": lambda root, path, time: os.utime(_place(root, path), ns=(time, time), follow_symlinks=False),
    "setxattr": _setxattr,
    "removexattr": lambda root, path, name: os.removexattr(_place(root, path), name, follow_symlinks=False),
    "mknod": lambda root, path, kind: (lambda at: os.mknod(at[1], kind | 0o600, dir_fd=at[0]))(
        _at(root, path)
    ),
}
