"""This machine as an image, composed anew only when its mounts have changed."""

from __future__ import annotations

import os

from lamina.engine.host import check_store, compose
from lamina.linux.fd import Fd
from lamina.linux.mountinfo import parse_mountinfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from lamina.engine.host import HostImage
    from lamina.store.root import Store

SYSTEM_STORE = b"/var/lib/lamina"

# the text of mountinfo, what is hidden, and what was made of them; replaced whole, so threads may share it
_latest: tuple[bytes, tuple[bytes, ...], HostImage] | None = None


def picture(store: Store, *, rootless: bool, refused: Mapping[bytes, str] | None = None) -> HostImage:
    """The image `host` as it is now, without the stores. *refused*: see `compose`. Raises Unsupported, KernelError."""
    global _latest
    hide = _stores(store)
    text = _read_mountinfo()
    latest = _latest
    # a skeleton is made of directory entries, which come and go without any mount
    if latest is not None and latest[:2] == (text, hide) and not rootless and not refused:
        return latest[2]
    mounts = parse_mountinfo(text)
    check_store(store.path, mounts)
    image = compose(mounts, hide=hide, refused=refused, rootless=rootless)
    if not rootless and not refused:
        _latest = (text, hide, image)
    return image


def mounts_changed() -> bool:
    """Whether the machine's mounts are others than when `picture` last looked. (Who needs a skeleton is told so.)"""
    latest = _latest
    return latest is None or latest[0] != _read_mountinfo()


def _read_mountinfo() -> bytes:
    with Fd(os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)) as file:
        chunks = []
        while chunk := os.read(file, 1 << 16):
            chunks.append(chunk)
    return b"".join(chunks)


def _stores(store: Store) -> tuple[bytes, ...]:
    """Ours, and the system's own where that is another."""
    if store.path != SYSTEM_STORE and os.path.isdir(SYSTEM_STORE):
        return (store.path, SYSTEM_STORE)
    return (store.path,)
