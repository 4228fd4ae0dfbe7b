"""Looking at the same few files of many directories: what a listing of hundreds of containers does.

From Python a look costs two to three times what the kernel takes for it: a path is put together, an object with twenty
fields made, and, where nothing is there, an exception. `survey` does all in compiled code, or one by one in Python
where that was not compiled. (`descriptors.locked` asks for their locks.)
"""

from __future__ import annotations

import os

try:
    from lamina.linux._native import survey as _survey
except ImportError:  # no compiler when the package was built: `lamina info` says so
    _survey = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    # inode, size in bytes, time of the last change of content and of inode in nanoseconds since 1970, in hexadecimal
    # digits with a space between them: looks are compared and kept as a whole
    Look = str


def survey(
    directory: int, names: list[bytes], files: tuple[bytes, ...], enough: int = -1
) -> list[tuple[Look | None, ...]]:
    """Of each of *names* what is known of each of *files* in the directory of that name below the descriptor
    *directory*; None where nothing has that name. Where files[enough] is there, it is the last that is looked at, and
    the tuple is shorter. Nothing is followed at the end. fstatat(2); raises OSError.
    """
    return (survey_one_by_one if _survey is None else _survey)(directory, names, files, enough)


def survey_one_by_one(
    directory: int, names: list[bytes], files: tuple[bytes, ...], enough: int
) -> list[tuple[Look | None, ...]]:
    """As _native.survey."""
    return [tuple(_looks(directory, name, files, enough)) for name in names]


def _looks(directory: int, name: bytes, files: tuple[bytes, ...], enough: int) -> list[Look | None]:
    found: list[Look | None] = []
    for number, file in enumerate(files):
        found.append(_look(directory, name + b"/" + file))
        if number == enough and found[number] is not None:
            break
    return found


def _look(directory: int, path: bytes) -> Look | None:
    try:
        found = os.stat(path, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return f"{found.st_ino:x} {found.st_size:x} {found.st_mtime_ns:x} {found.st_ctime_ns:x}"


def changed(look: Look) -> int:
    """When the file, or its inode, changed last: nanoseconds since 1970."""
    _, _, content, inode = look.split()
    return max(int(content, 16), int(inode, 16))
