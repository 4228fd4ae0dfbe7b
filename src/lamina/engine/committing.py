"""A container, or a state of it, becomes an image: a record that names the layers it consists of, and what it was asked
to be.

Nothing is copied, packed or hashed. What the container wrote is frozen as a layer by a rename (engine/freezing), on top
of those of its image, and stays where it is. The digests, by which others would know these layers, are made when
somebody else is to have the image (engine/digesting, decision 0061). What a start put there only to mount something on
it is taken away before, or left out of the archive where it cannot be.

Some commits are copies all the same, see `_is_copy`; those have their digests at once.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from lamina.engine.archives import tag_of
from lamina.engine.chains import chain_of, own_layers, pending
from lamina.engine.consistency import check_consistency
from lamina.engine.digesting import digested
from lamina.engine.health.checks import TIMES
from lamina.engine.images import config_of, of_record
from lamina.engine.keeping import entrypoint_and_cmd, exposed_ports, said_of
from lamina.engine.snapshotting import DEEP
from lamina.engine.squashing import after_snapshot
from lamina.engine.storage import within_limit
from lamina.errors import Conflict, Corrupt, KernelError, LaminaError, NotFound, Unsupported
from lamina.image.archive.instructions import changed
from lamina.image.archive.load import record_of
from lamina.image.documents import DEFAULT_LIMITS, PENDING, History, RootFS, encode_config, run_config
from lamina.image.pending import find, make_lasting
from lamina.image.reference import parse
from lamina.linux.signals import signal_name
from lamina.store import blobs, images
from lamina.store.claims import claim
from lamina.store.containers import RESTARTING
from lamina.store.durable import Batch
from lamina.store.events import about, event, note
from lamina.store.leases import lease
from lamina.store.successors import now_called
from lamina.values import replace, value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lamina.engine.container import Container
    from lamina.engine.image_verbs import LayerLimits
    from lamina.engine.images import Image
    from lamina.engine.state_turn import StateTurn
    from lamina.image.documents import ImageConfig
    from lamina.store.containers import Home
    from lamina.store.images import ImageRecord
    from lamina.store.layers import Layer
    from lamina.store.leases import Lease
    from lamina.store.root import Store
    from lamina.store.snapshots import SnapshotRecord

    Run = dict[str, Any]


@value
class Wish:
    """What is asked of the new image: its canonical `name`, if it gets one; what its history says (`author`,
    `message`); `changes` as in a Dockerfile; and whether its digests are made `now`.
    """

    name: str | None = None
    author: str = ""
    message: str = ""
    changes: tuple[str, ...] = ()
    now: bool = False

    @property
    def known(self) -> str | None:
        """The name as people write it."""
        return None if self.name is None else parse(self.name).familiar


def commit(
    container: Container,
    home: Home,
    name: str | None = None,
    *,
    author: str = "",
    changes: Sequence[str] = (),
    message: str = "",
    pause: bool = True,
    limits: LayerLimits | None = None,
    now: bool = False,
    consistency: str = "auto",
    on_warning: Callable[[str], None] | None = None,
) -> Image:
    """See `Container.commit`; *home* is the container's."""
    check_consistency(consistency)
    store, said = container.store, f"commit container {container.name}"
    _over_an_image(container.image_id, said)
    wish = Wish(None if name is None else tag_of(name), author, message, tuple(changes), now)
    with _parent(store, container.image_id, said) as parent, lease(store) as held:
        asked = home.asked()
        changed(run_of(asked, parent.run)[1], wish.changes)  # first: nothing is paused for a slip of the pen
        # what goes on writing is not to be stopped, not even for the moment that freezing takes; and between two starts
        # nothing runs that could be frozen, while who looks after it holds what it wrote
        going_on = container.state == RESTARTING or (container.is_alive and not pause)
        if going_on or _is_copy(asked, limits=limits, consistency=consistency):
            record = _by_copy(container, home, parent, held, wish, pause=pause, limits=limits, said=said)
            warnings: list[str] = []
        else:
            record, warnings = _by_freezing(container, home, parent, held, wish, consistency)
    if on_warning is not None:
        for warning in warnings:
            on_warning(warning)
    if len(record.layers) >= DEEP:
        after_snapshot(home)  # which looks whether these are the container's
    return _made(store, asked, record, wish)


