"""Which step made what is at a path: the layers' answers, put together with what the store knows of the layers."""

from __future__ import annotations

import os

from lamina.engine.comparing import maps_of
from lamina.engine.provenance import CONTAINER, DIRECTORY, HOST, IMAGE, STATE, Maker, Provenance
from lamina.errors import InvalidInput, LaminaError
from lamina.overlay.explain import Explanation, explain
from lamina.overlay.lookup import Layers, OpenDir, View, at
from lamina.overlay.tally import Share, shares
from lamina.store import images, layers, tags
from lamina.store.containers import Home
from lamina.store.names import is_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.engine.viewing import Place
    from lamina.engine.viewing import View as State
    from lamina.overlay.explain import Answer
    from lamina.overlay.spec import MountSpec
    from lamina.store.layers import Layer
    from lamina.store.root import Store
    from lamina.store.squashing import Origins

ENTRIES = 12  # of a directory are explained one by one
# of a directory: names beyond so many are not weighed against each other
WEIGHED = 5000


def explain_path(
    store: Store,
    state: State,
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    *,
    add_up: bool = True,
) -> Provenance:
    """Where *path* (from the root of the state on) comes from in *state*; of a directory, with *add_up*, what each
    layer has in it, which costs what there is in it.

    Raises OSError: a layer that cannot be read, links that go in circles; InvalidInput.
    """
    from lamina.engine.within import reach

    asked = _absolute(os.fsencode(path))
    place = _place_of(state, asked)
    met = {place.at}
    while True:
        below = asked[len(place.at) if place.at != b"/" else 0 :]
        found, sums, entries, more = reach(lambda: maps_of(state), look, place.spec, below, add_up)
        real = (place.at.rstrip(b"/") + b"/" + found.resolved).rstrip(b"/") or b"/"
        other = _place_of(state, real)
        if other.at in met:
            break
        met.add(other.at)
        asked, place = real, other  # a link led into another file system
    known = _Known(store, state, place)
    makers = tuple(known.maker(row) for row in found.rows)
    return Provenance(
        name=state.name,
        path=_absolute(os.fsencode(path)),
        mountpoint=place.at,
        explanation=found,
        makers=makers,
        shares=sums,
        entries=entries,
        more=more,
        mounted=_mounted_over(state.record, asked),
    )


def _absolute(path: bytes) -> bytes:
    if b"\0" in path or not path:
        raise InvalidInput(f"explain {os.fsdecode(path)!r}: not a path")
    return b"/" + path.lstrip(b"/")


def _place_of(state: State, path: bytes) -> Place:
    """The stack that is mounted nearest above *path*."""
    found = state.places[0]
    for place in state.places:
        if path == place.at or path.startswith(place.at.rstrip(b"/") + b"/"):
            found = place if len(place.at) >= len(found.at) else found
    return found


def _mounted_over(record: dict[str, Any], path: bytes) -> str:
    """What the container has mounted over *path*: a volume, a directory of the host."""
    for volume in reversed(record.get("volumes") or ()):
        target = os.fsencode(str(volume.get("target") or ""))
        if target and (path == target or path.startswith(target.rstrip(b"/") + b"/")):
            source = str(volume.get("name") or volume.get("source") or "")
            return " ".join(filter(None, (str(volume.get("kind")), source, "on", os.fsdecode(target))))
    return ""


# -- where the files can be read: see engine/within


def look(
    spec: MountSpec, path: bytes, add_up: bool
) -> tuple[Explanation, tuple[Share, ...], tuple[Explanation, ...], int]:
    """The explanation of *path*, and of a directory: its sums, some of its entries, and how many others there are."""
    found = explain(spec, path)
    is_directory = any(row.answer == "directory" for row in found.rows)
    if not add_up or not is_directory:
        return found, (), (), 0
    names, more = _telling(spec, found.resolved) if found.type == "directory" else ((), 0)
    prefix = b"/" + found.resolved.rstrip(b"/")
    entries = tuple(explain(spec, prefix.rstrip(b"/") + b"/" + name) for name in names)
    return found, shares(spec, found), entries, more


def _telling(spec: MountSpec, path: bytes) -> tuple[tuple[bytes, ...], int]:
    """The names in a directory that say most of its layers, sorted, and how many others there are: first those that
    several layers have something to say to, then those of the topmost layers.
    """
    stack = Layers(spec)
    try:
        found = at(View(stack), path)
        if found is None:
            return (), 0
        with OpenDir(stack, found.hits) as within:
            weights: dict[bytes, tuple[int, int]] = {}
            for index in range(len(found.hits)):
                for name in within.listing(index):
                    count, first = weights.get(name, (0, index))
                    weights[name] = count + 1, first
    finally:
        stack.close()
    some = sorted(weights)[:WEIGHED]
    chosen = sorted(some, key=lambda name: (-weights[name][0], weights[name][1], name))[:ENTRIES]
    return tuple(sorted(chosen)), len(weights) - len(chosen)


# -- who made what


