"""This machine as an image, composed anew only when its mounts have changed; see lamina/engine/host.py.

What `compose` makes depends on the table of mounts and on what kind of thing each is mounted on, which cannot change
while it is mounted. So it is kept, in memory and in the store's cache, by the text of the table. Not kept is what was
made when something could not be looked at, which may be different a moment later; and what was made for a user
namespace, whose skeletons consist of directory entries, which come and go without any mount.
"""

from __future__ import annotations

import _thread
import os
from errno import ENOENT
from marshal import dumps, loads

from lamina.engine.places import CLOSED, GONE, HostImage, Place
from lamina.errors import CommandNotExecutable, CommandNotFound, StepFailed
from lamina.linux.fd import Fd
from lamina.runtime.kept import kept, state_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from lamina.store.root import Store

SYSTEM_STORE = b"/var/lib/lamina"
VERSION = 1  # of the form of what is kept
# how often a start is drawn up anew because the machine's mounts (in a user namespace, directories) have changed
AGAIN = 20
# or because something is gone that was there when it was looked at: a neighbour of a mount, in a user namespace
GONE_AGAIN = 3
_OF_THE_COMMAND = (CommandNotFound, CommandNotExecutable)
_HERE = os.path.dirname(__file__)
SOURCES = tuple(
    os.path.normpath(os.path.join(_HERE, path))
    for path in ("host.py", "places.py", "picture.py", "../linux/mountinfo.py")
)

# the text of mountinfo, what is hidden, and what was made of them; replaced whole, so threads may share it
_latest: tuple[bytes, tuple[bytes, ...], HostImage] | None = None
# the text that a thread looked at last: others may know of another mount by now
_mine = _thread._local()


def picture(store: Store, *, rootless: bool, refused: Mapping[bytes, str] | None = None) -> HostImage:
    """The image `host` as it is now, without the stores. *refused*: see `compose`. Raises Unsupported, KernelError."""
    global _latest
    hide = _stores(store)
    text = _mine.looked_at = _read_mountinfo()
    if rootless or refused:
        return _composed(store, text, hide, rootless=rootless, refused=refused)[0]
    latest = _latest
    if latest is not None and latest[:2] == (text, hide):
        return latest[2]
    made: HostImage | None = None

    def make() -> bytes:
        nonlocal made
        made, lasting = _composed(store, text, hide)
        return _packed(made) if lasting else b""

    content = dumps((VERSION, state_of(*SOURCES), text, hide), 2)
    found = kept(content, store.cache + b"/host", b".image", make)
    image = made or _unpacked(found)
    _latest = (text, hide, image) if found else None
    return image


def _composed(
    store: Store,
    text: bytes,
    hide: tuple[bytes, ...],
    *,
    rootless: bool = False,
    refused: Mapping[bytes, str] | None = None,
) -> tuple[HostImage, bool]:
    """The image, and whether it is the same as long as the mounts are."""
    from lamina.engine.host import check_store, compose, kind_of
    from lamina.linux.mountinfo import parse_mountinfo

    passing = False

    def kind(path: bytes) -> str:
        nonlocal passing
        found = kind_of(path)
        passing = passing or found in (CLOSED, GONE)
        return found

    mounts = parse_mountinfo(text)
    check_store(store.path, mounts)
    image = compose(mounts, hide=hide, refused=refused, rootless=rootless, kind=kind)
    return image, not passing


def _packed(image: HostImage) -> bytes:
    places = [(place.at, place.lower, place.writable) for place in image.places]
    return dumps((places, image.readonly, image.hide, image.warnings), 2)


def _unpacked(data: bytes) -> HostImage:
    places, readonly, hide, warnings = loads(data)
    return HostImage(tuple(Place(*place) for place in places), readonly, hide, (), warnings)


def mounts_changed() -> bool:
    """Whether the machine's mounts are others than when `picture` last looked, in this thread."""
    return getattr(_mine, "looked_at", b"") != _read_mountinfo()


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


class Lessons:
    """What starts that failed have taught, for the next attempt: `refused` are places that the kernel does not take as
    a lower layer, with its reason; they are shown read-only then. *over_host*: what is mounted on this machine may come
    or go meanwhile.
    """

    def __init__(self, *, over_host: bool) -> None:
        self.refused: dict[bytes, str] = {}
        self._left = AGAIN if over_host else 0
        self._gone = GONE_AGAIN if over_host else 0

    def learn(self, error: OSError) -> bool:
        """Whether another attempt may go better than the one that ended with *error*."""
        place = error.place if isinstance(error, StepFailed) else None
        if place is not None and place not in self.refused:
            self.refused[place] = f"the kernel does not overlay it ({error.strerror})"
            return True
        if self._left and not isinstance(error, _OF_THE_COMMAND) and mounts_changed():
            self._left -= 1
            return True
        if self._gone and error.errno == ENOENT and _may_be_of_the_host(error):
            self._gone -= 1
            return True
        return False


def _may_be_of_the_host(error: OSError) -> bool:
    """Whether it may be said of something that was there when it was looked at: of a neighbour that is made anew, or of
    one that is bound (open_tree(2)); not of what was asked for, as the command and its directory are.
    """
    return not isinstance(error, StepFailed) or error.step.startswith("open_tree(")
