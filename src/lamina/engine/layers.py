"""The layers of one container: which overlays its root consists of, made ready on disk.

`arrange` is pure and serves `lamina plan` as well; `furnish` makes the directories.
"""

from __future__ import annotations

import os
from errno import EACCES, EEXIST, EINVAL, ENODATA, ENOENT, ENOTSUP, EPERM
from stat import S_IMODE

from lamina.engine.places import COPY, DIRECTORY
from lamina.overlay.spec import MountSpec, steady_options, top_first
from lamina.store.root import make_directory
from lamina.store.tree import hold, remove_tree
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from lamina.engine.places import HostImage
    from lamina.store.root import Store

# no set-uid program and no device of the host is anything but a file here (CVE-2023-0386)
ATTRIBUTES = ("nosuid", "nodev")


@value
class Layers:
    """What a container's root consists of. `stacks` are (place, stack) pairs, parents first; the first is the root.
    `frozen` are, for each of them, the ids of the layers that were frozen out of what it wrote, BASE FIRST: they are
    the topmost lower directories.
    """

    stacks: tuple[tuple[bytes, MountSpec], ...]
    image: HostImage
    home: bytes
    frozen: tuple[tuple[str, ...], ...] = ()

    @property
    def rootfs(self) -> MountSpec:
        """The stack of the root."""
        return self.stacks[0][1]

    @property
    def overlays(self) -> tuple[tuple[bytes, MountSpec], ...]:
        """Those at other places."""
        return self.stacks[1:]


def arrange(
    image: HostImage,
    store: Store,
    home: bytes,
    *,
    rootless: bool,
    volatile: bool,
    read_only: bool,
    kept: Mapping[bytes, int] | None = None,
    frozen: Mapping[bytes, tuple[str, ...]] | None = None,
) -> Layers:
    """The stacks of a container in the directory *home*. With *volatile* a crash of the machine may lose them; with
    *read_only* nothing but the root has an upper (the root's is needed to make mount points, and closed later). *kept*
    are the numbers of the uppers that it has from an earlier start, by their places; *frozen* its chain there.
    """
    stacks = []
    chains = [(frozen or {}).get(place.at, ()) for place in image.places]
    numbers = _numbers(image, kept) if kept else range(len(image.places))
    around = _around(image, store)
    for position, (number, place, chain) in enumerate(zip(numbers, image.places, chains, strict=True)):
        lower = place.lower if place.skeleton is None else home + b"/skeleton/%d" % place.skeleton
        lowers = (*_trees(store, chain), lower, *place.below)
        if place.writable and not (read_only and position):
            spec = MountSpec(
                lowerdirs=lowers,
                upperdir=home + b"/upper-%d" % number,
                workdir=home + b"/work-%d" % number,
                userxattr=rootless,
                volatile=volatile,
                options=steady_options(rootless),
                nested=place.at in around and place.skeleton is None,
            )
        else:  # without an upper the kernel wants two lowers
            lowers = lowers if len(lowers) > 1 else (lower, store.empty)
            spec = MountSpec(
                lowerdirs=lowers,
                userxattr=rootless,
                options=steady_options(rootless),
                nested=bool(chain) and place.at in around and place.skeleton is None,
            )
        stacks.append((place.at, spec))
    return Layers(tuple(stacks), image, home, tuple(chains))


def _around(image: HostImage, store: Store) -> frozenset[bytes]:
    """The places whose lower directories contain the store, and with it the layers that may lie above them."""
    if not image.hide:
        return frozenset()
    own, found = os.stat(store.path), set()
    for path in image.hide:
        try:
            if not os.path.samestat(os.stat(path), own):  # another one, hidden as well
                continue
        except OSError:
            continue
        above = [place.at for place in image.places if (path + b"/").startswith(place.at.rstrip(b"/") + b"/")]
        found.add(max(above, key=len, default=b""))
    return frozenset(found)


def _trees(store: Store, chain: tuple[str, ...]) -> tuple[bytes, ...]:
    if not chain:
        return ()
    from lamina.store.layers import tree_of

    return tuple([tree_of(store, layer) for layer in top_first(chain)])


