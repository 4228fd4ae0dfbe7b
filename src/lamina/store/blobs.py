"""Blobs: content named by its digest, as an OCI image layout has it: blobs/sha256/<hex>.

    blobs/
    ├── sha256/<hex>  sha512/<hex>     whole, verified, on the disk: never changed again
    └── partial/<algorithm>-<hex>      a download that is going on (locked), or broke off and can be resumed
              random                   content whose digest is known when it ends

A blob appears under its name only after its digest and size were found right and it was synced.
"""

from __future__ import annotations

import os
from errno import ELOOP
from stat import S_ISREG

from lamina.errors import Corrupt, InvalidInput, NotFound
from lamina.linux.fd import Fd
from lamina.store import lock, names
from lamina.store.digest import LENGTHS, algorithm_of, check_digest, digest_of, hasher, hex_of, is_digest
from lamina.store.durable import sync_directory, write_all
from lamina.store.root import raise_storage_error
from lamina.store.trace import point

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from lamina.store.durable import Batch
    from lamina.store.leases import Lease
    from lamina.store.root import Store

_AT_ONCE = 1 << 20


def place_of(store: Store, digest: str) -> bytes:
    """The path of a blob, whether it is there or not. Raises InvalidInput."""
    return b"%s/%s/%s" % (store.blobs, algorithm_of(digest).encode(), hex_of(digest).encode())


def has(store: Store, digest: str) -> bool:
    """Whether the blob is there: one lstat(2). Raises InvalidInput."""
    return os.path.lexists(place_of(store, digest))


def size_of(store: Store, digest: str) -> int | None:
    """The bytes of a blob, None where there is none. Raises InvalidInput."""
    try:
        return os.lstat(place_of(store, digest)).st_size
    except FileNotFoundError:
        return None


def identities(store: Store) -> Iterator[str]:
    """The digests of all blobs, in no order."""
    for algorithm in LENGTHS:
        for entry in os.listdir(store.blobs + b"/" + algorithm.encode()):
            if is_digest(digest := f"{algorithm}:{os.fsdecode(entry)}"):
                yield digest


def open_blob(store: Store, digest: str) -> Fd:
    """The blob, opened for reading; its content is not verified again. Raises NotFound, InvalidInput, KernelError."""
    place = place_of(store, digest)
    try:
        opened = Fd(os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
    except FileNotFoundError:
        raise NotFound(f"blob {digest}: not in this store") from None
    except OSError as error:
        if error.errno == ELOOP:
            raise Corrupt(
                f"blob {digest}: it is a symbolic link", remedy="lamina system check --repair"
            ) from None
        raise_storage_error(error, "open blob", place)
    if not S_ISREG(os.fstat(opened).st_mode):
        opened.close()
        raise Corrupt(f"blob {digest}: it is no file", remedy="lamina system check --repair")
    return opened


def read_blob(store: Store, digest: str, limit: int) -> bytes:
    """The whole content of a blob of at most *limit* bytes, verified. Raises NotFound, InvalidInput, Corrupt."""
    with open_blob(store, digest) as opened:
        size = os.fstat(opened).st_size
        if size > limit:
            raise InvalidInput(f"blob {digest}: {size} bytes, at most {limit} are read here")
        data = b""
        while len(data) <= size and (chunk := os.read(opened, _AT_ONCE)):
            data += chunk
    if digest_of(data, algorithm_of(digest)) != digest:
        raise _damaged(digest, digest_of(data, algorithm_of(digest)))
    return data


def verify(store: Store, digest: str) -> None:
    """Read the whole blob and compare it with its digest. Raises NotFound, Corrupt, KernelError."""
    hashed = hasher(digest)
    buffer = bytearray(_AT_ONCE)
    with open_blob(store, digest) as opened:
        while count := os.readv(opened, [buffer]):
            hashed.update(memoryview(buffer)[:count])
    if hashed.hexdigest() != hex_of(digest):
        raise _damaged(digest, f"{algorithm_of(digest)}:{hashed.hexdigest()}")


def write_blob(store: Store, data: bytes, lease: Lease, batch: Batch | None = None) -> str:
    """Keep *data*; its digest. With *batch* it is that which has to wait until its name is on the disk. Raises
    KernelError.
    """
    digest = digest_of(data)
    if lease.add_blob(digest):
        return digest
    with BlobWriter(store, digest, len(data), lease) as writer:
        if writer.offset:
            writer.restart()
        writer.write(data)
        return writer.commit(batch)


def adopt(store: Store, path: bytes, digest: str, lease: Lease) -> str:
    """The file *path* of this store's file system, which was hashed while it was written, becomes the blob *digest*.

    Raises InvalidInput, KernelError.
    """
    lease.add_blob(digest)
    place = place_of(store, digest)
    try:
        with Fd(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)) as file:
            os.fchmod(file, 0o600)
            point("blob.adopt")
            os.fsync(file)
        point("blob.take-name")
        os.rename(path, place)
        sync_directory(os.path.dirname(place), what="blob")
    except OSError as error:
        raise_storage_error(error, "keep blob", place)
    return digest


def _damaged(digest: str, found: str) -> Corrupt:
    return Corrupt(
        f"blob {digest}: damaged on the disk, its content is {found}",
        remedy="'lamina system check --repair --rehash' removes what is damaged; then pull the image again",
    )


