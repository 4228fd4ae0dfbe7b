"""A compressed layer becomes a layer of the store: decompressed, hashed, unpacked and verified in one pass.

    layer = unpack_blob(store, stream, diff_id, lease, digest=descriptor.digest, size=descriptor.size)

Memory does not grow with the layer, and several may be unpacked at once, each by a call of its own in a thread of its
own. Where that leaves processors without work, a second thread reads, hashes and decompresses ahead of the one that
makes the files: the libraries do that without the interpreter's lock, and at most a few megabytes wait between the two.
"""

from __future__ import annotations

import os
import queue
import threading

from lamina.errors import Corrupt, InvalidInput, NotFound
from lamina.image.apply import IdMap, apply_layer
from lamina.image.apply.recipe import Recipe
from lamina.image.compression import OF_LAYERS, reader
from lamina.image.tar.limits import Limits, given
from lamina.linux.fd import Fd
from lamina.linux.procfs import has_trusted_attributes, ids_here
from lamina.store import blobs, layers
from lamina.store.claims import claim
from lamina.store.digest import check_digest, hasher
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from lamina.image.compression import Decompressed, Kind
    from lamina.store.layers import Layer
    from lamina.store.leases import Lease
    from lamina.store.root import Store

    class Stream(Protocol):
        """What a layer comes from."""

        def read(self, size: int, /) -> bytes:
            """At most *size* bytes, b"" at the end."""

    class Progress(Protocol):
        """Is told how many compressed bytes came since it was last called; in a thread of the unpacking."""

        def __call__(self, count: int, /) -> object: ...


_REST = 64  # mebibytes that are read of what cannot be unpacked, to find out whether it is what was asked for
_WAITING = 6  # chunks of at most a mebibyte between the threads
_WORTH = 4  # chunks that come before a second thread is started


@value
class Filled:
    """What became of a layer's archive: the digests of what came and of the archive, their sizes, what was unpacked."""

    digest: str
    diff_id: str
    taken: int
    archive: int
    size: int
    inodes: int
    skipped: tuple[tuple[str, int], ...]
    recipe: bool


def unpack_blob(
    store: Store,
    source: Stream | str,
    diff_id: str | None,
    lease: Lease,
    *,
    digest: str | None = None,
    size: int | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
    userxattr: bool | None = None,
    ids: IdMap | None = None,
    within: Callable[..., Filled] | None = None,
    allowed: tuple[Kind, ...] = OF_LAYERS,
    keep_recipe: bool = True,
) -> Layer:
    """The layer *diff_id*, unpacked from *source* unless it is there already; *lease* keeps it.

    *source* is a stream, or the digest of a blob of the store; it need not be read to its end when the layer is there.
    *digest* and *size* are those of the compressed bytes and are verified in the same pass. *diff_id* None: it is found
    out. *userxattr* None: whether this is not root of the machine; then *ids* are at most those that there are here.
    *within* calls a function of this module with its arguments somewhere else, in a user namespace, and returns its
    result; then *source* is a blob. *progress* may raise, to stop.
    Raises Corrupt (wrong digest or size, damaged, cut off), InvalidInput (no archive, a limit, a hostile entry),
    Unsupported, NotFound, KernelError.
    """
    if userxattr is None:
        userxattr = not has_trusted_attributes()
        if userxattr and ids is None:
            ids = IdMap(
                *[tuple((id_, id_, count) for id_, count in ids_here(kind)) for kind in ("uid", "gid")]
            )
    words: dict[str, Any] = {
        "userxattr": userxattr,
        "ids": ids,
        "limits": limits or given(),  # here: the variable may not be there, where it is done
        "allowed": allowed,
        "keep_recipe": keep_recipe,
    }

    def unpack(identity: str | None) -> Layer:
        with layers.stage(store, identity, lease) as stage:
            if not isinstance(source, str):
                filled = fill(source.read, stage.path, digest, progress=progress, **words)
            else:
                place = blobs.place_of(store, check_digest(source))
                if within is None:
                    filled = fill_from_file(place, stage.path, digest or source, progress=progress, **words)
                else:
                    filled = within(
                        fill_from_file, place, stage.path, digest or source, progress=progress, **words
                    )
            _verify(filled, digest or (source if isinstance(source, str) else None), size, diff_id)
            extra: dict[str, Any] = {"archive": filled.archive, "recipe": filled.recipe}
            if filled.skipped:
                extra["skipped"] = dict(filled.skipped)
            return stage.commit(filled.diff_id, filled.size, filled.inodes, extra)

    if diff_id is None:
        return unpack(None)
    identity = layers.layer_id(diff_id)
    if lease.add_layer(identity) and (found := layers.find(store, identity)) is not None:
        return found
    with claim(store, identity):
        return layers.find(store, identity) or unpack(identity)


def _verify(filled: Filled, digest: str | None, size: int | None, diff_id: str | None) -> None:
    if size is not None and filled.taken != size:
        raise Corrupt(f"unpack layer {digest or diff_id}: {filled.taken} bytes came, it should have {size}")
    if digest is not None and filled.digest != digest:
        raise Corrupt(f"unpack layer {digest}: what came has the digest {filled.digest}")
    if diff_id is not None and filled.diff_id != diff_id:
        raise Corrupt(
            f"unpack layer: the image's config promises the diff_id {diff_id}, the archive has {filled.diff_id}"
        )


def fill_from_file(place: bytes, path: bytes, digest: str | None, **words: Any) -> Filled:
    """As `fill`, from the file *place*. A function of a module whose arguments can be pickled: see `within` above."""
    try:
        with open(place, "rb", buffering=0) as file:
            return fill(file.read, path, digest, **words)
    except FileNotFoundError as error:
        if error.filename != place:
            raise
        raise NotFound(f"unpack layer: the blob {digest} is not in this store") from None