def _numbers(image: HostImage, kept: Mapping[bytes, int]) -> list[int]:
    """A place keeps the upper that was its own; new ones get numbers that nobody had."""
    free = max(kept.values()) + 1
    found = []
    for place in image.places:
        number = kept.get(place.at)
        if number is None:
            number, free = free, free + 1
        found.append(number)
    return found


def furnish(layers: Layers, again: Callable[[bytes], None] | None = None) -> None:
    """Make the directories that the stacks name. Raises OSError.

    *again* is for a container that may have been started before: its uppers stay as they are, and what else there is
    is removed by *again* first (the kernel does not mount over a work directory of a mount that was not synced).
    """
    if again is not None:
        for name in os.listdir(layers.home):
            if name.startswith(b"work-") or name == b"skeleton":
                again(layers.home + b"/" + name)
    if layers.image.stubs:
        _build_skeletons(layers)
    for place, (_, spec), chain in zip(layers.image.places, layers.stacks, layers.frozen, strict=True):
        if spec.upperdir is not None and spec.workdir is not None:
            os.mkdir(spec.workdir, 0o700)
            below = spec.lowerdirs[0] if chain else place.lower
            if again is None:
                os.mkdir(spec.upperdir, 0o700)
                resemble(spec.upperdir, below, userxattr=spec.userxattr)
            elif not os.path.lexists(
                spec.upperdir
            ):  # of a place that is new; killed here, the next start makes it
                make_directory(spec.upperdir + b".new", 0o700, exist_ok=True)
                resemble(spec.upperdir + b".new", below, userxattr=spec.userxattr)
                os.rename(spec.upperdir + b".new", spec.upperdir)


def unfurnish(home: bytes) -> None:
    """Remove what `furnish` made in the directory *home*, for another try. Raises OSError."""
    for name in os.listdir(home):
        if name.startswith((b"upper-", b"work-", b"over-")) or name == b"skeleton":
            remove_tree(home + b"/" + name)


def unmark(layers: Layers) -> None:
    """Remove the marks by which the kernel refuses to mount what was not synced a second time, of stacks that nobody
    will mount a second time: two directories that need not be removed when somebody waits for the end.
    """
    for _, spec in layers.stacks:
        if spec.volatile and spec.workdir is not None:
            marks = spec.workdir + b"/work/incompat"
            try:
                os.unlink(marks + b"/volatile/dirty")
                for mark in (marks + b"/volatile", marks):
                    hold(mark)
                    os.rmdir(mark)
            except OSError:  # they go with the container
                pass


def resemble(upper: bytes, lower: bytes, *, userxattr: bool) -> None:
    """A merged directory has the attributes of its upper: make them those of the lower, as copying up does."""
    found = os.stat(lower)
    try:
        os.chown(upper, found.st_uid, found.st_gid)
    except OSError as error:
        # an ordinary user's container; an id that is not mapped here
        if error.errno not in (EPERM, EINVAL):
            raise
    os.chmod(upper, S_IMODE(found.st_mode))
    try:
        for name in os.listxattr(lower):
            if not is_mark(name, userxattr):
                os.setxattr(upper, name, os.getxattr(lower, name))
    except OSError as error:
        if error.errno not in (ENOTSUP, EPERM, ENODATA, EACCES):
            raise
    os.utime(upper, ns=(found.st_atime_ns, found.st_mtime_ns))


def is_mark(name: str, userxattr: bool) -> bool:
    """Whether *name* is an attribute of overlayfs' own, which no mount shows: not one that somebody inside calls so,
    which overlayfs keeps under a longer name (overlayfs.rst, "Nesting overlayfs mounts").
    """
    prefix = "user.overlay." if userxattr else "trusted.overlay."
    return name.startswith(prefix) and not name.startswith(prefix + "overlay.")


