"""Claims: of several processes that want to make the same thing one makes it, and the others wait and use it.

    with claim(store, diff_id):
        layer = find(store, layer_id(diff_id))
        if layer is None:
            ...                                          # nobody else unpacks it meanwhile

A claim protects nothing but work: two who make the same layer without one get one layer all the same (`Stage.commit`).
"""

from __future__ import annotations

import os

from lamina.store import lock
from lamina.store.digest import is_digest
from lamina.store.root import raise_storage_error
from lamina.store.trace import point

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.store.root import Store


class Claim:
    """A held claim: given up by `release()` or at the end of a `with`. `key` is a digest or a layer's id."""

    __slots__ = ("_lock", "_path", "key")

    def __init__(self, held: lock.Lock, path: bytes, key: str) -> None:
        self._lock, self._path, self.key = held, path, key

    def release(self) -> None:
        """Give the claim up; a second call does nothing."""
        if self._lock.held:
            try:
                os.unlink(self._path)  # those who wait find out that it is not this file any more
            except OSError:
                pass
            self._lock.release()

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def claim(store: Store, key: str) -> Claim:
    """Claim *key*, a digest or a layer's id, waiting for whoever has it. Raises InvalidInput, KernelError."""
    found = _claim(store, key, wait=True)
    assert found is not None
    return found


def try_claim(store: Store, key: str) -> Claim | None:
    """As `claim`, but None when somebody has it."""
    return _claim(store, key, wait=False)


def _claim(store: Store, key: str, *, wait: bool) -> Claim | None:
    from lamina.store.layers import check_id

    name = key.replace(":", "-") if is_digest(key) else check_id(key)
    path = store.claims + b"/" + name.encode()
    try:
        point("claim.take")
        held = lock.take(path, lock.LOCK_EX, wait=wait, create=True)
    except OSError as error:
        raise_storage_error(error, f"claim {key}", path)
    return None if held is None else Claim(held, path, key)


def sweep(store: Store) -> None:
    """Remove the files of those who were killed with a claim."""
    for entry in os.listdir(store.claims):
        path = store.claims + b"/" + entry
        try:
            held = lock.take(path, lock.LOCK_EX, wait=False)
        except FileNotFoundError:
            continue
        if held is not None:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
            finally:
                held.release()
