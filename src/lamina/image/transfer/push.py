"""Push: an image of the store into a registry, layer by layer only what it has not.

For each layer, the first that works: the registry has it; it takes it from another repository of its own; the
compressed blob is kept here; it is packed again. What is packed again has another digest than what a foreign program
packed, so the manifest is a new one, of the same config: the image keeps its id (decision 0027).
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import IO

import msgspec

from lamina.errors import Corrupt, InvalidInput, InvalidReference, NotFound
from lamina.image.documents import (
    DEFAULT_LIMITS,
    Descriptor,
    ImageConfig,
    Manifest,
    RootFS,
    decode_config,
    decode_manifest,
    encode,
    encode_config,
    media,
    type_of,
)
from lamina.image.pending import packed_blob
from lamina.image.reference import Reference, parse
from lamina.image.registry.session import Registries
from lamina.image.registry.uploads import mount_blob, upload_blob
from lamina.image.transfer.events import Events, Telling
from lamina.image.transfer.options import Options
from lamina.image.transfer.packing import packed_layer
from lamina.image.transfer.pull import in_parallel
from lamina.store import blobs, images, layers, tags
from lamina.store.images import ImageRecord
from lamina.store.leases import Lease, lease
from lamina.store.root import Store
from lamina.values import replace, value

__all__ = ["Pushed", "push"]


@value
class Pushed:
    """What the registry has now. `changed`: it is another manifest than the one the image came with, since layers had
    to be packed again.
    """

    digest: str
    changed: bool


@value
class _Layer:
    """A layer as it was pushed: its descriptor, and its diff_id."""

    descriptor: Descriptor
    diff_id: str


def push(
    store: Store,
    record: ImageRecord,
    reference: Reference,
    events: Events | None = None,
    held: Lease | None = None,
    options: Options | None = None,
    registries: Registries | None = None,
) -> Pushed:
    """The image *record*, pushed as *reference* (a tag). Raises InvalidInput, RegistryError, Corrupt, KernelError."""
    if reference.digest is not None:
        raise InvalidInput(
            f"push {reference.familiar}: a digest cannot be pushed to",
            remedy="name a tag; the digest follows from it",
        )
    with (
        nullcontext(held) if held is not None else lease(store) as kept,
        nullcontext(registries) if registries is not None else Registries() as network,
    ):
        # its layers and blobs by name as well: the record alone keeps them only until somebody forces its removal, and
        # a tree that is collected while it is packed would be pushed with what was left of it
        if not kept.add_image(record.id) or not all(map(kept.add_layer, record.layers)):
            raise images.no_such(record.id[:12])
        for blob in record.blobs:
            kept.add_blob(blob)
        work = _Push(store, record, reference, events, kept, options or Options(), network)
        with network.transport.waits.telling(work.tell.waiting()):
            return work.run()


class _Push:
    def __init__(
        self,
        store: Store,
        record: ImageRecord,
        reference: Reference,
        events: Events | None,
        held: Lease,
        options: Options,
        network: Registries,
    ) -> None:
        self.store, self.record, self.reference = store, record, reference
        self.held, self.options = held, options
        self.tell = Telling(events, f"push {reference.familiar}")
        self.registry = network.repositories(reference, "pull", "push")[-1]
        self.sources = self._other_repositories()
        self.diff_ids: dict[str, str] = {}

    def run(self) -> Pushed:
        """The whole of it."""
        manifest, data, kind = self._manifest()
        config = self._config()
        known = self._known(config[0]) if manifest is None else list(manifest.layers)
        # by what they are shown as: a layer that is there twice may be compressed in two ways
        every = list(zip(self.record.layers, known, strict=True))
        todo = {blob.digest if blob else identity: (identity, blob) for identity, blob in every}
        for shown, (_, blob) in todo.items():
            self.tell("layer", id=shown, total=blob.size if blob else 0)
        pushed = in_parallel(self.tell, self.options.parallel, self._layer, todo)
        done = [pushed[blob.digest if blob else identity] for identity, blob in every]
        changed = manifest is None or [layer.descriptor for layer in done] != list(manifest.layers)
        config_blob = self._push_config(config, manifest, [layer.diff_id for layer in done])
        if changed:
            manifest, data, kind = self._new_manifest(manifest, config_blob, done)
        digest = self.registry.put_manifest(self.reference.version, data, kind)
        self._remember(digest, data, changed, config_blob)
        self.tell("done", image=self.record.id, digest=digest)
        return Pushed(digest, changed)

    # -- what there is

    def _manifest(self) -> tuple[Manifest | None, bytes, str]:
        """The manifest that the image came with, its bytes and its type; None if there is none that fits its layers."""
        digest = self.record.manifest
        if digest is None or not blobs.has(self.store, digest):
            return None, b"", ""
        data = blobs.read_blob(self.store, digest, DEFAULT_LIMITS.document)
        found = decode_manifest(data, None, f"manifest of {self.record.id[:12]}", self.options.limits)
        if not isinstance(found, Manifest) or len(found.layers) != len(self.record.layers):
            return None, b"", ""
        return found, data, type_of(found)

    def _known(self, config: ImageConfig) -> list[Descriptor | None]:
        """The compressed layers of an image that came with no manifest, as far as they are known: those that were kept
        when digests were made, and those of the image that it was made from.
        """
        found: list[Descriptor | None] = [None] * len(self.record.layers)
        if len(config.diff_ids) != len(found):
            return found
        self.diff_ids = dict(zip(self.record.layers, config.diff_ids, strict=True))
        for number, descriptor in enumerate(self._of_the_base(config)):
            found[number] = descriptor
        for number, identity in enumerate(self.record.layers):
            layer = layers.find(self.store, identity) if identity.startswith("x") else None
            if layer is None or layer.diff_id != config.diff_ids[number]:
                continue
            if (packed := packed_blob(self.store, layer)) is not None:
                found[number] = Descriptor(media.OCI_LAYER_GZIP, *packed)
        return found

    def _of_the_base(self, config: ImageConfig) -> list[Descriptor]:
        """The layers in the manifest of the image that this one was made from; none where that is not known."""
        digest = self.record.base
        if digest is None or not blobs.has(self.store, digest):
            return []
        data = blobs.read_blob(self.store, digest, DEFAULT_LIMITS.document)
        found = decode_manifest(data, None, f"manifest {digest}", self.options.limits)
        if not isinstance(found, Manifest) or len(found.layers) > len(self.record.layers):
            return []
        return [
            Descriptor(_in_oci_words(layer.media_type), layer.digest, layer.size) for layer in found.layers
        ]

    def _config(self) -> tuple[ImageConfig, bytes]:
        data = blobs.read_blob(self.store, self.record.config, DEFAULT_LIMITS.document)
        return decode_config(data, None, f"config of {self.record.id[:12]}", self.options.limits), data

    def _other_repositories(self) -> list[str]:
        """The repositories of the same registry under which the image is known here, or the one it was made from: they
        may have its layers.
        """
        found: dict[str, None] = {}
        for name in tags.list_names(self.store):
            if name.id != self.record.id and not self._is_the_base(name.id):
                continue
            try:
                known = parse(name.name)
            except InvalidReference:
                continue
            if known.registry == self.reference.registry and known.repository != self.reference.repository:
                found[known.repository] = None
        return list(found)[:3]

    def _is_the_base(self, identity: str) -> bool:
        if self.record.base is None:
            return False
        found = images.get(self.store, identity)
        return found is not None and found.manifest == self.record.base

    # -- layers

    def _layer(self, shown: str, what: tuple[str, Descriptor | None]) -> _Layer:
        with self.registry.transport.waits.telling(self.tell.waiting(shown)):
            return self._pushed(*what, shown)

    def _pushed(self, identity: str, blob: Descriptor | None, shown: str) -> _Layer:
        self.tell.check()
        if blob is not None and self._without_packing(blob):
            return _Layer(blob, self.diff_ids.get(identity) or f"sha256:{identity}")
        self.tell("packing", id=shown)
        layer = layers.find(self.store, identity)
        if layer is None:
            raise NotFound(f"push: layer {identity[:12]} is not in this store")
        with packed_layer(self.store, layer, self.options.packing, check=self.tell.check) as (made, file, _):
            media_type = media.OCI_LAYER_GZIP if blob is None else _gzip_of(blob.media_type)
            descriptor = Descriptor(media_type, made.digest, made.size)
            if self.registry.has_blob(made.digest) is None:
                self._send(descriptor, file, shown)
        self.tell("done", id=shown)
        return _Layer(descriptor, made.diff_id)

    def _without_packing(self, blob: Descriptor) -> bool:
        """Whether the registry has the blob now, without that anything had to be made for it."""
        there = self.registry.has_blob(blob.digest)
        if there is not None:
            if there not in (0, blob.size):
                raise Corrupt(
                    f"push to {self.registry.name}: it has {there} bytes of blob {blob.digest}, not {blob.size}"
                )
            self.tell("exists", id=blob.digest)
            return True
        for source in self.sources:
            if mount_blob(self.registry, blob.digest, source):
                self.tell("mounted", id=blob.digest)
                return True
        if not self.held.add_blob(blob.digest):
            return False
        self._upload(blob, blob.digest)
        self.tell("done", id=blob.digest)
        return True

    def _upload(self, blob: Descriptor, shown: str) -> None:
        with open(blobs.open_blob(self.store, blob.digest).steal(), "rb", buffering=0) as file:
            self._send(blob, file, shown)

    def _send(self, blob: Descriptor, file: IO[bytes], shown: str) -> None:
        upload_blob(
            self.registry,
            blob.digest,
            blob.size,
            file,
            chunk=self.options.chunk,
            progress=self.tell.progress(shown),
        )

    # -- documents

    def _push_config(
        self, known: tuple[ImageConfig, bytes], manifest: Manifest | None, diff_ids: list[str]
    ) -> Descriptor:
        """Push the config; a layer that had no digest until now is written into it. Its descriptor."""
        config, data = known
        if list(config.diff_ids) != diff_ids:
            data = encode_config(msgspec.structs.replace(config, rootfs=RootFS("layers", diff_ids)))
            self.tell(
                "warning", text="layers got their digests now: the image in the registry has another id"
            )
        digest = blobs.write_blob(self.store, data, self.held)
        kind = manifest.config.media_type if manifest is not None else media.OCI_CONFIG
        found = Descriptor(kind, digest, len(data))
        if self.registry.has_blob(digest) is None and not any(
            mount_blob(self.registry, digest, source) for source in self.sources
        ):
            self._upload(found, digest)
        return found

    def _new_manifest(
        self, manifest: Manifest | None, config: Descriptor, done: list[_Layer]
    ) -> tuple[Manifest, bytes, str]:
        kind = media.OCI_MANIFEST if manifest is None else type_of(manifest)
        made = Manifest(
            config=config,
            layers=tuple(layer.descriptor for layer in done),
            media_type=kind,
            annotations=None if manifest is None else manifest.annotations,
        )
        if manifest is not None:
            self.tell(
                "warning",
                text="layers were packed again: the manifest has another digest, the image the same id",
            )
        return made, encode(made), kind

    def _remember(self, digest: str, data: bytes, changed: bool, config: Descriptor) -> None:
        """Under which digest the registry knows it."""
        if config.digest != self.record.config:
            return  # what is there now is another image than this one
        if changed:
            kept = blobs.write_blob(self.store, data, self.held)
            if self.record.manifest is None:
                record = replace(self.record, manifest=kept, blobs=(*self.record.blobs, kept))
                images.put(self.store, record, lease=self.held)
        try:
            if tags.named(self.store, self.reference.canonical) == self.record.id:
                tags.tag(self.store, self.reference.canonical, self.record.id, [digest])
        except NotFound:
            pass  # removed meanwhile; what was pushed was pushed


def _in_oci_words(media_type: str) -> str:
    """The media type of a layer in a manifest of the OCI's."""
    words = {"": media.OCI_LAYER, "gzip": media.OCI_LAYER_GZIP, "zstd": media.OCI_LAYER_ZSTD}
    return words[media.LAYERS[media_type]] if media_type in media.LAYERS else media_type


def _gzip_of(media_type: str) -> str:
    """The media type of a gzipped layer, in the words of the manifest that it is for."""
    docker = media_type.startswith("application/vnd.docker.")
    return media.DOCKER_LAYER_GZIP if docker else media.OCI_LAYER_GZIP