def fill(
    read: Callable[[int], bytes],
    path: bytes,
    digest: str | None = None,
    *,
    userxattr: bool,
    ids: IdMap | None = None,
    limits: Limits | None = None,
    allowed: tuple[Kind, ...] = OF_LAYERS,
    keep_recipe: bool = True,
    progress: Progress | None = None,
) -> Filled:
    """Unpack what *read* gives, to its end, into the empty directory *path*, the recipe beside it; verify nothing.

    *digest* says only how the compressed bytes are hashed. Raises as `unpack_blob`; what *read* and *progress* raise.
    """
    limits = limits or given()
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with Fd(os.open(path, flags)) as directory, Fd(os.open(os.path.dirname(path), flags)) as home:
        recipe = Recipe(home) if keep_recipe else None
        try:
            with _Decompressing(read, digest, limits, allowed, progress) as stream:
                try:
                    applied = apply_layer(
                        stream.next_chunk,
                        directory,
                        userxattr=userxattr,
                        ids=ids,
                        limits=limits,
                        recipe=recipe,
                    )
                    stream.finish()
                except (InvalidInput, Corrupt) as error:
                    # it may be no archive because it is not what was asked for: then that is what to say
                    if digest is not None and stream.read_rest() and stream.digest != digest:
                        raise Corrupt(
                            f"unpack layer {digest}: what came has the digest {stream.digest} ({error.message})"
                        ) from error
                    raise
            if recipe is not None:
                recipe.finish()
        finally:
            if recipe is not None:
                recipe.close()
    return Filled(
        stream.digest, stream.diff_id, stream.taken, stream.given, applied.size, applied.inodes, applied.skipped,
        recipe is not None and not recipe.given_up,
    )  # fmt: skip


class _Active:
    """How many layers are being unpacked in this process, and whether a processor has nothing to do meanwhile."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._processors = len(os.sched_getaffinity(0))
        self._count = 0

    def change(self, by: int) -> None:
        """One more, or one less."""
        with self._turn:
            self._count += by

    def leaves_room(self) -> bool:
        """Whether a second thread for a layer would have a processor of its own."""
        return self._count < self._processors


_active = _Active()


class _Decompressing:
    """Reads, hashes and decompresses: when it is asked, or in a thread, ahead of who unpacks."""

    def __init__(
        self,
        read: Callable[[int], bytes],
        digest: str | None,
        limits: Limits,
        allowed: tuple[Kind, ...],
        progress: Progress | None,
    ) -> None:
        self._read, self._limits, self._allowed, self._progress = read, limits, allowed, progress
        self._compressed = hasher(digest or "sha256")
        self._algorithm = digest.partition(":")[0] if digest else "sha256"
        self._archive = hasher("sha256")
        self._stream: Decompressed | None = None
        self._as_it_came = False
        self.taken = self.given = self._chunks = 0
        self._entered = self._stop = False
        self._thread: threading.Thread | None = None
        self._ahead: queue.Queue[bytes | BaseException] = queue.Queue(_WAITING)

    @property
    def digest(self) -> str:
        """Of the compressed bytes."""
        return f"{self._algorithm}:{self._compressed.hexdigest()}"

    @property
    def diff_id(self) -> str:
        """Of the archive."""
        return self.digest if self._as_it_came else f"sha256:{self._archive.hexdigest()}"

    def next_chunk(self) -> bytes:
        """The next bytes of the archive, b"" at its end. Raises what went wrong."""
        if self._thread is None:
            if self._chunks < _WORTH or not _active.leaves_room():
                return self._next()
            self._thread = threading.Thread(target=self._run, name="lamina-decompress", daemon=True)
            self._thread.start()
        found = self._ahead.get()
        if isinstance(found, bytes):
            if not found:
                self._ahead.put(b"")  # for whoever asks again
            return found
        raise found

    def finish(self) -> None:
        """Read whatever is left, for the digests."""
        while self.next_chunk():
            pass

    def read_rest(self) -> bool:
        """Read what the decompression left, for the digest; False if that is too much or cannot be read."""
        self.__exit__()
        try:
            for _ in range(_REST):
                if not self._count(1 << 20):
                    return True
        except Exception:  # whatever it is, the first problem is the one to tell
            pass
        return False

    def _count(self, size: int) -> bytes:
        data = self._read(size)
        self._compressed.update(data)
        self.taken += len(data)
        if data and self._progress is not None:
            self._progress(len(data))
        return data

    def _next(self) -> bytes:
        """Decompress some more, and hash it; in one thread at a time."""
        if self._stream is None:
            self._stream = reader(self._count, self._limits, self._allowed)
            # what is not compressed need not be hashed twice
            self._as_it_came = self._stream.kind == "none" and self._algorithm == "sha256"
        chunk = self._stream.next_chunk()
        if not self._as_it_came:
            self._archive.update(chunk)
        self.given += len(chunk)
        self._chunks += 1
        return chunk

    def _run(self) -> None:
        try:
            while not self._stop:
                chunk = self._next()
                self._ahead.put(chunk)
                if not chunk:
                    return
        except BaseException as error:  # the other thread raises it
            self._ahead.put(error)

    def __enter__(self) -> _Decompressing:
        self._entered = True
        _active.change(1)
        return self

    def __exit__(self, *_: object) -> None:
        if self._entered:
            self._entered = False
            _active.change(-1)
        self._stop = True
        while self._thread is not None and self._thread.is_alive():
            try:
                self._ahead.get_nowait()
            except queue.Empty:
                pass
            self._thread.join(0.01)
