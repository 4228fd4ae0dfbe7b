"""Where warm processes are found: one directory of the user's, a socket and a lock for each.

    /run/lamina/                 of root; of others $XDG_RUNTIME_DIR/lamina. 0700
    ├── 0123456789abcdef         the socket, 0600; the name says in what surroundings (cli/warm_client.h)
    └── 0123456789abcdef.lock    held (flock) as long as the process lives; contains its pid

Clients open the directory, look whose it is, and reach the socket through that descriptor: nobody else can put one
there, and no component of a path can be exchanged. Nothing is in the abstract name space, which network namespaces
share out.
"""

from __future__ import annotations

import fcntl
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LOCK = ".lock"


def directory(environment: Mapping[str, str]) -> str | None:
    """The directory for this user; None where there is no place that is theirs alone."""
    if os.geteuid() == 0:
        return "/run/lamina"
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    return f"{runtime}/lamina" if runtime.startswith("/") else None


def switch(environment: Mapping[str, str]) -> str | None:
    """The file whose presence says that the user wants no warm processes; None where there is no home."""
    home = environment.get("XDG_CONFIG_HOME", "")
    if home.startswith("/"):
        return f"{home}/lamina/warm-off"
    home = environment.get("HOME", "")
    return f"{home}/.config/lamina/warm-off" if home.startswith("/") else None


def opened(path: str) -> int:
    """The directory *path*, if it is one, ours, and nobody else's. Raises OSError."""
    found = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    about = os.fstat(found)
    if about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) != 0o700:
        os.close(found)
        raise PermissionError(f"{path} is not this user's alone (0700)")
    return found


def is_locked(at: int, name: str) -> bool:
    """Whether a process holds the lock of *name* in the directory *at*: one that lives, or is being started."""
    try:
        lock = os.open(name + LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=at)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def names(at: int) -> Iterator[str]:
    """The names in the directory *at*, of the living and of those that were killed."""
    found = {entry.removesuffix(LOCK) for entry in os.listdir(at)}
    return (name for name in sorted(found) if len(name) == 16 and set(name) <= set("0123456789abcdef"))


def sweep(at: int, but: str) -> None:
    """Remove what processes left that were killed; *but* is the name of ours."""
    for name in names(at):
        if name == but:
            continue
        try:
            lock = os.open(
                name + LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=at
            )
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(at, name)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


def remove(at: int, name: str) -> None:
    """Remove socket and lock of *name*; by who holds the lock."""
    for entry in (name, name + LOCK):
        try:
            os.unlink(entry, dir_fd=at)
        except FileNotFoundError:
            pass
