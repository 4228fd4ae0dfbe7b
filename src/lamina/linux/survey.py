"""Looking at the same few files of many directories: what a listing of hundreds of containers does.

From Python a look costs two to three times what the kernel takes for it: a path is put together, an object with twenty
fields made, and, where nothing is there, an exception. `survey` does all in compiled code, or one by one in Python
where that was not compiled.
"""

from __future__ import annotations

import os

try:
    from lamina.linux._native import survey as _survey
except ImportError:  # no compiler when the package was built: `lamina info` says so
    _survey = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    # inode, size in bytes, time of the last change of content and of inode in nanoseconds since 1970
    Look = tuple[int, int, int, int]


def survey(directory: int, names: list[bytes], files: tuple[bytes, ...]) -> list[tuple[Look | None, ...]]:
    """Of each of *names* what is known of each of *files* in the directory of that name below the descriptor
    *directory*; None where nothing has that name. Nothing is followed at the end. fstatat(2); raises OSError.
    """
    return (survey_one_by_one if _survey is None else _survey)(directory, names, files)


def survey_one_by_one(
    directory: int, names: list[bytes], files: tuple[bytes, ...]
) -> list[tuple[Look | None, ...]]:
    """As _native.survey."""
    return [tuple([_look(directory, name + b"/" + file) for file in files]) for name in names]


def _look(directory: int, path: bytes) -> Look | None:
    try:
        found = os.stat(path, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
