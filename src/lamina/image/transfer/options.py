"""What can be chosen about a pull or a push."""

from __future__ import annotations

from typing import Any

from lamina.image.documents.reading import DEFAULT_LIMITS, Limits
from lamina.values import value

__all__ = ["Options"]


@value
class Options:
    """How to transfer.

    keep_blobs   also keep the compressed layers: pushing and saving are then exact and need no packing (decision 0027)
    parallel     layers that are transferred at once
    limits       of manifests and configs
    unpack       more arguments for `lamina.image.layer.unpack_blob` (limits, ids, within), None for none
    chunk        bytes of a piece of an upload, None to upload each layer in one request
    """

    keep_blobs: bool = False
    parallel: int = 4
    limits: Limits = DEFAULT_LIMITS
    unpack: dict[str, Any] | None = None
    chunk: int | None = None
