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
from typing import TYPE_CHECKING, Any

from lamina.engine.archives import tag_of
from lamina.engine.chains import chain_of, own_layers, pending
from lamina.engine.committed_image import Draft, Wish, image_of, run_of
from lamina.engine.consistency import check_consistency
from lamina.engine.digesting import digested
from lamina.engine.images import Image, of_record
from lamina.engine.layers import stacks_of
from lamina.engine.snapshotting import DEEP
from lamina.engine.squashing import after_snapshot
from lamina.engine.storage import within_limit
from lamina.errors import Conflict, KernelError, LaminaError, NotFound, Unsupported
from lamina.image.archive.instructions import changed
from lamina.image.pending import make_lasting
from lamina.store import images, tags
from lamina.store.claims import claim
from lamina.store.containers import LIVING, RESTARTING
from lamina.store.events import about, event, note
from lamina.store.leases import lease
from lamina.store.successors import now_called
from lamina.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lamina.engine.container import Container
    from lamina.engine.image_verbs import LayerLimits
    from lamina.engine.state_turn import StateTurn
    from lamina.store.containers import Home
    from lamina.store.images import ImageRecord
    from lamina.store.leases import Lease
    from lamina.store.root import Store
    from lamina.store.snapshots import SnapshotRecord


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
        if wish.changes:  # first: nothing is paused for a slip of the pen
            changed(run_of(asked, parent.run)[1], wish.changes)
        # what goes on writing is not to be stopped, not even for the moment that freezing takes; and between two starts
        # nothing runs that could be frozen, while who looks after it holds what it wrote
        state = container.state
        going_on = state == RESTARTING or (state in LIVING and not pause)
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
            record = image_of(store, asked, parent, chain, new, held, wish, " ".join(state.command))
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
    if wish.now:  # it is another one then, perhaps one that is here already
        record = digested(store, record)
    within_limit(store, [record.id])
    if wish.now:
        return of_record(store, record)
    # not all the names of the store: there may be thousands, and the image is a moment old
    named = None if wish.name is None else tags.find_name(store, wish.name)
    return Image(store, record, [named] if named is not None and named.id == record.id else [])


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
        asked = turn.asked
        if now_called(home.store, str(asked.get("image_id") or "")) != container.image_id:
            raise Conflict(
                f"commit container {container.name}: it was put on another image meanwhile",
                remedy="try again",
            )
        draft = Draft(container.store, parent, held, wish)
        try:
            new = _frozen(container, turn, asked, held, wish, consistency, draft)
        finally:
            draft.close()
        if draft.record is not None:
            return draft.record, list(turn.notes)
        asked = turn.asked
        chain = chain_of(asked).get(b"/", ())
        if new is not None and new not in chain:  # a copy, because processes kept it from being frozen
            chain = (*chain, new)
        return image_of(container.store, asked, parent, chain, new, held, wish), list(turn.notes)


def _frozen(
    container: Container,
    turn: StateTurn,
    asked: dict[str, Any],
    held: Lease,
    wish: Wish,
    consistency: str,
    draft: Draft,
) -> str | None:
    """The layer that what it wrote has become; None where it wrote nothing. *asked* is its record; *draft* is kept with
    it, unless nobody waits for the disk here.
    """
    from lamina.engine.committed_copy import is_unwritten, mount_points
    from lamina.engine.freezing import freeze, is_volatile
    from lamina.engine.within import maps_of, reach
    from lamina.overlay.mount_points import clear, idle
    from lamina.store import sizes

    home = turn.home
    spec, made = stacks_of(asked["overlays"], home.path)[0][1], mount_points(container, asked)
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
        if is_volatile(asked):
            frozen = freeze(turn, held, origin=origin, consistency=consistency)
        else:
            make_lasting(home.store, chain_of(asked).get(b"/", ()))
            early, noted = draft.prepare, draft.keep
            frozen = freeze(
                turn, held, origin=origin, consistency=consistency, early=early, noted=noted, is_clear=True
            )
        new = frozen.made.get(b"/")
        if new is not None and asked.get("made") is None and made:
            places = [os.fsdecode(place) for place in made]
            sizes.amend(home.store, new, lambda facts: _with_made(facts, places))
    except OSError as error:
        if not home.exists():
            raise Conflict(f"commit container {container.name}: it was removed meanwhile") from error
        if isinstance(error, LaminaError):
            raise
        raise KernelError("commit", error.errno or 0, f"container {container.name}") from error
    return new


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
        return image_of(store, asked, parent, (*chain, *([] if new is None else [new])), new, held, wish)
