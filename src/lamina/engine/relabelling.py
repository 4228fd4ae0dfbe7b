"""`z` and `Z` of a volume: SELinux labels for its files, so that the container's process, if it has one, may use them.

The file's label is the process' own with the role and the type that files of containers have (container-selinux). `z`:
every container may use them, so the level has no categories; `Z`: this one alone, so it is the process' level, in which
two categories stand for the container. Where the process is not labelled there is nothing to be labelled for.
podman-run(1), "Labeling Volume Mounts"; user_contexts(5)
"""

from __future__ import annotations

import os
import stat
from errno import ELOOP, ENODATA, EOPNOTSUPP

from lamina.linux.fd import Fd

ATTRIBUTE = "security.selinux"
FILES = "container_file_t"
CATEGORIES = 1024  # c0 to c1023
DEEPEST = 500  # levels below: each is a descriptor here
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def is_there() -> bool:
    """Whether SELinux runs on this host: else nobody reads labels, and the start of a labelled process is refused."""
    return os.path.exists("/sys/fs/selinux/enforce")


def level_of(identity: str) -> str:
    """The level of the container with that id: two categories of its own, as podman and docker give them."""
    first, second = int(identity[:8], 16) % CATEGORIES, int(identity[8:16], 16) % (CATEGORIES - 1)
    second += second >= first  # another one
    return f"s0:c{min(first, second)},c{max(first, second)}"


def file_label(process: str, *, shared: bool) -> str:
    """What files are labelled for a process with the label *process*, "USER:ROLE:TYPE:LEVEL"."""
    user, _, _, level = process.split(":", 3)
    return f"{user}:object_r:{FILES}:{level.partition(':')[0] if shared else level}"


def relabel(path: bytes, label: str) -> bool:
    """Label *path* and all that is in it on the same file system; links are labelled, not followed. False where the
    file system keeps no labels. Raises OSError.
    """
    text = label.encode() + b"\0"
    with Fd(os.open(path, os.O_PATH | os.O_CLOEXEC)) as top:
        if not _set(top, text):
            return False
        if stat.S_ISDIR(os.fstat(top).st_mode):
            with Fd(
                os.open(b"/proc/self/fd/%d" % top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            ) as directory:
                _below(directory, text)
    return True


def _below(directory: Fd, text: bytes, depth: int = 0) -> None:
    if depth > DEEPEST:
        raise OSError(ELOOP, os.strerror(ELOOP))
    device = os.fstat(directory).st_dev
    for name in os.listdir(directory):
        try:
            with Fd(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)) as entry:
                found = os.fstat(entry)
                if found.st_dev != device:
                    continue  # something is mounted there: it has labels of its own
                _set(entry, text)
            if stat.S_ISDIR(found.st_mode):
                with Fd(os.open(name, _DIRECTORY, dir_fd=directory)) as below:
                    _below(below, text, depth + 1)
        except (NotADirectoryError, FileNotFoundError):  # exchanged, or gone, meanwhile
            continue


def _set(entry: int, text: bytes) -> bool:
    """Label what the descriptor is of, unless it is so labelled; by way of it, whatever it is called by now."""
    place = b"/proc/self/fd/%d" % entry
    try:
        if os.getxattr(place, ATTRIBUTE) == text:
            return True
    except OSError as error:
        if error.errno not in (ENODATA, EOPNOTSUPP):
            raise
    try:
        os.setxattr(place, ATTRIBUTE, text)
        return True
    except OSError as error:
        if error.errno != EOPNOTSUPP:
            raise
        return False