class _Known:
    """What the store knows of the layers of one stack."""

    def __init__(self, store: Store, state: State, place: Place) -> None:
        self._store, self._state, self._place = store, state, place
        self._steps: dict[str, Maker] | None = None

    def maker(self, row: Answer) -> Maker:
        """Who made the layer of *row*, or what it has at the row's path."""
        if row.layer == 0:
            return Maker(CONTAINER, name=self._state.name, step=self._running())
        layer = layers.layer_of(self._store.layers, row.directory)
        if layer is None:
            kind = (
                HOST if self._state.over_host and row.directory in self._place.base.lowerdirs else DIRECTORY
            )
            return Maker(kind, name=os.fsdecode(row.directory))
        return self._of_layer(layer, row.path)

    def _running(self) -> str:
        """What the container executes: that, or a further command in it, wrote what is in its upper."""
        from shlex import join

        return join(str(word) for word in self._state.record.get("command") or ())

    def _of_layer(self, identity: str, path: bytes) -> Maker:
        try:
            layer = layers.find(self._store, identity)
        except LaminaError:
            layer = None  # `system check` tells of it
        if layer is not None:
            inner = _squashed_step(layer, path)
            if inner is not None:
                said = (
                    Maker(STATE, identity)
                    if inner.get("origin") is None
                    else _of_origin(self._store, identity, inner["origin"])
                )
                return _dated(said, inner, squashed=True)
            if isinstance(origin := layer.extra.get("origin"), dict):
                return _of_origin(self._store, identity, origin)
        step = self._of_image().get(identity)
        if step is not None:
            return step
        created = 0.0 if layer is None else layer.created / 1e9
        return Maker(STATE if identity.startswith("x") else IMAGE, identity, created=created)

    def _of_image(self) -> dict[str, Maker]:
        """The steps of the image, by the layers that they made."""
        if self._steps is None:
            self._steps = {}
            record = images.get(self._store, self._state.image) if self._state.image else None
            if record is not None:
                self._steps = steps_of(self._store, record)
        return self._steps


def _squashed_step(layer: Layer, path: bytes) -> dict[str, Any] | None:
    """Of a squashed layer: which step its entry at *path* is of; {} if that is not known, None of another layer."""
    from lamina.store.squashing import origins

    try:
        found: Origins | None = origins(layer)
    except LaminaError:
        return {}
    if found is None:
        return None
    return found.step(path) or {}


def _dated(maker: Maker, step: dict[str, Any], *, squashed: bool) -> Maker:
    from lamina.values import replace

    created = maker.created or int(step.get("created") or 0) / 1e9
    return replace(maker, created=created, squashed=squashed)


def _of_origin(store: Store, layer: str, origin: dict[str, Any]) -> Maker:
    """What was noted when the layer was frozen."""
    from shlex import join

    state = str(origin.get("snapshot_name") or "") or str(origin.get("snapshot") or "")[:12]
    name = str(origin.get("container_name") or "") or _called(store, str(origin.get("container") or ""))
    command = origin.get("command") or ()
    words = [str(word) for word in command] if isinstance(command, list | tuple) else [str(command)]
    created = origin.get("created")
    return Maker(
        STATE,
        layer,
        name=f"{name}@{state}" if state else name,
        step=join(words),
        message=str(origin.get("message") or ""),
        created=created / 1e9 if isinstance(created, int) else 0.0,
    )


def _called(store: Store, container: str) -> str:
    """The name of the container with that id; the beginning of the id where it is gone."""
    if is_id(container):
        try:
            return str(Home(store, container).asked().get("name") or container[:12])
        except LaminaError:
            pass
    return container[:12]


def steps_of(store: Store, record: images.ImageRecord) -> dict[str, Maker]:
    """Who made each layer of an image: the entries of its history that made one, in order. A layer that is in it
    several times (that of steps which changed nothing is) is of the last of them.
    """
    from lamina.engine.images import config_of
    from lamina.image.documents.moment import nanoseconds

    try:
        history = [entry for entry in config_of(store, record).history or () if not entry.empty_layer]
    except LaminaError:
        history = []  # a store that was mended keeps the image without it
    name = _name_of(store, record)
    found = {}
    for number, layer in enumerate(record.layers):
        entry = history[number] if len(history) == len(record.layers) else None
        found[layer] = Maker(
            IMAGE,
            layer,
            name=name,
            step=instruction(entry.created_by or "") if entry else "",
            number=number + 1,
            of=len(record.layers),
            message=(entry.comment or "") if entry else "",
            created=(nanoseconds(entry.created) if entry else record.created) / 1e9,
        )
    return found


def instruction(created_by: str) -> str:
    """The instruction of a Dockerfile that a history's `created_by` stands for, as somebody wrote it."""
    text = created_by.removesuffix("# buildkit").strip()
    for prefix in ("/bin/sh -c #(nop)", "/bin/sh -c"):
        if text.startswith(prefix):
            rest = text[len(prefix) :].strip()
            return rest if "nop" in prefix else f"RUN {rest}"
    return text


def _name_of(store: Store, record: images.ImageRecord) -> str:
    from lamina.image.reference import parse

    names = sorted(name.name for name in tags.list_names(store) if name.id == record.id)
    return parse(names[0]).familiar if names else record.id[:12]
