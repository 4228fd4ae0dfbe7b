"""Pull: a name becomes an image in the store.

    name ─ resolve ─▶ index ─ platform ─▶ manifest ─▶ config, and layers, several at once
                                                      each streams from the network into the unpacking; its digest and
                                                      its diff_id are verified in the same pass

What is in the store is not transferred, what is unpacked is not unpacked; a layer that somebody else unpacks is waited
for. Everything that is kept is held by a lease until the image's record refers to it.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from errno import ENOSPC
from typing import Any, TypeVar

from lamina.errors import (
    Corrupt,
    InvalidInput,
    KernelError,
    LaminaError,
    NotFound,
    RegistryError,
    Unsupported,
)
from lamina.image.documents import (
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    config_run,
    decode_config,
    decode_manifest,
)
from lamina.image.documents.moment import nanoseconds
from lamina.image.platform import Platform, best, current
from lamina.image.reference import Reference
from lamina.image.registry.blobs import open_blob
from lamina.image.registry.client import Fetched, Registry
from lamina.image.registry.session import Registries
from lamina.image.tar.limits import given
from lamina.image.transfer.events import Events, Telling
from lamina.image.transfer.options import Options
from lamina.store import blobs, images, layers, tags
from lamina.store.claims import Claim, try_claim
from lamina.store.images import ImageRecord
from lamina.store.layers import Layer
from lamina.store.leases import Lease, lease
from lamina.store.root import Store
from lamina.values import value

__all__ = ["pull"]

_LOOK_AGAIN = 0.05  # seconds
What = TypeVar("What")
Done = TypeVar("Done")


def pull(
    store: Store,
    reference: Reference,
    platform: Platform | None = None,
    events: Events | None = None,
    held: Lease | None = None,
    options: Options | None = None,
    registries: Registries | None = None,
) -> ImageRecord:
    """The image that *reference* means, for *platform* (None: this machine), pulled into *store* and named there.

    *held* keeps it when the call is over; without it nothing but its name does. Raises NotFound (no such image, none
    for the platform), RegistryError, Corrupt (something is not what its digest says), InvalidInput (no image, limits),
    Unsupported, KernelError.
    """
    with (
        nullcontext(held) if held is not None else lease(store) as kept,
        nullcontext(registries) if registries is not None else Registries() as network,
    ):
        work = _Pull(store, reference, platform, events, kept, options or Options(), network)
        with network.transport.waits.telling(work.tell.waiting()):
            return work.run()


@value
class _Found:
    """A manifest, where it came from, the indexes that led to it (the outermost first)."""

    registry: Registry
    manifest: Manifest
    digest: str
    indexes: tuple[str, ...]

    @property
    def outermost(self) -> str:
        """The digest that the reference stands for."""
        return (*self.indexes, self.digest)[0]


class _Pull:
    def __init__(
        self,
        store: Store,
        reference: Reference,
        platform: Platform | None,
        events: Events | None,
        held: Lease,
        options: Options,
        network: Registries,
    ) -> None:
        self.store, self.reference, self.held, self.options = store, reference, held, options
        self.asked, self.wanted = platform, platform or current()
        self.name = (
            reference if reference.digest is None else reference.with_digest(reference.digest)
        ).canonical
        self.what = f"pull {reference.familiar}"
        self.tell = Telling(events, self.what)
        self.places = network.repositories(reference)

    def run(self) -> ImageRecord:
        """The whole of it."""
        self.tell("resolving", reference=self.reference.canonical)
        found = self._resolve()
        # what gave the manifest is asked for its blobs first; the others may have what it has not
        self.places.sort(key=lambda registry: registry is not found.registry)
        data = self._small_blob(found.manifest.config)
        config = decode_config(
            data, len(found.manifest.layers), f"config of {self.reference.familiar}", self.options.limits
        )
        self._check_platform(config)
        unpacked = self._layers(found.manifest, config)
        record = self._record(found, config, unpacked)
        known = tags.named(self.store, self.name) == record.id
        self.held.add_image(record.id)  # nor is it pruned or evicted as long as the lease is
        # named in the same step: an image without a name is what a prune takes
        record = images.put(self.store, record, [self.name], lease=self.held, digests=[found.outermost])
        self.tell(
            "done", image=record.id, digest=found.outermost, reference=self.reference.familiar, known=known
        )
        return record

    # -- which image

    def _resolve(self) -> _Found:
        """The manifest, from the first registry that has it."""
        problems: list[LaminaError] = []
        for registry in self.places:
            try:
                return self._ask(registry)
            except (NotFound, RegistryError, Corrupt, InvalidInput) as error:
                problems.append(error)
                if registry.endpoint.mirror:
                    self.tell("warning", text=f"mirror {registry.name}: {error.message}")
        for earlier in problems[:-1]:
            problems[-1].add_note(f"before that: {earlier.message}")
        raise problems[-1]

    def _ask(self, registry: Registry) -> _Found:
        what = f"manifest of {self.reference.familiar}"
        fetched = self._outermost(registry)
        document = decode_manifest(fetched.data, fetched.media_type, what, self.options.limits)
        indexes: list[str] = []
        while isinstance(document, Index):
            if len(indexes) >= self.options.limits.nested:
                raise InvalidInput(f"read {what}: an index in an index in an index, and so on")
            self._keep(fetched)
            indexes.append(fetched.digest)
            entry = self._choose(document)
            fetched = self._by_digest(registry, entry.digest)
            if len(fetched.data) != entry.size:
                raise Corrupt(
                    f"read {what}: {entry.digest} has {len(fetched.data)} bytes, its index says {entry.size}"
                )
            document = decode_manifest(fetched.data, entry.media_type, what, self.options.limits)
        self._keep(fetched)
        return _Found(registry, document, fetched.digest, tuple(indexes))

    def _outermost(self, registry: Registry) -> Fetched:
        if self.reference.digest is not None:
            return self._by_digest(registry, self.reference.digest)
        version = self.reference.version
        if tags.find_name(self.store, self.name) is not None:
            # perhaps nothing changed: asking is cheaper than fetching (and does not count as a pull to Docker Hub)
            digest = registry.head_manifest(version)
            if digest is not None:
                return self._by_digest(registry, digest)
        return registry.get_manifest(version)

    def _by_digest(self, registry: Registry, digest: str) -> Fetched:
        if self.held.add_blob(digest):
            try:
                return Fetched(blobs.read_blob(self.store, digest, self.options.limits.document), "", digest)
            except (Corrupt, InvalidInput):
                pass  # damaged here: it is fetched again, and replaced
        return registry.get_manifest(digest)

    def _choose(self, index: Index) -> Descriptor:
        entry = best(index.images, self.wanted)
        if entry is None:
            there = ", ".join(index.platforms[:20]) or "no image at all"
            raise NotFound(
                f"{self.what}: it has no image for {self.wanted}; there is {there}",
                remedy="name one with --platform, if this machine can run it",
            )
        return entry

    def _check_platform(self, config: ImageConfig) -> None:
        """As docker: another system is refused, another architecture too if this one was asked for, else warned of."""
        made_for = config.platform
        if made_for.os != "linux":
            raise Unsupported(f"{self.what}: an image for {made_for}, not for Linux")
        if not made_for.architecture or self.wanted.runs(made_for):
            return
        text = f"an image for {made_for}, not for {self.wanted}"
        if self.asked is not None:
            raise NotFound(f"{self.what}: {text}", remedy=f"--platform {made_for} pulls it all the same")
        self.tell("warning", text=f"{self.reference.familiar} is {text}: it may not run here")

    # -- blobs

    def _keep(self, fetched: Fetched) -> None:
        self._write(fetched.digest, fetched.data)

    def _write(self, digest: str, data: bytes) -> None:
        with blobs.BlobWriter(self.store, digest, len(data), self.held) as writer:
            if writer.offset:
                writer.restart()
            writer.write(data)
            writer.commit()

    def _small_blob(self, descriptor: Descriptor) -> bytes:
        """A blob that is read as a whole: the config, whose size was checked."""
        if self.held.add_blob(descriptor.digest):
            try:
                return blobs.read_blob(self.store, descriptor.digest, self.options.limits.document)
            except (Corrupt, InvalidInput):
                pass

        def take(registry: Registry) -> bytes:
            with self._open(registry, descriptor) as stream:
                return stream.readall()

        data = self._from_any(take)
        self._write(descriptor.digest, data)
        return data

    def _from_any(self, take: Callable[[Registry], Done], undo: Callable[[], object] = bool) -> Done:
        """What *take* makes of the first registry that gives it, and gives it rightly; *undo* after each other one."""
        for registry in self.places[:-1]:
            try:
                return take(registry)
            except (NotFound, RegistryError, Corrupt, InvalidInput) as error:
                self.tell.check()
                self.tell("warning", text=f"{registry.name}: {error.message}")
                undo()
        return take(self.places[-1])

    def _open(self, registry: Registry, descriptor: Descriptor, **options: Any) -> io.RawIOBase:
        stream = open_blob(registry, descriptor.digest, descriptor.size, **options)
        self.tell.at_stop(stream.abort)
        return stream

    def _told(self, blob: Descriptor) -> dict[str, Any]:
        """Who hears of the layer's bytes, and of pauses."""
        return {"progress": self.tell.progress(blob.digest), "waiting": self.tell.waiting(blob.digest)}

    # -- layers

    def _layers(self, manifest: Manifest, config: ImageConfig) -> dict[str, Layer]:
        """All layers by their diff_ids, several at once."""
        todo = dict(zip(reversed(config.diff_ids), reversed(manifest.layers), strict=True))
        todo = dict(reversed(todo.items()))  # base first, which are the large ones
        # a layer that is there twice may be compressed in two ways: unpacked once, and kept as both
        unpacked = {blob.digest for blob in todo.values()}
        others = {
            blob.digest: blob
            for blob in manifest.layers
            if self.options.keep_blobs and blob.digest not in unpacked
        }
        self._check_sizes(todo, others)
        for blob in (*todo.values(), *others.values()):
            self.tell("layer", id=blob.digest, total=blob.size)
        in_parallel(self.tell, self.options.parallel, self._other, others)
        done: dict[str, Layer] = {}
        if (
            not self.options.keep_blobs
        ):  # of images that share their layers most are there: no work for threads
            for diff_id, blob in todo.items():
                if (layer := self._there(diff_id, blob)) is not None:
                    done[diff_id] = layer
        todo = {diff_id: blob for diff_id, blob in todo.items() if diff_id not in done}
        return {**done, **in_parallel(self.tell, self.options.parallel, self._layer, todo)}

    def _there(self, diff_id: str, blob: Descriptor) -> Layer | None:
        """The layer, if it is in the store; kept from now on."""
        identity = layers.layer_id(diff_id)
        if not self.held.add_layer(identity) or (found := layers.find(self.store, identity)) is None:
            return None
        self.tell("exists", id=blob.digest)
        return found

    def _other(self, identity: str, blob: Descriptor) -> None:
        self._keep_layer(blob)
        self.tell("done", id=identity)

    def _check_sizes(self, todo: dict[str, Descriptor], others: dict[str, Descriptor]) -> None:
        """Of what is to be fetched. What a manifest says of sizes is all that bounds a download that is kept."""
        limits = self.options.words.get("limits") or given()
        wanted = [
            blob for diff_id, blob in todo.items()
            if not os.path.lexists(layers.place_of(self.store, layers.layer_id(diff_id)))
        ] + list(others.values())  # fmt: skip
        for blob in wanted:
            if blob.size > limits.size:
                limits.exceeded("size", f"the layer {blob.digest} has {blob.size} bytes, compressed")
        if not (self.options.keep_blobs or self.options.staged):
            return
        room = os.statvfs(self.store.blobs)
        free, needed = room.f_bavail * room.f_frsize, sum(blob.size for blob in wanted)
        if needed > free:
            raise KernelError(
                "pull", ENOSPC, self.reference.familiar,
                hint=f"its layers have {needed} bytes, compressed, and {free} are free",
                remedy="free some space, or use another --root",
            )  # fmt: skip

    def _layer(self, diff_id: str, blob: Descriptor) -> Layer:
        identity = layers.layer_id(diff_id)
        if self.options.keep_blobs:
            self._keep_layer(blob)
            if (there := self._there(diff_id, blob)) is not None:
                return there
        self._claim(identity, blob).release()  # the unpacking claims it itself, and would wait without end
        return self._unpack(diff_id, blob)

    def _claim(self, key: str, blob: Descriptor) -> Claim:
        """Claim *key*; waits for another process as long as this pull shall go on."""
        held = try_claim(self.store, key)
        if held is None:
            self.tell("waiting", id=blob.digest)
        while held is None:
            time.sleep(_LOOK_AGAIN)
            self.tell.check()
            held = try_claim(self.store, key)
        return held

    def _unpack(self, diff_id: str, blob: Descriptor) -> Layer:
        from lamina.image.layer import unpack_blob

        facts: dict[str, Any] = {"digest": blob.digest, "size": blob.size, **self.options.words}
        if self.options.keep_blobs or self.options.staged:
            self._keep_layer(blob)
            self.tell("unpacking", id=blob.digest)
            layer = unpack_blob(
                self.store, blob.digest, diff_id, self.held, progress=lambda count: self.tell.check(), **facts
            )
            self.tell("done", id=blob.digest)
            return layer
        came = _Came(self._told(blob))

        def take(registry: Registry) -> Layer:
            with _Late(lambda: self._open(registry, blob, **came.told, verify=False)) as stream:
                layer = unpack_blob(self.store, stream, diff_id, self.held, **facts)
                self.tell("done" if stream.opened else "exists", id=blob.digest)
                return layer

        return self._from_any(take, came.undo)

    def _keep_layer(self, blob: Descriptor) -> None:
        """The compressed blob, in the store. One process fetches it; what an earlier one left of it is not fetched."""
        came = _Came(self._told(blob))

        def take(registry: Registry) -> None:
            with blobs.BlobWriter(self.store, blob.digest, blob.size, self.held) as writer:
                if writer.offset:
                    came(writer.offset)
                with self._open(registry, blob, offset=writer.offset, **came.told, verify=False) as stream:
                    while chunk := stream.read(1 << 20):
                        writer.write(chunk)
                writer.commit()

        with self._claim(blob.digest, blob):
            if not self.held.add_blob(blob.digest):
                self._from_any(take, came.undo)

    def _record(self, found: _Found, config: ImageConfig, unpacked: dict[str, Layer]) -> ImageRecord:
        kept = [found.digest, found.manifest.config.digest, *found.indexes]
        if self.options.keep_blobs:
            kept += [layer.digest for layer in found.manifest.layers]
        digest = found.manifest.config.digest
        if not digest.startswith("sha256:"):
            raise Unsupported(
                f"{self.what}: its config has the digest {digest[:20]}..., only sha256 names an image"
            )
        return ImageRecord(
            id=digest.partition(":")[2],
            config=digest,
            layers=tuple(unpacked[diff_id].id for diff_id in config.diff_ids),
            blobs=tuple(dict.fromkeys(kept)),
            run=config_run(config),
            manifest=found.digest,
            indexes=found.indexes,
            size=sum(unpacked[diff_id].size for diff_id in config.diff_ids),
            created=nanoseconds(config.created),
            architecture=config.architecture,
            os=config.os,
            variant=config.variant or "",
        )


