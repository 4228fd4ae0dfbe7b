"""Manifests and indexes: OCI image-spec 1.1 and Docker's schema 2, which say the same under other names.

    Index     for each platform the descriptor of a manifest          (Docker: manifest list)
    Manifest  the descriptors of a config and of layers, base first

`decode_manifest` refuses what is no image that can be unpacked, and says what it is instead: an artifact, a manifest of
Docker's first schema, layers that are to be fetched from elsewhere, encrypted or unknown ones.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from lamina.errors import InvalidInput
from lamina.image.documents import media
from lamina.image.documents.reading import DEFAULT_LIMITS, Limits, check_layers, read_json
from lamina.image.platform import Platform, normalise
from lamina.store.digest import check_digest

__all__ = ["Descriptor", "Index", "Manifest", "PlatformField", "decode_manifest", "encode", "type_of"]

Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_ATTESTATION = "vnd.docker.reference.type"  # what BuildKit adds to an index: no image


class PlatformField(msgspec.Struct, frozen=True, omit_defaults=True):
    """The platform in an index's entry, as it is written there (image-spec, "image-index.md")."""

    architecture: str
    os: str
    os_version: str | None = msgspec.field(name="os.version", default=None)
    os_features: tuple[str, ...] | None = msgspec.field(name="os.features", default=None)
    variant: str | None = None


