"""An image of the store as something to run: its layers as one place, its config checked once more.

What an image says of itself is hostile. Only what is read here has an effect; its labels and annotations have none
(CVE-2026-53488).
"""

from __future__ import annotations

import os

from lamina.engine.accounts import reader
from lamina.engine.places import Base, HostImage, Place
from lamina.engine.translate import ImageConfig
from lamina.errors import Corrupt, InvalidInput, Unsupported
from lamina.overlay.spec import MOST_LAYERS, top_first
from lamina.store.layers import tree_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.engine.within import Maps
    from lamina.store.images import ImageRecord
    from lamina.store.root import Store

# kept in the record of a container, for what has no part in a start
KEPT = ("exposed_ports", "stop_signal", "healthcheck", "shell")


def stored(
    store: Store,
    record: ImageRecord,
    *,
    rootless: bool,
    maps: Callable[[], Maps | None],
    above: tuple[str, ...] = (),
) -> Base:
    """The image *record*, whose layers must be held. Raises Corrupt when one is missing, Unsupported, InvalidInput.

    *above* are the layers, BASE FIRST, of what a container over it wrote: its users and groups are in them as well.
    """
    trees = [tree_of(store, layer) for layer in record.layers]
    written = [tree_of(store, layer) for layer in above]
    lowers = top_first(trees) or (store.empty,)
    if len(lowers) + len(written) > MOST_LAYERS:
        fewer = "make one of fewer of it: lamina squash"
        raise Unsupported(
            f"run image {record.id[:12]}: it has {len(lowers) + len(written)} layers, and an overlay takes "
            f"{MOST_LAYERS}",
            remedy="squash the container (lamina squash)" if above else fewer,
        )
    for layer, tree in zip((*record.layers, *above), (*trees, *written), strict=True):
        if not os.path.isdir(tree):
            raise Corrupt(
                f"run image {record.id[:12]}: its layer {layer[:12]} is not there",
                remedy="pull or load the image again; 'lamina system check' finds what else is missing",
            )
    place = Place(b"/", lowers[0], below=lowers[1:], lasting=True)
    config = image_config(record.run, f"image {record.id[:12]}")
    shown = (*top_first(written), *lowers)
    return Base(HostImage((place,)), config, reader(shown, rootless, maps), record.id, record.layers)


def image_config(run: dict[str, Any], name: str) -> ImageConfig:
    """The config in the record of an image called *name*. Raises InvalidInput for what no container can be made of."""
    workdir = _text(run, "workdir", name) or "/"
    if not workdir.startswith("/"):
        raise InvalidInput(
            f"run {name}: its working directory {workdir!r} is not an absolute path",
            remedy="name one with -w",
        )
    labels = run.get("labels") or {}
    return ImageConfig(
        env=_texts(run, "env", name),
        entrypoint=_texts(run, "entrypoint", name),
        cmd=_texts(run, "cmd", name),
        workdir=_normal(workdir),
        user=_text(run, "user", name),
        volumes=tuple(_volume(path, name) for path in _texts(run, "volumes", name)),
        labels=tuple((str(key), str(text)) for key, text in labels.items()),
        rest=tuple((key, run[key]) for key in KEPT if run.get(key)),
    )


def _text(run: dict[str, Any], key: str, name: str) -> str:
    found = run.get(key) or ""
    if not isinstance(found, str) or "\0" in found:
        raise InvalidInput(f"run {name}: its {key} is not a text without NUL bytes")
    return found


def _texts(run: dict[str, Any], key: str, name: str) -> tuple[str, ...]:
    found = run.get(key) or ()
    if any(not isinstance(text, str) or "\0" in text for text in found):
        raise InvalidInput(f"run {name}: its {key} is not a list of texts without NUL bytes")
    return tuple(found)


def _normal(path: str) -> str:
    return "/" + os.path.normpath(path).lstrip("/")


def _volume(path: str, name: str) -> str:
    """A path below "/"; what links make of it the kernel decides, inside (CVE-2022-23648)."""
    if not path.startswith("/") or _normal(path) == "/":
        raise InvalidInput(f"run {name}: its volume {path!r} is not an absolute path other than /")
    return _normal(path)