def to_image(home: Home, state: SnapshotRecord, name: str | None, wish: Wish) -> Image:
    """See `Snapshot.to_image`; *home* is that of its container."""
    from lamina.store import snapshots

    store, said = home.store, f"make an image of snapshot {state.shown}"
    _over_an_image(state.image_id, said)
    wish = replace(wish, name=None if name is None else tag_of(name))
    with _parent(store, state.image_id, said) as parent, lease(store) as held:
        asked = home.asked()
        if _has_other_ids(asked):
            raise Unsupported(
                f"{said}: its files have ids of its container's own on the disk, not those of an image's",
                remedy="go back to it, and commit the container, which copies them",
            )
        with snapshots.turn(home):  # or it may be gone when its layers are held
            found = snapshots.get(home, state.id)
            if found is None:
                raise snapshots.no_such(home, state.shown)
            state = found  # its layers may have been squashed since
            chain = state.chain.get(b"/", ())
            new = next((place.new for place in state.places if place.at == b"/"), None)
            wish = replace(wish, message=wish.message or state.message or state.name)
            record = _image(store, asked, parent, chain, new, held, wish, " ".join(state.command))
    return _made(store, asked, record, wish)


def _over_an_image(identity: str, said: str) -> None:
    if not identity:
        raise Unsupported(
            f"{said}: it is over this machine, which is no image",
            remedy="'lamina diff' shows what it did, 'lamina apply' does it",
        )


@contextmanager
def _parent(store: Store, identity: str, said: str) -> Iterator[ImageRecord]:
    """The image that it was made from, held. Raises NotFound."""
    try:
        held = images.hold(store, identity)
    except NotFound:
        raise NotFound(
            f"{said}: its image {identity[:12]} was removed, and with it what it says of itself",
            remedy="'lamina export' writes its files, of which 'lamina import' makes an image",
        ) from None
    with held:
        yield held.record


def _made(store: Store, asked: dict[str, Any], record: ImageRecord, wish: Wish) -> Image:
    """Say so, and look after what was asked besides."""
    known = wish.known
    note(
        store,
        about(asked, "commit", comment=wish.message, imageID=f"sha256:{record.id}", imageRef=known),
        *([] if known is None else [event("image", "tag", f"sha256:{record.id}", name=known)]),
    )
    if wish.now:
        record = digested(store, record)
    within_limit(store, [record.id])
    return of_record(store, record)


# -- its layers


def _is_copy(asked: dict[str, Any], *, limits: LayerLimits | None, consistency: str) -> bool:
    """Whether what the container whose record is *asked* wrote cannot be a layer as it is: its files have ids of its
    own, or it is to be counted against limits, or a copy was asked for.
    """
    return consistency == "copy" or bool(limits) or _has_other_ids(asked)


def _has_other_ids(asked: dict[str, Any]) -> bool:
    """Whether the files of the container have other ids on the disk than the layers of images. Root's have not: the
    kernel maps them (runtime/stacks).
    """
    from lamina.engine.id_maps import id_maps
    from lamina.engine.within import owners_of

    usual = id_maps()
    return usual is not None and (bool(asked.get("own_ids")) or owners_of(asked) != usual.spec())


def _by_freezing(
    container: Container, home: Home, parent: ImageRecord, held: Lease, wish: Wish, consistency: str
) -> tuple[ImageRecord, list[str]]:
    """In constant time: what it wrote is a layer from now on, and it goes on above that. And what is to be said of it:
    who kept it from being so.
    """
    from lamina.engine.state_turn import StateTurn

    with StateTurn(home, "commit") as turn:
        if now_called(home.store, str(turn.asked.get("image_id") or "")) != container.image_id:
            raise Conflict(
                f"commit container {container.name}: it was put on another image meanwhile",
                remedy="try again",
            )
        new = _frozen(container, turn, held, wish, consistency)
        asked = turn.asked
        chain = chain_of(asked).get(b"/", ())
        if new is not None and new not in chain:  # a copy, because processes kept it from being frozen
            chain = (*chain, new)
        return _image(container.store, asked, parent, chain, new, held, wish), list(turn.notes)


