"""Directories in tmp/ in which something is being made or removed, each held by whoever does so.

    tmp/<id>/
    ├── lock      held with flock while somebody works here
    └── ...       what is being made, or removed

Whoever dies leaves one that nobody holds; `burial.bury_all`, which every verb calls now and then, removes it.
"""

from __future__ import annotations

import os
from errno import ENOTEMPTY

from lamina.store import lock, names
from lamina.store.root import make_directory
from lamina.store.trace import point
from lamina.store.tree import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.store.root import Store

    Remove = Callable[[bytes], None]

# somebody who cleans up may take a directory for a left-over before its maker has locked it
_ATTEMPTS = 100


class Scratch:
    """A held directory in tmp/. `path` is absolute bytes."""

    __slots__ = ("_lock", "path")

    def __init__(self, store: Store) -> None:
        """Raises OSError."""
        for attempt in range(_ATTEMPTS):
            self.path = store.tmp + b"/" + names.new_id().encode()
            try:
                point("scratch.mkdir")
                make_directory(self.path, 0o700)
                point("scratch.lock")
                held = lock.take(self.path + b"/lock", lock.LOCK_EX, create=True)
            except FileNotFoundError:
                if attempt == _ATTEMPTS - 1 or not os.path.isdir(store.tmp):
                    raise
                continue
            except OSError:
                if os.path.lexists(self.path):
                    os.rmdir(self.path)
                raise
            assert held is not None
            self._lock = held
            return

    def remove(self, remove: Remove = remove_tree) -> None:
        """Remove it with everything in it, the lock last, and let go.

        What cannot be removed now (PermissionError: files of subordinate ids) stays for `burial.bury_all`.
        Raises what *remove* raises.
        """
        if not self._lock.held:
            return
        try:
            point("scratch.remove")
            for entry in os.listdir(self.path):
                if entry != b"lock":
                    remove(self.path + b"/" + entry)
            os.unlink(self.path + b"/lock")
            point("scratch.rmdir")
            self._rmdir()
        except FileNotFoundError:
            pass
        finally:
            self._lock.release()

    def _rmdir(self) -> None:
        try:
            os.rmdir(self.path)
        except OSError as error:
            # somebody who buries has just locked it anew, and removes it (containers.py, `bury`)
            if error.errno != ENOTEMPTY:
                raise

    def leave(self) -> None:
        """Let go without removing anything: somebody else will."""
        self._lock.release()

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()
