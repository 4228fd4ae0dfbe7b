"""What is in the volumes of a container, as part of a state, where that was asked for (`snapshot --volumes`).

A volume is mounted where others may be at work in it, so it cannot become a layer by a rename. It is copied while the
container stands still: by reflink where the file system can, else all of it. The copy is kept as a layer is, so that
leases, collection and checks know it, but no mount ever has it below it. `rewind` puts a copy of it in the place of
what the volume has, of a container that does not run; a fork gets volumes of its own that begin with it.
"""

from __future__ import annotations

import os

from lamina.engine.mounted import volumes_of
from lamina.engine.options import VOLUME, Volume
from lamina.errors import Conflict, Corrupt, NotFound
from lamina.linux.fd import Fd
from lamina.store import layers, volumes
from lamina.store.containers import LIVING, Home
from lamina.store.snapshots import VolumeState
from lamina.store.trace import point
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from lamina.engine.id_maps import IdMaps
    from lamina.image.apply.ids import IdMap
    from lamina.store.leases import Lease
    from lamina.store.lock import Lock
    from lamina.store.stage import Stage

    Record = dict[str, Any]

# what is on its way into a volume, and what was in it before, in the container's directory
COMING, BEFORE = b"volume-new-", b"volume-old-"


def writable(asked: Record) -> dict[str, str]:
    """The volumes of the store that the container whose record is *asked* may write to: where each is, by name."""
    return {
        str(one["name"]): str(one["target"])
        for one in asked.get("volumes") or ()
        if one.get("kind") == VOLUME and not {"ro", "rro"} & {*(one.get("options") or ())}
    }


class Copies:
    """Copies of the volumes of a container, in the making. For a `with`: what was not kept is thrown away."""

    def __init__(self, home: Home, asked: Record, held: Lease) -> None:
        self._home, self._asked, self._held = home, asked, held
        self._stages: dict[str, Stage] = {}

    def __enter__(self) -> Copies:
        return self

    def __exit__(self, *_: object) -> None:
        from lamina.engine.discard import remover

        for stage in self._stages.values():
            stage.close(remover(self._asked))

    def take(self) -> None:
        """Copy them as they are now, in the place of what was copied before. Raises OSError, KernelError."""
        from lamina.engine.upper_copy import copy_upper

        for name in writable(self._asked):
            if name not in self._stages:
                self._stages[name] = layers.stage(self._home.store, None, self._held)
            point("volume.copy")
            data = volumes.data_of(self._home.store, name)
            copy_upper(data, self._stages[name].path, self._asked, shared=True)

    def keep(self, origin: Mapping[str, Any]) -> tuple[VolumeState, ...]:
        """What was copied, on the disk, and kept by the lease. Raises KernelError."""
        found = []
        for name, target in writable(self._asked).items():
            extra = {"volume": name, "origin": {"container": self._home.id, **origin}}
            made = self._stages[name].commit(None, None, None, extra)
            found.append(VolumeState(name, target, made.id))
        return tuple(found)


# -- back into the volumes


