"""What a container wrote, copied: packed as the layer of an image is, and unpacked into the store like one that comes.

That is how a commit is made where its files cannot simply stay where they are (engine/committing): they have other ids
on the disk than those of images, something goes on writing to them, or they are to be counted against limits.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from lamina.engine.archives import Reading, Writing, packed
from lamina.engine.holding import Held
from lamina.engine.pausing import Meanwhile
from lamina.engine.unpacking import unpacking
from lamina.engine.unwritten import is_same_root
from lamina.errors import Conflict, KernelError, LaminaError, Unsupported
from lamina.image.archive.load import unpack
from lamina.image.pack import pack_layer
from lamina.linux.fd import Fd
from lamina.linux.mountinfo import read_mountinfo
from lamina.linux.procfs import has_trusted_attributes
from lamina.overlay.mount_points import idle
from lamina.overlay.spec import top_first
from lamina.store.containers import LIVING, RUNNING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from lamina.engine.container import Container
    from lamina.image.apply import IdMap
    from lamina.image.tar.limits import Limits
    from lamina.overlay.spec import MountSpec
    from lamina.store.containers import Home
    from lamina.store.layers import Layer
    from lamina.store.leases import Lease


@contextmanager
def still(container: Container, home: Home, said: str, *, pause: bool) -> Iterator[None]:
    """Nothing of it runs meanwhile, unless that is what was asked for. Raises Conflict, Unsupported."""
    with ExitStack() as held:
        if container.state not in LIVING:
            try:
                held.enter_context(Held(home, "commit"))
            except Conflict:
                if container.state not in LIVING:  # else it was just being started
                    raise
            else:
                yield
                return
        if container.state == RUNNING and pause:
            try:
                held.enter_context(Meanwhile(home))
            except Unsupported as error:
                why, remedy = error.message.partition(": ")[2], f"--pause=false, or {error.remedy}"
                raise Unsupported(f"{said}: {why}", remedy=remedy) from error
        yield


def copied(
    container: Container, home: Home, held: Lease, said: str, limits: Limits, *, living: bool
) -> Layer | None:
    """What it wrote since it was last frozen as a layer of the store, kept by *held*; None where it wrote nothing.
    *living*: it goes on writing.
    """
    from lamina.engine.within import maps_of, reach

    asked = home.asked()
    try:
        spec = container.overlays()[0][1]
        made = mount_points(container, asked)
        without: list[bytes] = reach(lambda: maps_of(asked), idle, spec, made)
        if is_unwritten(spec, without):
            return None
        assert spec.upperdir is not None
        return copied_tree(home, held, spec.upperdir, frozenset(without), limits, living=living)
    except OSError as error:
        if not home.exists():
            raise Conflict(f"{said}: it was removed meanwhile") from error
        if isinstance(error, LaminaError):
            raise
        raise KernelError("commit", error.errno or 0, f"container {container.name}") from error


def copied_tree(
    home: Home, held: Lease, tree: bytes, without: Collection[bytes], limits: Limits, *, living: bool = False
) -> Layer:
    """The tree of a container (its upper, or one that was frozen) as a layer whose files have the ids of those of
    images, less what is at and below the paths *without*. Raises Unsupported, InvalidInput (limits), KernelError.
    """
    from lamina.engine.within import FIRST_FILE, inside, maps_of, owners_of

    asked = home.asked()
    ids, maps = _shown(owners_of(asked)), maps_of(asked)
    work = partial(
        pack_upper,
        upper=tree,
        userxattr=not has_trusted_attributes(),
        without=without,
        ids=ids,
        living=living,
    )

    def pack(out: Fd) -> None:
        if maps is None:
            work(out)
        else:
            inside(maps, work, FIRST_FILE, files=(out,))

    with packed(pack, f"container {asked.get('name')}") as packer:
        return unpack(home.store, _Checked(packer), None, held, unpacking(limits))


def unused(home: Home, identity: str, below: Sequence[bytes]) -> frozenset[bytes]:
    """What a start made to mount something on it in the frozen layer *identity*, which lies over the trees *below*,
    base first, as far as nothing else is there. Raises Corrupt, KernelError.
    """
    from lamina.engine.within import maps_of, reach
    from lamina.image.pack.stored import left_out
    from lamina.image.pending import find

    layer = find(home.store, identity)
    found: list[str] = reach(lambda: maps_of(home.asked()), left_out, layer, top_first(below))
    return frozenset(map(os.fsencode, found))


class _Checked(Reading):
    """What comes out of the pipe: its end is the archive's only if nothing went wrong with the packing."""

    def __init__(self, packer: Any) -> None:
        super().__init__(packer.reading)
        self._packer = packer

    def read(self, size: int, /) -> bytes:
        """As `Reading.read`. Raises what the packing raised."""
        data = super().read(size)
        if not data:
            self._packer.join()
            self._packer.check()
        return data


def pack_upper(
    out: int, *, upper: bytes, userxattr: bool, without: Collection[bytes], ids: IdMap | None, living: bool
) -> None:
    """Write the directory *upper* as a layer to the descriptor *out*: where its files can be read. *living* as in
    `pack_layer`.
    """
    with Fd(os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)) as directory:
        pack_layer(directory, Writing(out), userxattr=userxattr, ids=ids, without=without, living=living)


def _shown(maps: dict[str, Any] | None) -> IdMap | None:
    """What the ids of its files are inside, None where they are the same."""
    from lamina.image.apply import IdMap

    if not maps:
        return None
    uids, gids = (
        tuple((line["hostID"], line["containerID"], line["size"]) for line in maps[key])
        for key in ("uidMappings", "gidMappings")
    )
    return IdMap(uids, gids)


def mount_points(container: Container, asked: dict[str, Any]) -> list[bytes]:
    """Where something is mounted in it: as its record has it, or, of one that `run --rm` stays with, the kernel."""
    if asked.get("made") is not None:
        return [os.fsencode(place) for place in asked["made"]]
    pid = (container.first_process or {}).get("pid")
    try:
        return [mount.mount_point for mount in read_mountinfo(pid)] if pid else []
    except KernelError:
        return []


def is_unwritten(spec: MountSpec, idle: Collection[bytes]) -> bool:
    """Whether nothing is in the upper of *spec* but what is *idle*. Raises OSError."""
    assert spec.upperdir is not None
    try:
        with os.scandir(spec.upperdir) as entries:  # there may be many, and the first mostly tells
            if any(os.fsencode(entry.name) not in idle for entry in entries):
                return False
    except PermissionError:  # somebody wrote that it may not be read
        return False
    return is_same_root(spec)
