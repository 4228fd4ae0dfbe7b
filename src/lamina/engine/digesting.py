"""Digests of an image that was committed without: made when somebody else is to have it (lamina.image.pending)."""

from __future__ import annotations

from lamina.store.events import event, note
from lamina.store.leases import lease

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.store.images import ImageRecord
    from lamina.store.root import Store


def digested(store: Store, record: ImageRecord, events: Callable[..., None] | None = None) -> ImageRecord:
    """*record*, or the image that it becomes when all its layers have digests, which has another id then. What was made
    is kept, so this takes time once. *events* as of a push. Raises what `with_digests` raises.
    """
    if not record.pending:
        return record
    from lamina.engine.storage import within_limit
    from lamina.engine.unpacking import packing
    from lamina.image.pending import with_digests

    with lease(store) as held:
        made = with_digests(store, record, held, packing=packing(), events=events)
        note(store, event("image", "digest", f"sha256:{made.id}", was=f"sha256:{record.id}"))
        within_limit(store, [made.id], events)
    return made
