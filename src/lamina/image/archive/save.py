"""Images of the store written as archives: docker's form, which is an OCI layout as well, or an OCI layout alone.

Layers are written as they are kept: the compressed blobs with their manifest where these were kept, else uncompressed,
to the byte as they came (lamina.image.pack.again), or packed anew where nobody knows how that was: then the config
names their new digests, the image gets another id, and that is said.

    blobs/sha256/<hex>    configs, manifests, layers
    index.json            a descriptor for each name (image-spec, "image-layout.md")
    oci-layout
    manifest.json         docker's list of the same, for `docker load` before version 25
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from lamina.errors import Corrupt, NotFound
from lamina.image.archive.reading import CONTAINERD_NAME, NAME
from lamina.image.compression import reader
from lamina.image.documents import (
    DEFAULT_LIMITS,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    PlatformField,
    decode_config,
    decode_manifest,
    encode,
    media,
)
from lamina.image.pack import has_recipe, pack_stored, repack
from lamina.image.pending import PACKED, packed_blob
from lamina.image.reference import parse
from lamina.image.tar.limits import Limits
from lamina.linux.fd import Fd
from lamina.store import blobs, layers
from lamina.store.digest import algorithm_of, digest_of, hasher, hex_of
from lamina.store.scratch import Scratch
from lamina.values import value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lamina.image.apply import IdMap
    from lamina.image.archive.writing import Out, Target
    from lamina.store.images import ImageRecord
    from lamina.store.layers import Layer
    from lamina.store.root import Store

    Events = Callable[..., object]
    Packing = Callable[..., Any]

CHUNK = 1 << 20
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


@value
class Written:
    """An image that is in the archive: its manifest, its config's digest, and the digests of its layers there."""

    manifest: Descriptor
    config: str
    layers: tuple[str, ...]


def save(
    store: Store,
    wanted: Sequence[tuple[ImageRecord, Sequence[str]]],
    target: Target,
    *,
    docker: bool = True,
    events: Events | None = None,
    packing: Packing | None = None,
) -> None:
    """Write the images *wanted*, each with its canonical names. *docker*: docker's manifest.json as well. *packing*
    calls `pack_file(layer, path, userxattr, ids)` where the layers' files can be read, given the first two.

    Whoever calls holds the images. Raises NotFound, Corrupt (a layer was changed), KernelError.
    """
    saver = _Saver(store, target, events, packing)
    done = [(saver.image(record), names) for record, names in wanted]
    descriptors = [descriptor for written, names in done for descriptor in _named(written.manifest, names)]
    index = Index(media_type=media.OCI_INDEX, manifests=tuple(descriptors))
    saver.document("index.json", encode(index))
    if docker:
        saver.document("manifest.json", _docker(done))
    saver.document("oci-layout", LAYOUT)
    target.finish()


def _named(manifest: Descriptor, names: Iterable[str]) -> list[Descriptor]:
    """The manifest once for each name, as docker and containerd write it; once without, if there is none."""
    found = []
    for name in names:
        notes = {CONTAINERD_NAME: name, NAME: parse(name).tag or name}
        found.append(_with(manifest, annotations=notes))
    return found or [manifest]


def _with(descriptor: Descriptor, **changes: Any) -> Descriptor:
    fields = {field: getattr(descriptor, field) for field in descriptor.__struct_fields__}
    return Descriptor(**{**fields, **changes})


def _docker(done: Iterable[tuple[Written, Sequence[str]]]) -> bytes:
    entries = [
        {
            "Config": _member(written.config),
            "RepoTags": [parse(name).familiar for name in names] or None,
            "Layers": [_member(layer) for layer in written.layers],
        }
        for written, names in done
    ]
    return json.dumps(entries, separators=(",", ":"), sort_keys=True).encode()


def _member(digest: str) -> str:
    return f"blobs/{algorithm_of(digest)}/{hex_of(digest)}"