class PuttingBack:
    """Volumes of a container that does not run, held so that nobody begins to use them. For a `with`."""

    def __init__(self, home: Home, verb: str, names: Iterable[str]) -> None:
        self._home, self._verb, self.names = home, verb, list(names)
        self._held: list[Lock] = []

    def __enter__(self) -> PuttingBack:
        try:
            self._hold()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for lock in self._held:
            lock.release()
        self._held.clear()

    def _hold(self) -> None:
        from lamina.engine.settling import state_of
        from lamina.store.references import ContainerUses

        store, said = self._home.store, f"{self._verb} container {self._home.shown}"
        for name in self.names:
            self._held.append(volumes.hold_alone(store, name, anonymous=name.startswith(f"{self._home.id}-")))
        uses = ContainerUses(store).refresh()
        for name in self.names:
            for use in uses.of_volume(name):
                try:
                    lives = use.id != self._home.id and state_of(Home(store, use.id)) in LIVING
                except NotFound:  # it was removed meanwhile
                    continue
                if lives:
                    raise Conflict(
                        f"{said}: its state has the volume {name}, which {use.shown} uses, and that runs",
                        remedy="stop that first, or leave volumes as they are: --no-volumes",
                    )

    def prepare(self, states: Iterable[VolumeState], asked: Record) -> None:
        """Copies of what they had in that state, in the container's directory. Raises OSError, Corrupt."""
        from lamina.engine.freezing import is_volatile
        from lamina.engine.upper_copy import copy_upper
        from lamina.store.durable import sync_file_system

        for one in states:
            tree = layers.tree_of(self._home.store, one.layer)
            if not os.path.lexists(tree):
                raise Corrupt(f"volume {one.name}: the copy {one.layer[:12]} of it is missing")
            point("volume.copy")
            copy_upper(tree, self._home.path + b"/" + COMING + one.name.encode(), asked)
        if not is_volatile(asked):
            with Fd(os.open(self._home.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as place:
                sync_file_system(place, what="volume")

    def exchange(self) -> None:
        """What was prepared takes the place of what they have, which goes with the next sweep (burials.py). Each step
        can be done once more. Raises OSError.
        """
        from lamina.engine.within import maps_of, reach
        from lamina.store.durable import sync_directory

        def move(source: bytes, target: bytes) -> None:
            # whoever gives a directory another one above it has to be allowed to write to it
            reach(lambda: maps_of(self._home.asked()), os.rename, source, target)

        for name in map(str.encode, self.names):
            coming, before = self._home.path + b"/" + COMING + name, self._home.path + b"/" + BEFORE + name
            data = volumes.data_of(self._home.store, name.decode())
            if os.path.lexists(coming):
                if os.path.lexists(data) and not os.path.lexists(before):
                    point("volume.rename")
                    move(data, before)
                point("volume.rename")
                move(coming, data)
                sync_directory(os.path.dirname(data), what="volume")


# -- of a fork


def given(
    volumes: Iterable[Volume], states: Iterable[VolumeState], mounted: Iterable[Record]
) -> tuple[Volume, ...]:
    """The *volumes* of a fork, of which those of *states* are new ones of its own, in all places where its parent has
    *mounted* them, as that one's record says.
    """
    names = {one.name.encode() for one in states}
    theirs = {one.target: one for one in volumes_of(mounted) if one.kind == VOLUME and one.source in names}
    asked = list(volumes)
    known = {volume.target for volume in asked}
    # what the image declares, or another container has
    asked += [volume for target, volume in theirs.items() if target not in known]
    numbers: dict[bytes, int] = {}
    for number, volume in enumerate(asked):
        if volume.kind == VOLUME and (same := theirs.get(volume.target)) is not None:
            own = numbers.setdefault(same.source, number)
            asked[number] = replace(volume, source=b"-%d" % own, copy=False)
    return tuple(asked)


def begin_with(
    home: Home,
    wanted: Iterable[Volume],
    states: Iterable[VolumeState],
    held: Lease,
    asked: Record,
    owners: tuple[IdMaps | None, IdMaps | None] | None,
) -> list[Lock]:
    """Make the volumes of the fork at *home*, of those *wanted*, that begin with *states*; the locks keep them until
    its record, *asked*, is written. *held* keeps the copies meanwhile. *owners* are its parent's ids and its own, where
    these are others. Raises Corrupt, OSError, KernelError.
    """
    from lamina.engine.mounted import named
    from lamina.engine.upper_copy import copy_upper

    by_target = {os.fsencode(one.target): one for one in states}
    own = named(home.id, tuple(wanted))
    # files of a volume that is only mounted with mapped ids are numbered as inside
    outside = {volume.source for volume in own if "idmap" not in volume.options}
    locks: list[Lock] = []
    try:
        for volume in own:
            state = by_target.get(volume.target)
            if state is None or volume.kind != VOLUME:
                continue
            if not held.add_layer(state.layer):
                raise Corrupt(f"fork: the copy {state.layer[:12]} of volume {state.name} is missing")
            name = volume.source.decode()
            asked.setdefault("volumes", []).append(
                {"name": name}
            )  # so that it goes with a fork that comes to nothing
            locks.append(volumes.hold(home.store, name, create=True, anonymous=True))
            becoming = _becoming(owners) if volume.source in outside else None
            tree, data = layers.tree_of(home.store, state.layer), volumes.data_of(home.store, name)
            copy_upper(tree, data, asked, ids=becoming)
    except BaseException:
        for lock in locks:
            lock.release()
        raise
    return locks


def _becoming(owners: tuple[IdMaps | None, IdMaps | None] | None) -> IdMap | None:
    """What the owners of files become; nothing else where one of the two has the usual ids."""
    if owners is None or None in owners:
        return None
    from lamina.image.apply.ids import IdMap

    before, after = (IdMap(one.uids, one.gids) for one in owners if one is not None)
    return before.towards(after)
