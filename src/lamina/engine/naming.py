"""Names of images as people type them, looked up in the store."""

from __future__ import annotations

from lamina.errors import InvalidReference
from lamina.image.reference import Reference, parse
from lamina.store import images, tags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.store.images import ImageRecord
    from lamina.store.root import Store


def resolve(store: Store, text: str) -> tuple[ImageRecord, str | None]:
    """The image that *text* means, and the canonical name by which it was found (None: by its id).

    Raises NotFound, InvalidReference, InvalidInput (several ids begin so), Corrupt.
    """
    digits = text.removeprefix("sha256:")
    if digits != text and digits and len(digits) <= 64 and set(digits) <= set("0123456789abcdef"):
        return tags.resolve(store, digits, None)
    try:
        reference = parse(text)
    except InvalidReference:
        if len(text) == 64:  # an id, or nothing
            return tags.resolve(store, text, None)
        raise
    if reference.digest is not None and (found := _by_digest(store, reference)) is not None:
        return found
    return tags.resolve(store, text, reference.canonical)


def _by_digest(store: Store, reference: Reference) -> tuple[ImageRecord, str] | None:
    """The image of that repository with that digest: what a name was pulled as, or a manifest or index of it."""
    for name in tags.list_names(store):
        if parse(name.name).name != reference.name:
            continue
        record = images.get(store, name.id)
        if record is None:
            continue
        if reference.digest in (record.manifest, *record.indexes, *name.digests):
            return record, name.name
    return None