class BlobWriter:
    """Streams one blob into the store, verifying it.

        with BlobWriter(store, digest, size, lease) as writer:
            for chunk in source_from(writer.offset):     # what an earlier attempt left is there, and hashed
                writer.write(chunk)
            writer.commit()

    *digest* None: it is found out, and `commit` gives it (sha256). *size* None: unknown, whatever comes is taken.
    Left without `commit`, what was written stays for the next attempt, if the digest is known. If somebody else is
    writing the same blob, this one begins anew beside it (`claims.claim` is how to wait instead).
    """

    def __init__(self, store: Store, digest: str | None, size: int | None, lease: Lease) -> None:
        self.store, self.lease = store, lease
        self.digest = None if digest is None else check_digest(digest)
        self.size = size
        self.offset = 0
        self._resumable = False  # whether it is where the next attempt looks for what came so far
        self._hash = hasher(digest or "sha256")
        if digest is not None:
            lease.add_blob(digest)
        try:
            self._lock = self._open()
            self._resume()
        except OSError as error:
            raise_storage_error(error, "write blob", store.blobs)

    def _open(self) -> lock.Lock:
        partial = self.store.blobs + b"/partial/"
        point("blob.create")
        if self.digest is not None:
            self.path = partial + self.digest.replace(":", "-").encode()
            held = lock.take(self.path, lock.LOCK_EX, wait=False, create=True)
            if held is not None:
                self._resumable = True
                return held
        self.path = partial + names.new_id().encode()
        held = lock.take(self.path, lock.LOCK_EX, create=True)
        assert held is not None
        return held

    def _resume(self) -> None:
        """Hash what an earlier attempt left. It may be anything, after a power cut: the digest decides in the end."""
        if not os.fstat(self._lock.fd).st_size:
            return
        buffer = bytearray(_AT_ONCE)
        while count := os.readv(self._lock.fd, [buffer]):
            self._hash.update(memoryview(buffer)[:count])
            self.offset += count
        if self.size is not None and self.offset > self.size:
            self.restart()

    def restart(self) -> None:
        """Forget what was written: the source cannot go on in the middle. Raises KernelError."""
        try:
            point("blob.truncate")
            os.ftruncate(self._lock.fd, 0)
            os.lseek(self._lock.fd, 0, os.SEEK_SET)
        except OSError as error:
            raise_storage_error(error, "write blob", self.path)
        self._hash = hasher(self.digest or "sha256")
        self.offset = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append *data*. Raises Corrupt as soon as more than `size` bytes came, KernelError."""
        view = memoryview(data)
        if self.size is not None and self.offset + len(view) > self.size:
            self._discard()
            raise Corrupt(
                f"blob {self.digest or 'without digest'}: more than the {self.size} bytes it should have came"
            )
        try:
            point("blob.write")
            write_all(self._lock.fd, view)
        except OSError as error:
            # what went out of *data* is not hashed: the next attempt hashes the file, not our word for it
            self._lock.release()
            raise_storage_error(error, "write blob", self.path)
        self._hash.update(view)
        self.offset += len(view)

    def commit(self, batch: Batch | None = None) -> str:
        """Verify, sync, and give the blob its name; its digest. Idempotent content: somebody else's copy is replaced.
        Its name is synced here, or with what *batch* needs.

        Raises Corrupt when digest or size are not what was said (what was written is thrown away), KernelError.
        """
        digest = f"{algorithm_of(self.digest) if self.digest else 'sha256'}:{self._hash.hexdigest()}"
        if self.size is not None and self.offset != self.size:
            short = f"{self.offset} of {self.size} bytes came"
            raise Corrupt(f"blob {self.digest or digest}: cut short, {short}")
        if self.digest not in (None, digest):
            self._discard()
            raise Corrupt(f"blob {self.digest}: what came has the digest {digest}")
        if self.digest is None:
            self.lease.add_blob(digest)
        place = place_of(self.store, digest)
        try:
            point("blob.fsync")
            os.fsync(self._lock.fd)
            self._take_name(place)
            if batch is None:
                sync_directory(os.path.dirname(place), what="blob")
            else:
                batch.needs(os.path.dirname(place), what="blob")
        except OSError as error:
            raise_storage_error(error, "write blob", place)
        return digest

    def take_name(self) -> None:
        """As `commit`, where its content is what the digest says, and on the disk: `path` was among the contents of a
        batch. Who refers to it waits for its name. Raises KernelError.
        """
        assert self.digest is not None
        self._take_name(place_of(self.store, self.digest))

    def _take_name(self, place: bytes) -> None:
        try:
            point("blob.rename")
            os.rename(self.path, place)
        except OSError as error:
            raise_storage_error(error, "write blob", place)
        self._lock.release()

    def _discard(self) -> None:
        if self._lock.held:
            try:
                os.unlink(self.path)
            except OSError:
                pass
            self._lock.release()

    def close(self) -> None:
        """Stop. What came so far is kept if the digest is known and it can be resumed; a second call does nothing."""
        if self._lock.held and not (self.offset and self._resumable):
            self._discard()
        self._lock.release()

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
