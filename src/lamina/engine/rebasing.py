"""A container's own layers over another image: what it added, changed and deleted stays; all else is the new image's.

    rebase(home, record)        # Conflict, with the paths, where the new image and the container contradict each other

Nothing is copied: other layers come below. So it is looked at first what the container's layers would hide of the new
image without having meant to: a file that the container changed, and that is another one in the new image than in the
old; a file that both added; and what lies under a directory that the container made anew.
"""

from __future__ import annotations

import os

from lamina.engine import chains
from lamina.engine.apply.values import below
from lamina.engine.comparing import changes_between
from lamina.engine.freezing import change
from lamina.engine.merged_layer import same_entry
from lamina.engine.shallow import MOST, fewer
from lamina.engine.snapshotting import begun, taken
from lamina.engine.state_turn import StateTurn
from lamina.engine.viewing import view_container
from lamina.engine.within import maps_of, reach
from lamina.errors import Conflict, Corrupt, LaminaError, Unsupported
from lamina.overlay.spec import top_first
from lamina.overlay.stack import Overlay
from lamina.store import snapshots
from lamina.store.events import about, note
from lamina.store.layers import tree_of
from lamina.store.leases import lease
from lamina.store.snapshots import PlaceState
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.overlay.changes import Change
    from lamina.overlay.spec import MountSpec
    from lamina.overlay.tree import Tree
    from lamina.store.containers import Home
    from lamina.store.images import ImageRecord

SHOWN = 20


@value
class Hidden:
    """A path (absolute) at which the container's layers hide something of the new image, and why that is a question."""

    path: bytes
    why: str


def rebase(
    home: Home, image: ImageRecord, name: str, *, force: bool = False, dry_run: bool = False
) -> list[Hidden]:
    """See `BranchVerbs.rebase`. *image*, called *name*, is held by the caller."""
    with StateTurn(home, "rebase") as turn, lease(home.store) as held:
        asked = turn.asked
        _check(turn, image, name)
        for layer in image.layers:
            if not held.add_layer(layer):
                raise Corrupt(f"rebase container {asked['name']}: layer {layer[:12]} of {name} is missing")
        if len(set(image.layers)) > MOST:
            image = replace(image, layers=fewer(home.store, image.layers, held))
        place = view_container(home, asked).places[0]
        lowers = top_first([tree_of(home.store, layer) for layer in image.layers]) or (home.store.empty,)
        other = replace(place.base, lowerdirs=lowers)
        own = place.spec.lowerdirs[: len(place.spec.lowerdirs) - len(place.base.lowerdirs)]
        moved = replace(place.spec, lowerdirs=(*own, *lowers))
        hidden: list[Hidden] = reach(lambda: maps_of(asked), hides, place.base, place.spec, other, moved)
        if hidden and not (force or dry_run):
            raise _refused(str(asked["name"]), name, hidden)
        if dry_run:
            return hidden
        taken(turn, held, message=f"before it was put over {name}")
        kept = begun(home, over(turn.asked, image, name), message=f"over {name}")
        places = [PlaceState(at, ids) for at, ids in chains.chain_of(turn.asked).items()]
        snapshots.put(home, replace(kept, places=tuple(places)), sync=not kept.volatile)
        try:  # the image and the state in one change: no fork is of the state before, over the image before
            asked = change(home, turn.asked, lambda asked: {**over(asked, image, name), "snapshot": kept.id})
        except BaseException as failure:
            try:
                snapshots.remove(home, kept)
            except (OSError, LaminaError) as second:
                failure.add_note(f"while removing the snapshot again: {second}")
            raise
        said = about(asked, "rebase", image=name, snapshot=kept.id)
    note(home.store, said)
    return hidden


def _check(turn: StateTurn, image: ImageRecord, name: str) -> None:
    asked = turn.asked
    said = f"rebase container {asked['name']}"
    if turn.living:
        raise Conflict(f"{said}: it is running", remedy="stop it; or fork it, and rebase the fork")
    if not asked.get("image_id"):
        raise Unsupported(f"{said}: it is over this machine, which is no image")
    if asked.get("own_ids"):
        raise Unsupported(
            f"{said}: its users are others on the disk (--userns)",
            remedy="fork it with --userns host, and rebase that",
        )
    if set(image.layers) & {one for ids in chains.chain_of(asked).values() for one in ids}:
        raise Unsupported(
            f"{said}: {name} has a layer of the container's own", remedy="make a container of it"
        )


def over(asked: dict[str, Any], image: ImageRecord, name: str) -> dict[str, Any]:
    """The record *asked* with the layers and the config of *image* below the container's own."""
    overlays = []
    lower = [chains.short_tree(layer) for layer in top_first(image.layers)] or ["../../empty"]
    for number, entry in enumerate(asked["overlays"]):
        if not number:
            own = len(top_first(entry.get("frozen") or ()))
            entry = {**entry, "lower": [*entry["lower"][:own], *lower]}
        overlays.append(entry)
    frozen = [one for entry in overlays for one in entry.get("frozen") or ()]
    return {
        **asked,
        "overlays": overlays,
        "layers": list(dict.fromkeys([*image.layers, *frozen])),
        "base_layers": list(image.layers),
        "image": name,
        "image_id": image.id,
        "config": image.run,
    }


def hides(old: MountSpec, spec: MountSpec, new: MountSpec, moved: MountSpec) -> list[Hidden]:
    """What the layers of the container hide of the image *new* that is another there than in the image *old*; *spec*
    are they over the old, *moved* over the new. Raises OSError.
    """
    found: dict[bytes, Hidden] = {}
    did = {one.change.path: one.change for one in changes_between([(b"/", old, spec)])}
    with Overlay(old).open() as before, Overlay(new).open() as after, Overlay(spec).open() as own:
        for path, change in did.items():
            if path and (why := _why(change, path, before, after, own)):
                found[path] = Hidden(below(b"/", path), why)
    for one in changes_between([(b"/", new, moved)]):
        path, change = one.change.path, one.change
        if change.after is None and path not in found and (path not in did or did[path].after is not None):
            found[path] = Hidden(
                below(b"/", path), "it is in the new image alone, in a directory that was made anew"
            )
    return [found[path] for path in sorted(found)]


def _why(change: Change, path: bytes, before: Tree, after: Tree, own: Tree) -> str:
    """Why it is a question whether the container's *path* should hide the new image's; "" where it is none."""
    new = after / (b"/" + path)
    if not new.exists(follow_symlinks=False):
        if change.before is not None and change.after is not None and not change.incidental:
            return f"{change.kind} in the container, and not in the new image at all"
        return ""
    if change.after is not None and same_entry(own / (b"/" + path), new):
        return ""
    if change.incidental:
        return (
            ""
            if new.is_dir() and not new.is_symlink()
            else "a directory in the container, something else in the new image"
        )
    if change.before is None:
        return "added in the container, and in the new image too"
    return (
        ""
        if same_entry(before / (b"/" + path), new)
        else f"{change.kind} in the container, and another one in the new image"
    )


def _refused(container: str, name: str, hidden: list[Hidden]) -> Conflict:
    count = "1 path" if len(hidden) == 1 else f"{len(hidden):,} paths"
    lines = [f"rebase container {container} onto {name}: it would hide {count} of the new image"]
    lines += [f"  {os.fsdecode(one.path)}: {one.why}" for one in hidden[:SHOWN]]
    if len(hidden) > SHOWN:
        lines.append(f"  and {len(hidden) - SHOWN:,} more")
    return Conflict(
        "\n".join(lines), remedy="--force keeps what the container has there; nothing was changed"
    )