class Descriptor(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """What and where content is: media type, digest, size (image-spec, "descriptor.md")."""

    media_type: str
    digest: str
    size: Size
    urls: tuple[str, ...] | None = None
    annotations: dict[str, str] | None = None
    platform: PlatformField | None = None
    artifact_type: str | None = None

    def __post_init__(self) -> None:
        check_digest(self.digest)

    @property
    def for_platform(self) -> Platform | None:
        """The platform, normalised; None if it is not said."""
        found = self.platform
        return None if found is None else normalise(found.os, found.architecture, found.variant or "")


class Index(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """An image index, or Docker's manifest list: `media_type` says which, where the document says so."""

    schema_version: int = 2
    media_type: str | None = None
    artifact_type: str | None = None
    manifests: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None

    @property
    def images(self) -> tuple[Descriptor, ...]:
        """The entries that may be images, or indexes of such."""
        return tuple(
            entry
            for entry in self.manifests
            if entry.media_type in media.MANIFESTS | media.INDEXES
            and _ATTESTATION not in (entry.annotations or {})
        )

    @property
    def platforms(self) -> list[str]:
        """The platforms that there are images for, as text, each once."""
        found = [entry.for_platform for entry in self.images]
        return list(dict.fromkeys(str(p) if p else "unsaid" for p in found))


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """The manifest of one image. `layers` are base first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    schema_version: int = 2
    media_type: str | None = None
    artifact_type: str | None = None
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


class _Outline(msgspec.Struct, rename="camel"):
    """What tells the kinds of documents apart."""

    schema_version: Any = None
    media_type: str | None = None
    artifact_type: str | None = None
    manifests: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    config: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    layers: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    fs_layers: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Written(msgspec.Struct, omit_defaults=True, rename="camel"):
    """The fields of both in the order in which everybody writes them."""

    schema_version: int
    media_type: str | None = None
    artifact_type: str | None = None
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] | None = None
    manifests: tuple[Descriptor, ...] | None = None
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


def decode_manifest(
    data: bytes, media_type: str | None = None, what: str = "manifest", limits: Limits = DEFAULT_LIMITS
) -> Index | Manifest:
    """The index or manifest of an image. *media_type* is what the registry, or the descriptor, said it is.

    Raises InvalidInput for everything else, and where the document contradicts *media_type* (CVE-2021-41190).
    """
    outline = read_json(data, _Outline, what, limits)
    kind = _kind(outline, media_type, what)
    if kind in media.INDEXES:
        index = read_json(data, Index, what, limits)
        if len(index.manifests) > limits.manifests:
            raise InvalidInput(
                f"read {what}: an index of {len(index.manifests)} manifests, at most {limits.manifests} are allowed"
            )
        return index
    manifest = read_json(data, Manifest, what, limits)
    _check_image(manifest, what, limits)
    return manifest


def type_of(document: Index | Manifest, said: str | None = None) -> str:
    """The media type of a decoded document: its own word, else what was *said*, else OCI's."""
    usual = media.OCI_INDEX if isinstance(document, Index) else media.OCI_MANIFEST
    known = media.INDEXES if isinstance(document, Index) else media.MANIFESTS
    return next((kind for kind in (document.media_type, media.essence(said)) if kind in known), usual)


def encode(document: Index | Manifest) -> bytes:
    """The document as JSON, always the same bytes for the same content. Raises InvalidInput for one without layers."""
    if isinstance(document, Manifest) and not document.layers:
        raise InvalidInput("write manifest: an image has at least one layer")
    fields = {name: getattr(document, name) for name in document.__struct_fields__}
    return msgspec.json.encode(_Written(**fields), order="deterministic")


def _kind(outline: _Outline, said: str | None, what: str) -> str:
    """The media type that a document has to be read as."""
    said = media.essence(said)
    if (
        outline.schema_version == 1
        or outline.fs_layers is not msgspec.UNSET
        or {said, outline.media_type} & media.SCHEMA_1
    ):
        raise InvalidInput(
            f"read {what}: a manifest of Docker's schema 1, which nobody has written since 2017",
            remedy="pull it with an old Docker and push it again",
        )
    if outline.schema_version != 2:
        raise InvalidInput(f"read {what}: schemaVersion is {str(outline.schema_version)[:40]}, not 2")
    index_like, manifest_like = outline.manifests is not msgspec.UNSET, outline.layers is not msgspec.UNSET
    if index_like and (manifest_like or outline.config is not msgspec.UNSET):
        raise InvalidInput(
            f"read {what}: it could be an index and a manifest: it has layers, and manifests as well"
        )
    own = outline.media_type or ""
    known = media.INDEXES | media.MANIFESTS
    if own and own not in known:
        raise InvalidInput(f"read {what}: media type {own[:200]!r} is no image", remedy=_WHAT_IS)
    if own and said in known and own != said:
        raise InvalidInput(f"read {what}: it says it is {own}, where it came from says {said}")
    kind = own or (said if said in known else "")
    if not kind:
        kind = media.OCI_INDEX if index_like else media.OCI_MANIFEST
    if (kind in media.INDEXES) != index_like:
        raise InvalidInput(
            f"read {what}: it is {kind}, but has no {'manifests' if not index_like else 'layers'}"
        )
    return kind


_WHAT_IS = "only images can be pulled: OCI manifests and indexes, and Docker's schema 2"


def _check_image(manifest: Manifest, what: str, limits: Limits) -> None:
    """Raise InvalidInput unless it is an image whose layers can all be fetched and unpacked."""
    config = manifest.config.media_type
    if config not in media.CONFIGS:
        artifact = manifest.artifact_type or config
        raise InvalidInput(
            f"read {what}: an artifact of type {artifact[:200]!r}, not an image", remedy=_WHAT_IS
        )
    if manifest.config.size > limits.document:
        raise InvalidInput(
            f"read {what}: its config has {manifest.config.size} bytes, at most {limits.document} are allowed"
        )
    check_layers([layer.digest for layer in manifest.layers], what, limits)
    for layer in manifest.layers:
        kind = layer.media_type
        if kind in media.LAYERS:
            continue
        if kind in media.FOREIGN_LAYERS:
            raise InvalidInput(
                f"read {what}: layer {layer.digest} is a foreign one, to be fetched from elsewhere: not supported",
                remedy="copy the image with its foreign layers into a registry first",
            )
        if kind.endswith("+encrypted"):
            raise InvalidInput(
                f"read {what}: layer {layer.digest} is encrypted", remedy="decrypt the image first"
            )
        raise InvalidInput(f"read {what}: layer {layer.digest} has the unknown media type {kind[:200]!r}")
