"""Removing containers, also those whose files belong to subordinate ids of the user.

Such files can be removed only from inside a user namespace with the container's id maps. A process of ours enters a
new one for that; the caller's own namespaces are never changed.
"""

from __future__ import annotations

import os
import sys

from lamina.errors import Corrupt, KernelError
from lamina.store import containers
from lamina.store.tree import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.store.containers import Home
    from lamina.store.root import Store

# arguments: where lamina is, the tree. Says "u" when its namespace is there and goes on when it hears of the maps.
INSIDE = """
import os, sys
sys.path.insert(0, os.fsencode(sys.argv[1]).decode('utf-8', 'surrogateescape'))
from lamina.linux.namespaces import unshare
from lamina.store.tree import remove_tree
unshare(0x10000000)
os.write(1, b'u')
if os.read(0, 1) == b'm':
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    remove_tree(os.fsencode(sys.argv[2]))
    os.write(1, b'd')
"""


def discard(home: Home, name: str | None, asked: dict[str, Any] | None) -> None:
    """Remove the container, whose lock is held, with its originals of what it applied. Raises KernelError."""
    journal = home.path + b"/apply"
    if os.path.lexists(journal):
        from lamina.engine.apply import forget

        forget(journal)
    home.discard(name, remover(asked))


def finish_burials(store: Store) -> None:
    """Go on with removals that were interrupted."""
    containers.bury_all(store, remover(None))


def remover(asked: dict[str, Any] | None) -> Callable[[bytes], None]:
    """Removes one tree of a container; *asked* is its record (None: the maps are what they are today)."""

    def remove(path: bytes) -> None:
        try:
            remove_tree(path)
        except PermissionError as error:
            if os.geteuid() == 0:
                raise KernelError("remove", error.errno or 1, os.fsdecode(path)) from error
            remove_in_namespace(path, _maps(asked))

    return remove


def _maps(asked: dict[str, Any] | None) -> dict[str, Any]:
    if asked is not None and asked.get("id_maps"):
        kept: dict[str, Any] = asked["id_maps"]
        return kept
    from lamina.engine.id_maps import id_maps

    maps = id_maps()
    if maps is None:
        raise Corrupt("remove a container: no id maps for root")
    return {"uidMappings": maps.spec("uids"), "gidMappings": maps.spec("gids")}


def remove_in_namespace(path: bytes, maps: dict[str, Any]) -> None:
    """Remove the tree *path* as root of a user namespace with *maps* (in the specification's form).

    Raises KernelError when something is left.
    """
    from lamina.runtime.id_maps import write_id_maps

    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    told, telling = os.pipe2(os.O_CLOEXEC)
    try:
        process = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", "-c", INSIDE, here, os.fsdecode(path)],
            {"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
            file_actions=[(os.POSIX_SPAWN_DUP2, told, 0), (os.POSIX_SPAWN_DUP2, theirs, 1)],
        )
        os.close(theirs)
        theirs = -1
        done = b""
        try:
            if os.read(ours, 1) == b"u":
                write_id_maps(process, maps)
                os.write(telling, b"m")
                done = os.read(ours, 1)
        finally:
            os.close(telling)
            telling = -1
            os.waitpid(process, 0)
    finally:
        for fd in (ours, theirs, told, telling):
            if fd >= 0:
                os.close(fd)
    if done != b"d" or os.path.lexists(path):
        raise KernelError(
            "remove", 1, os.fsdecode(path), hint="files of subordinate ids", remedy="see `lamina doctor`"
        )