class _Saver:
    def __init__(self, store: Store, target: Target, events: Events | None, packing: Packing | None) -> None:
        self.store, self.target, self.packing = store, target, packing
        self.tell: Events = events or (lambda kind, **facts: None)
        self.written: dict[str, int] = {}  # digest: size

    def document(self, name: str, data: bytes) -> None:
        """Write a small member."""
        self.target.put(name, len(data), lambda out: out.write(data))

    def image(self, record: ImageRecord) -> Written:
        """Write everything of an image that is not there yet."""
        data = blobs.read_blob(self.store, record.config, DEFAULT_LIMITS.document)
        config = decode_config(data, len(record.layers), what=f"config of image {record.id[:12]}")
        if (kept := self._kept_manifest(record)) is not None:
            manifest, manifest_data = kept
            for descriptor in manifest.layers:
                self._blob(descriptor.digest)
            digests = tuple(layer.digest for layer in manifest.layers)
            kind = manifest.media_type or media.OCI_MANIFEST
        else:
            digests = tuple(self._layer(layer) for layer in record.layers)
            if digests != config.diff_ids:
                data = self._rewritten(record, config, digests)
            manifest_data = encode(self._manifest(data, digests))
            kind = media.OCI_MANIFEST
        self._small(data)
        self._small(manifest_data)
        platform = PlatformField(record.architecture, record.os, variant=record.variant or None)
        descriptor = Descriptor(kind, digest_of(manifest_data), len(manifest_data), platform=platform)
        return Written(descriptor, digest_of(data), digests)

    def _kept_manifest(self, record: ImageRecord) -> tuple[Manifest, bytes] | None:
        """The manifest that the image came with, if all it names was kept."""
        if record.manifest is None or not blobs.has(self.store, record.manifest):
            return None
        data = blobs.read_blob(self.store, record.manifest, DEFAULT_LIMITS.document)
        manifest = decode_manifest(data, what=f"manifest of image {record.id[:12]}")
        if not isinstance(manifest, Manifest) or manifest.config.digest != record.config:
            return None
        there = all(blobs.has(self.store, layer.digest) for layer in manifest.layers)
        return (manifest, data) if there else None

    def _manifest(self, config: bytes, digests: Iterable[str]) -> Manifest:
        return Manifest(
            media_type=media.OCI_MANIFEST,
            config=Descriptor(media.OCI_CONFIG, digest_of(config), len(config)),
            layers=tuple(Descriptor(media.OCI_LAYER, digest, self.written[digest]) for digest in digests),
        )

    def _rewritten(self, record: ImageRecord, config: ImageConfig, digests: tuple[str, ...]) -> bytes:
        """The config with the digests that its layers have now: everything else stays as it was."""
        document = json.loads(blobs.read_blob(self.store, record.config, DEFAULT_LIMITS.document))
        document["rootfs"]["diff_ids"] = list(digests)
        data = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
        changed = sum(old != new for old, new in zip(config.diff_ids, digests, strict=True))
        self.tell(
            "warning",
            text=f"image {record.id[:12]} gets the id {hex_of(digest_of(data))[:12]} in the archive: {changed} of its "
            "layers had to be packed anew",
        )
        return data

    def _small(self, data: bytes) -> None:
        digest = digest_of(data)
        if digest not in self.written:
            self.written[digest] = len(data)
            self.document(_member(digest), data)

    def _blob(self, digest: str) -> None:
        if digest in self.written:
            return
        with blobs.open_blob(self.store, digest) as opened:
            self._from(opened, digest)

    def _from(self, opened: Fd, digest: str) -> None:
        size = os.fstat(opened).st_size

        def fill(out: Out) -> None:
            while data := os.read(opened, CHUNK):
                out.write(data)

        self._member(digest, size, fill)

    def _member(self, digest: str, size: int, fill: Callable[[Out], object]) -> None:
        """Write a layer, and tell how that goes."""
        self.tell("layer", id=digest, total=size)
        self.target.put(_member(digest), size, lambda out: fill(_Told(out, digest, self.tell)))
        self.written[digest] = size
        self.tell("done", id=digest)

    def _layer(self, identity: str) -> str:
        """Write a layer uncompressed; its digest there."""
        layer = layers.find(self.store, identity)
        if layer is None:
            raise NotFound(f"save: layer {identity[:12]} is not in this store", remedy="pull the image again")
        digest = layer.diff_id
        if digest is not None and digest in self.written:
            return digest
        size = layer.extra.get("archive")
        if digest is not None and isinstance(size, int) and self.packing is None and has_recipe(layer):
            self._member(digest, size, lambda out: repack(layer, out))
            return digest
        if digest is not None and (kept := packed_blob(self.store, layer)) is not None:
            self._member(digest, archive_of(layer), lambda out: unpack(self.store, layer, kept[0], out))
            return digest
        return self._by_file(layer)

    def _by_file(self, layer: Layer) -> str:
        """Pack a layer into a file before: its size is not known, or only another process may read its files."""
        self.tell("packing", id=layer.diff_id or layer.id)
        scratch = Scratch(self.store)
        try:
            path = scratch.path + b"/layer.tar"
            run = self.packing or (lambda work, *args: work(*args, None, None))
            digest: str = run(pack_file, layer, path)
            with Fd(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)) as file:
                if digest not in self.written:
                    self._from(file, digest)
            return digest
        finally:
            scratch.remove()


class _Told:
    """Tells of what is written."""

    def __init__(self, out: Out, digest: str, tell: Events) -> None:
        self._out, self._digest, self._tell = out, digest, tell

    def write(self, data: bytes, /) -> None:
        self._out.write(data)
        self._tell("progress", id=self._digest, bytes=len(data))


def archive_of(layer: Layer) -> int:
    """The bytes of the archive of a layer whose compressed form was kept."""
    return int(layer.extra[PACKED]["archive"])


def unpack(store: Store, layer: Layer, digest: str, out: Out) -> None:
    """Write the archive of *layer* as it is in the blob *digest*. Raises Corrupt where it is another one."""
    hashed, size = hasher("sha256"), archive_of(layer)
    with blobs.open_blob(store, digest) as opened:
        stream = reader(lambda count: os.read(opened, count), Limits(ratio=1 << 20, size=size))
        while data := stream.next_chunk():
            hashed.update(data)
            out.write(data)
    if (found := f"sha256:{hashed.hexdigest()}") != layer.diff_id:
        raise Corrupt(
            f"save: the blob {digest} has the archive {found}, not that of layer {layer.id[:12]}",
            remedy="lamina system check --repair --rehash",
        )


def pack_file(layer: Layer, path: bytes, userxattr: bool | None, ids: IdMap | None) -> str:
    """Write the archive of *layer* to the new file *path*; its digest. With a recipe it is the one that it came from,
    else *ids* says what owners become in it. A function of a module whose arguments can be pickled.
    """
    with open(path, "xb") as file:
        return pack_stored(layer, file, userxattr=userxattr, ids=ids).diff_id