class _Came:
    """What was told of a layer's bytes, to be taken back where they turn out to be wrong."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._progress = told["progress"]
        self.told = {**told, "progress": self}
        self.count = 0

    def __call__(self, count: int) -> None:
        self.count += count
        self._progress(count)

    def undo(self) -> None:
        """As many fewer came."""
        if self.count:
            self(-self.count)


class _Late:
    """A stream that is opened when it is first read: not before it is this process' turn to unpack it."""

    def __init__(self, opening: Callable[[], io.RawIOBase]) -> None:
        self._opening = opening
        self._stream: io.RawIOBase | None = None

    @property
    def opened(self) -> bool:
        """Whether anything was read."""
        return self._stream is not None

    def read(self, size: int, /) -> bytes:
        """At most *size* bytes, b"" at the end."""
        if self._stream is None:
            self._stream = self._opening()
        return self._stream.read(size) or b""

    def __enter__(self) -> _Late:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()


def in_parallel(
    tell: Telling, parallel: int, work: Callable[[str, What], Done], todo: dict[str, What]
) -> dict[str, Done]:
    """Do *work* for each of *todo* in threads. When one fails, or the user interrupts, the others end soon as well."""
    if len(todo) == 1:
        return {key: work(key, descriptor) for key, descriptor in todo.items()}
    pool = ThreadPoolExecutor(max(1, min(parallel, len(todo))), thread_name_prefix="lamina-transfer")
    try:
        running = {pool.submit(work, key, descriptor): key for key, descriptor in todo.items()}
        return {running[future]: future.result() for future in as_completed(running)}
    except BaseException:
        tell.stop()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