def _frozen(container: Container, turn: StateTurn, held: Lease, wish: Wish, consistency: str) -> str | None:
    """The layer that what it wrote has become; None where it wrote nothing."""
    from lamina.engine.committed_copy import is_unwritten, mount_points
    from lamina.engine.freezing import freeze
    from lamina.engine.within import maps_of, reach
    from lamina.overlay.mount_points import clear, idle
    from lamina.store import sizes

    home, asked = turn.home, turn.asked
    spec, made = container.overlays()[0][1], mount_points(container, asked)
    look = idle if turn.living else clear  # where something is mounted it has to stay
    try:
        left = reach(lambda: maps_of(asked), look, spec, made)
        if is_unwritten(spec, left if turn.living else ()):
            return None
        origin = {
            "name": container.name,
            "command": container.command,
            "message": wish.message,
            "created": time.time_ns(),
        }
        frozen = freeze(turn, held, origin=origin, consistency=consistency).made.get(b"/")
        if frozen is not None and asked.get("made") is None and made:
            places = [os.fsdecode(place) for place in made]
            sizes.amend(home.store, frozen, lambda facts: _with_made(facts, places))
    except OSError as error:
        if not home.exists():
            raise Conflict(f"commit container {container.name}: it was removed meanwhile") from error
        if isinstance(error, LaminaError):
            raise
        raise KernelError("commit", error.errno or 0, f"container {container.name}") from error
    return frozen


def _with_made(facts: dict[str, Any], places: list[str]) -> dict[str, Any]:
    return {**facts, "extra": {**(facts.get("extra") or {}), "made": places}}


def _by_copy(
    container: Container,
    home: Home,
    parent: ImageRecord,
    held: Lease,
    wish: Wish,
    *,
    pause: bool,
    limits: LayerLimits | None,
    said: str,
) -> ImageRecord:
    from lamina.engine.committed_copy import copied, copied_tree, still, unused
    from lamina.engine.freezing import settle
    from lamina.image.tar.limits import given
    from lamina.store import layers, snapshots

    store, allowed = container.store, given(wanted=limits)
    with claim(store, home.id):  # one at a time
        with still(container, home, said, pause=pause), snapshots.turn(home):
            if pending(home.asked()):
                settle(home, living=container.is_alive)
            asked = home.asked()
            chain = list(chain_of(asked).get(b"/", ()))
            for identity in chain:
                held.add_layer(identity)
            if _has_other_ids(asked):  # so have those that were frozen before
                own = [*own_layers(asked), *chain]
                trees = [layers.tree_of(store, identity) for identity in own]
                chain = [
                    copied_tree(home, held, tree, unused(home, identity, trees[:at]), allowed).id
                    for at, (identity, tree) in enumerate(zip(own, trees, strict=True))
                    if at >= len(own) - len(chain)
                ]
            layer = copied(container, home, held, said, allowed, living=not pause)
        new = None if layer is None else layer.id
        return _image(store, asked, parent, (*chain, *([] if new is None else [new])), new, held, wish)


# -- its record


def _image(
    store: Store,
    asked: dict[str, Any],
    parent: ImageRecord,
    chain: Sequence[str],
    new: str | None,
    held: Lease,
    wish: Wish,
    done: str | None = None,
) -> ImageRecord:
    """The image of the container whose record is *asked*: the layers *chain* (base first) on top of those of *parent*.
    *new*, the last of them, is the one that this very commit made; *done* is what was executed (None: its command).
    """
    before = config_of(store, parent)
    words, run = run_of(asked, parent.run)
    _check_depth((*parent.layers, *chain), str(asked.get("name")))
    make_lasting(store, chain)
    below, above = found_in(store, parent, before), [find(store, identity) for identity in chain]
    names = [named(layer, promised) for layer, promised in zip(below, before.diff_ids, strict=True)]
    names += [named(layer, None) for layer in above]
    found = [*below, *above]
    made = msgspec.structs.replace(
        before,
        rootfs=RootFS(type="layers", diff_ids=names),
        created=moment_of(time.time_ns()),
        author=wish.author or None,
        config=run_config(changed(run, wish.changes)),
        history=[
            *(before.history or ()),
            *_steps(above, new, " ".join(words) if done is None else done, wish),
        ],
    )
    return put_image(store, parent, made, found, held, wish.name)


def put_image(
    store: Store, parent: ImageRecord, made: ImageConfig, found: list[Layer], held: Lease, name: str | None
) -> ImageRecord:
    """The image of the layers *found* (base first) with the config *made*, in which they have names as of `named`; it
    came from *parent*. Its canonical *name*, if any, is its own from now on. Raises KernelError.
    """
    names = made.diff_ids
    data, batch = encode_config(made), Batch()
    kept = [blobs.write_blob(store, data, held, batch)]
    base = parent.manifest or parent.base
    if base is not None and held.add_blob(base):
        kept.append(base)
    without = [layer.id for layer, text in zip(found, names, strict=True) if text.startswith(PENDING)]
    record = replace(
        record_of(data, made, found, blobs=tuple(kept)),
        pending=tuple(dict.fromkeys(without)),
        base=base if base in kept else None,
    )
    return images.put(store, record, names=() if name is None else (name,), lease=held, batch=batch)


