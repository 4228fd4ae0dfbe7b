"""The image that a container is to be made of: found in the store and held, or pulled before.

A start whose image is there imports nothing of `lamina.image`: usual names are read by the store itself.
"""

from __future__ import annotations

import os

from lamina.errors import NotFound
from lamina.store import images, tags
from lamina.store.names import is_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.engine.options import Options
    from lamina.engine.run import Hooks
    from lamina.store.images import Held, ImageRecord
    from lamina.store.root import Store

# an image of more layers than this is looked at more closely (shallow.py)
MANY = 400
# uname(2)'s names, and Go's in images; lamina.image.platform knows the others, and what runs what
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def obtain(store: Store, text: str, options: Options, hooks: Hooks) -> Held:
    """The image *text*, held, as `pull` and `platform` of *options* want it. *hooks* hear of a pull and of warnings.

    Raises NotFound, InvalidInput, and what a pull raises.
    """
    held = _obtained(store, text, options, hooks)
    if len(held.record.layers) > MANY:
        from lamina.engine.shallow import shallow

        try:
            return shallow(store, held)
        except BaseException:
            held.release()
            raise
    return held


def _obtained(store: Store, text: str, options: Options, hooks: Hooks) -> Held:
    if options.pull != "always":
        try:
            return _local(store, text, options, hooks)
        except NotFound as missing:
            if options.pull == "never":
                raise
            if hooks.warn is not None:
                said = missing.message
                hooks.warn(f"unable to find image '{text}' locally" if "no such image" in said else said)
    from lamina.engine.pulling import pull_for_run

    held = pull_for_run(store, text, options.platform, hooks.events, dict(options.layer_limits))
    _warn_of_platform(held.record, options, hooks)
    return held


def _local(store: Store, text: str, options: Options, hooks: Hooks) -> Held:
    """The image as it is here. Raises NotFound also where it is for another platform than was asked for."""
    held = _held(store, text)
    try:
        if options.platform is not None:
            from lamina.image.platform import normalise, parse

            asked, record = parse(options.platform), held.record
            if normalise(record.os, record.architecture, record.variant) != asked:
                raise NotFound(
                    f"image {text}: it is here, but not for the platform {asked}", remedy="pull it"
                )
        _warn_of_platform(held.record, options, hooks)
    except BaseException:
        held.release()
        raise
    return held


def _held(store: Store, text: str) -> Held:
    """The image that *text* means. Of one that is called by a plain name the record is read once, and held then."""
    name = None if is_id(text.removeprefix("sha256:")) else tags.quick_name(text)
    identity = None if name is None else tags.named(store, name)
    if identity is not None:
        try:
            return images.hold(store, identity)
        except NotFound:  # removed this moment
            pass
    return images.hold(store, find(store, text).id)


def find(store: Store, text: str) -> ImageRecord:
    """The image that *text*, an id or a name, means. Raises NotFound, InvalidInput."""
    if tags.quick_name(text) is not None:
        return tags.resolve(store, text)[0]
    from lamina.engine.naming import resolve

    return resolve(store, text)[0]


def _warn_of_platform(record: ImageRecord, options: Options, hooks: Hooks) -> None:
    if hooks.warn is None or options.platform is not None or not record.architecture:
        return
    if record.os == "linux" and MACHINES.get(os.uname().machine) == record.architecture:
        return
    from lamina.image.platform import current, normalise

    made_for, here = normalise(record.os, record.architecture, record.variant), current()
    if not here.runs(made_for):
        hooks.warn(
            f"the requested image's platform ({made_for}) does not match the detected host platform ({here}) and no "
            "specific platform was requested"
        )
