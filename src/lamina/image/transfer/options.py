"""What can be chosen about a pull or a push."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
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
    words        more arguments for `lamina.image.layer.unpack_blob` (limits, userxattr, ids, within)
    staged       layers become blobs of the store before they are unpacked: what unpacks them elsewhere reads no network
    packing      calls `packing.pack_file(layer, path, userxattr, ids)` where the layers' files can be read, given the
                 function and its first two arguments; None: here
    chunk        bytes of a piece of an upload, None to upload each layer in one request
    """

    keep_blobs: bool = False
    parallel: int = 4
    limits: Limits = DEFAULT_LIMITS
    words: Mapping[str, Any] = MappingProxyType({})
    staged: bool = False
    packing: Callable[..., Any] | None = None
    chunk: int | None = None
