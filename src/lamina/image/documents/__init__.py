"""What an image says of itself: indexes, manifests, configs. Typed with msgspec, bounded, checked."""

from __future__ import annotations

from lamina.image.documents.config import (
    PENDING,
    Healthcheck,
    History,
    ImageConfig,
    RootFS,
    RunConfig,
    config_run,
    decode_config,
    encode_config,
    run_config,
)
from lamina.image.documents.manifest import (
    Descriptor,
    Index,
    Manifest,
    PlatformField,
    decode_manifest,
    encode,
    type_of,
)
from lamina.image.documents.reading import DEFAULT_LIMITS, Limits, read_json

__all__ = [
    "DEFAULT_LIMITS",
    "PENDING",
    "Descriptor",
    "Healthcheck",
    "History",
    "ImageConfig",
    "Index",
    "Limits",
    "Manifest",
    "PlatformField",
    "RootFS",
    "RunConfig",
    "config_run",
    "decode_config",
    "decode_manifest",
    "encode",
    "encode_config",
    "read_json",
    "run_config",
    "type_of",
]