def _build_skeletons(layers: Layers) -> None:
    os.mkdir(layers.home + b"/skeleton", 0o700)
    tops = {place.skeleton: place.at for place in layers.image.places if place.skeleton is not None}
    for stub in layers.image.stubs:
        relative = stub.path[len(tops[stub.skeleton]) :].lstrip(b"/")
        path = layers.home + b"/skeleton/%d" % stub.skeleton + (b"/" + relative if relative else b"")
        try:
            if stub.kind == DIRECTORY:
                make_directory(path, stub.mode)
            elif stub.kind == "link":
                os.symlink(stub.target, path)
            elif stub.kind == COPY:
                _copy(stub.path, path, stub.mode)
            else:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
                os.chmod(path, stub.mode)
        except OSError as error:
            gone = error.errno == ENOENT and stub.kind == COPY  # from the host, since it was listed
            if error.errno != EEXIST and not gone:
                raise


def _copy(source: bytes, target: bytes, mode: int) -> None:
    """A small file with its mode and times, so that it does not seem to have been changed."""
    reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(reader)
        writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            while data := os.read(reader, 1 << 20):
                while data:
                    data = data[os.write(writer, data) :]
            os.fchmod(writer, mode)
            os.utime(writer, ns=(found.st_atime_ns, found.st_mtime_ns))
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def record_of(layers: Layers) -> list[dict[str, Any]]:
    """The stacks as the container's record keeps them: what lies in the store by paths from the container's directory
    on. The inode of a lower directory that can become another tells later whether it has. Of a chain see
    engine/chains.py.
    """
    return [
        {
            "at": at,
            "inode": 0 if place.lasting else inode_of(spec.lowerdirs[len(top_first(chain))]),
            "lower": [_shortened(lower, layers.home) for lower in spec.lowerdirs],
            "upper": None if spec.upperdir is None else _shortened(spec.upperdir, layers.home),
            "work": None if spec.workdir is None else _shortened(spec.workdir, layers.home),
            "userxattr": spec.userxattr,
            **({"frozen": list(chain)} if chain else {}),
            **({"nested": True} if spec.nested else {}),
        }
        for place, (at, spec), chain in zip(layers.image.places, layers.stacks, layers.frozen, strict=True)
    ]


def uppers_of(record: list[dict[str, Any]]) -> dict[bytes, int]:
    """The numbers of the uppers in a record, just made or read, by their places: what `arrange` takes as *kept*."""
    return {
        os.fsencode(entry["at"]): int(os.fsdecode(entry["upper"]).rpartition("-")[2])
        for entry in record
        if entry["upper"] is not None
    }


def inode_of(directory: bytes) -> int:
    """Its inode number, 0 where there is none to be seen."""
    try:
        return os.stat(directory).st_ino
    except OSError:
        return 0


def stacks_of(record: list[dict[str, Any]], home: bytes) -> list[tuple[bytes, MountSpec]]:
    """The way back from `record_of`, for a container whose directory is *home*."""
    return [
        (
            os.fsencode(entry["at"]),
            MountSpec(
                lowerdirs=tuple(lengthened(lower, home) for lower in entry["lower"]),
                upperdir=None if entry["upper"] is None else lengthened(entry["upper"], home),
                workdir=None if entry["work"] is None else lengthened(entry["work"], home),
                userxattr=bool(entry["userxattr"]),
                options=steady_options(bool(entry["userxattr"])),
                nested=bool(entry.get("nested")),
            ),
        )
        for entry in record
    ]


def _shortened(path: bytes, home: bytes) -> bytes:
    if path.startswith(home + b"/"):
        return path[len(home) + 1 :]
    store = home.rpartition(b"/containers/")[0]
    return b"../.." + path[len(store) :] if store and path.startswith(store + b"/") else path


def lengthened(path: str, home: bytes) -> bytes:
    """A path of the record of the container whose directory is *home*, in full."""
    name = os.fsencode(path)
    if name.startswith(b"../../"):
        return home.rpartition(b"/containers/")[0] + name[len(b"../..") :]
    return name if name.startswith(b"/") else home + b"/" + name