def _check_depth(wanted: Sequence[str], name: str) -> None:
    if (count := len(wanted)) > DEFAULT_LIMITS.layers:
        raise Unsupported(
            f"commit container {name}: an image of {count} layers, at most {DEFAULT_LIMITS.layers} are allowed",
            remedy=f"squash the container, or its image and rebase it on that: lamina squash {name}",
        )


def found_in(store: Store, parent: ImageRecord, config: ImageConfig) -> list[Layer]:
    """The layers of *parent*, base first, whose config is *config*. Raises Corrupt."""
    if len(config.diff_ids) != len(parent.layers):
        raise Corrupt(
            f"commit: the image {parent.id[:12]} has not the layers that its config promises",
            remedy="remove it and pull it again",
        )
    return [find(store, identity) for identity in parent.layers]


def named(layer: Layer, promised: str | None) -> str:
    """What stands for the layer in a config; *promised* is what stood for it in that of its image. Raises Corrupt."""
    if promised is not None and not promised.startswith(PENDING):
        if layer.diff_id not in (None, promised):
            raise Corrupt(
                f"commit: the layer {layer.id[:12]} is not the one that the config of its image promises",
                remedy="remove the image and pull it again",
            )
        return promised
    return layer.diff_id or PENDING + layer.id


def _steps(frozen: Sequence[Layer], new: str | None, words: str, wish: Wish) -> Iterator[History]:
    """What the history says of the layers *frozen*, of which *new* is the last; of a commit without one, last, that it
    changed no file.
    """
    last = History(
        created=moment_of(time.time_ns()),
        created_by=words or None,
        author=wish.author or None,
        comment=wish.message or None,
        empty_layer=True if new is None else None,
    )
    for layer in frozen:
        if layer.id == new:
            continue
        origin = layer.extra.get("origin") or {}
        command = origin.get("command") or ()
        yield History(
            created=moment_of(int(origin.get("created") or layer.created)),
            created_by=" ".join(map(str, command)) or None,
            comment=str(origin.get("message") or origin.get("snapshot_name") or "") or None,
        )
    yield last


def moment_of(nanoseconds: int) -> str:
    """A time as configs have it."""
    moment = datetime.fromtimestamp(nanoseconds / 1e9, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


# -- what it is


def run_of(asked: dict[str, Any], parent: Run) -> tuple[list[str], Run]:
    """The command of the container whose record is *asked*, without its entrypoint, and what an image of it says: what
    its own image, *parent*, says, under what was asked. Triggers for builds (ONBUILD) are for the next image alone.
    """
    options = said_of(asked)
    entrypoint, words = entrypoint_and_cmd(asked, parent.get("entrypoint") or ())
    variables = {entry.partition("=")[0]: entry for entry in parent.get("env") or ()}
    variables.update({name: f"{name}={text}" for name, text in options.get("env") or ()})
    volumes = {*(parent.get("volumes") or ()), *_without_a_name(asked)}
    run = {
        **parent,
        "env": list(variables.values()),
        "entrypoint": entrypoint or None,
        "cmd": words or None,
        "labels": dict(asked.get("labels") or {}),
        "volumes": sorted(volumes),
        "exposed_ports": exposed_ports(options, parent.get("exposed_ports") or ()),
        "workdir": options.get("workdir") or parent.get("workdir") or "",
        "user": options.get("user") or parent.get("user") or "",
        "onbuild": [],
    }
    if isinstance(asked.get("stop_signal"), int):
        run["stop_signal"] = signal_name(asked["stop_signal"])
    if check := asked.get("health"):
        run["healthcheck"] = {name: check[name] for name in ("test", *TIMES, "retries")}
    return words, run


def _without_a_name(asked: dict[str, Any]) -> list[str]:
    """The places of the volumes that are the container's own, as `-v /data` makes them."""
    return [
        volume["target"]
        for volume in asked.get("volumes") or ()
        if volume["kind"] == "volume" and str(volume.get("name", "")).startswith(asked["id"])
    ]
