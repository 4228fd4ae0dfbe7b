"""Blobs from a registry as a stream that survives broken connections, and is what its digest says or an error.

    with open_blob(registry, digest, size) as stream:      # or open_blob(..., offset=kept) to go on somewhere
        while chunk := stream.read(1 << 20):
            ...

When a connection breaks, the stream asks for the rest (Range, RFC 9110). A registry that cannot do that sends all of it
again: what was read already is read once more and thrown away.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from urllib3.exceptions import HTTPError

from lamina.errors import Corrupt, NotFound, RegistryError
from lamina.image.documents import media
from lamina.image.registry.client import LARGEST_ERROR, Registry
from lamina.image.registry.transport import Response, some
from lamina.image.registry.waits import Listener
from lamina.store.digest import check_digest, hasher

if TYPE_CHECKING:
    from lamina.store.digest import Hasher

__all__ = ["BlobStream", "open_blob"]

MOST_BREAKS = 100  # of one blob, however much comes in between
FRUITLESS_BREAKS = 5  # one after the other, with less than _FRUIT between them
_FRUIT = 64 << 10
_AT_ONCE = 256 << 10
_TELL = 1.0  # seconds after which what came is given, if it is less than was asked for


def open_blob(
    registry: Registry,
    digest: str,
    size: int,
    *,
    offset: int = 0,
    progress: Callable[[int], object] | None = None,
    waiting: Listener | None = None,
    verify: bool = True,
) -> BlobStream:
    """The blob *digest* of *size* bytes, from *offset* on. Raises NotFound, RegistryError.

    *verify* False, or an *offset*: the caller hashes the whole himself, only the size is verified here. *progress* is
    told how many bytes came, each time some did; *waiting* of pauses before another attempt (see `waits`).
    """
    return BlobStream(registry, check_digest(digest), size, offset, progress, verify, waiting)


class BlobStream(io.RawIOBase):
    """The bytes of a blob. Reading past the last of them verifies: Corrupt if they are not what they should be.

    Raises RegistryError when the registry cannot be reached any more, however patiently.
    """

    def __init__(
        self,
        registry: Registry,
        digest: str,
        size: int,
        offset: int,
        progress: Callable[[int], object] | None,
        verify: bool,
        waiting: Listener | None = None,
    ) -> None:
        super().__init__()
        self.registry, self.digest, self.size, self.offset = registry, digest, size, offset
        self._progress, self._waiting = progress, waiting
        self._hash: Hasher | None = hasher(digest) if verify and not offset else None
        self._breaks = self._fruitless = 0
        self._since_break = 0
        self._waited, self._came = (
            0.0,
            0,
        )  # seconds that were spent reading, and what came in them: see `_gather`
        self._response: Response | None = None
        self._verified = False
        if offset < size:
            try:
                self._response = self._open()
            except HTTPError as error:
                self._broke(str(error))

    def abort(self) -> None:
        """Let whichever thread reads from this end soon. For another thread."""
        response = self._response
        if response is not None:
            try:
                response.shutdown()
            except (RuntimeError, ValueError, OSError):  # it has no connection any more
                pass

    def readable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int | None = -1) -> bytes:
        """At most *size* bytes, b"" at the end, which comes only if everything is right; all without a size."""
        return (
            self.readall() if size is None or size < 0 else self._some(min(size, _AT_ONCE)) if size else b""
        )

    def readinto(self, buffer: Any) -> int:
        """As of every raw stream: 0 at the end, which comes only if everything is right."""
        with memoryview(buffer).cast("B") as view:
            data = self._some(min(len(view), _AT_ONCE)) if len(view) else b""
            view[: len(data)] = data
            return len(data)

    def _some(self, count: int) -> bytes:
        """The next bytes, at most *count*, b"" at the verified end."""
        while True:
            if self.offset == self.size and self._response is None:
                self._verify()
                return b""
            data = self._attempt(count)
            if data:
                break
            if self.offset == self.size:
                self._finish()
        if self.offset + len(data) > self.size:
            self._discard()
            raise Corrupt(f"fetch blob {self.digest}: more than the {self.size} bytes it should have came")
        if self._hash is not None:
            self._hash.update(data)
        self.offset += len(data)
        self._since_break += len(data)
        if self._progress is not None:
            self._progress(len(data))
        return data

    def _attempt(self, count: int) -> bytes:
        """Some bytes of the open answer; b"" when it ended, or broke and was opened again."""
        try:
            if self._response is None:
                self._response = self._open()
            data = self._gather(self._response, count)
            if data or self.offset == self.size:
                return data
            problem = f"it ended after {self.offset} of {self.size} bytes"
        except HTTPError as error:
            problem = str(error)
        except OSError as error:
            problem = str(error)
        self._broke(problem)
        return b""

    def _gather(self, response: Response, count: int) -> bytes:
        """The next *count* bytes, or what comes of them in about a second. Raises HTTPError, OSError, also where hardly
        anything comes for long: whoever sends a byte now and then is not waited for until the last of them.
        """
        patience = self.registry.transport.patience
        pieces: list[bytes] = []
        left, start = count, time.monotonic()
        now, end = start, start + min(_TELL, patience.window)
        try:
            while left and now < end and (piece := some(response, left)):
                pieces.append(piece)
                left -= len(piece)
                now = time.monotonic()
        except (HTTPError, OSError):
            if not pieces:
                raise  # else what came counts, and the answer is closed: there is nothing next
        self._waited += now - start
        self._came += count - left
        if self._waited >= patience.window:
            came, waited = self._came, self._waited
            self._came, self._waited = 0, 0.0
            if came < patience.slowest:
                raise HTTPError(f"only {came} bytes in {waited:.1f} seconds")
        return b"".join(pieces)

    def _broke(self, problem: str) -> None:
        """Throw the answer away; raise RegistryError if it breaks too often."""
        self._discard()
        self._breaks += 1
        self._fruitless = 1 if self._since_break >= _FRUIT else self._fruitless + 1
        self._since_break = 0
        if self._breaks > MOST_BREAKS or self._fruitless > FRUITLESS_BREAKS:
            raise RegistryError(
                f"fetch blob {self.digest} from {self.registry.name}: the connection breaks again and again: "
                f"{problem[:200]}"
            )
        with self.registry.transport.waits.telling(self._waiting):
            self.registry.transport.pause(self._fruitless, problem[:200])

    def _open(self) -> Response:
        headers = {"Range": f"bytes={self.offset}-"} if self.offset else {}
        with self.registry.transport.waits.telling(self._waiting):  # whichever thread reads
            response = self.registry.call("GET", self.registry.address(f"blobs/{self.digest}"), headers)
        if response.status in (200, 206):
            self._check_answer(response)
            return response
        data = self.registry.read(response, LARGEST_ERROR)
        if response.status == 404:
            raise NotFound(f"fetch blob {self.digest}: {self.registry.name} has no such blob")
        if response.status == 416:
            raise Corrupt(
                f"fetch blob {self.digest}: the registry has fewer than {self.offset} bytes of {self.size}"
            )
        raise self.registry.refused(response, data, "pull from")

    def _check_answer(self, response: Response) -> None:
        """Raise unless what follows are the bytes from our offset on; read up to there if it begins earlier."""
        what = f"fetch blob {self.digest}"
        if media.essence(response.headers.get("Content-Type")) == "text/html":
            response.close()
            raise RegistryError(f"{what}: the registry sends a web page instead")
        start = 0
        if response.status == 206:
            found = re.match(
                r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)$", response.headers.get("Content-Range", "")
            )
            if found is None or int(found[1]) != self.offset:
                response.close()
                raise RegistryError(f"{what}: the registry sends another part than the one it was asked for")
            start = int(found[1])
            total = self.size if found[3] == "*" else int(found[3])
        else:
            length = response.headers.get("Content-Length", "")
            total = int(length[:19]) if length.isascii() and length.isdecimal() else self.size
        if total != self.size:
            response.close()
            raise Corrupt(f"{what}: the registry has {total} bytes, it should be {self.size}")
        while start < self.offset:
            skipped = self._gather(response, min(self.offset - start, _AT_ONCE))
            if not skipped:
                raise HTTPError("it ended before the place where it broke the last time")
            start += len(skipped)

    def _finish(self) -> None:
        if self._response is not None:
            self._response.release_conn()
            self._response = None

    def _discard(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    def _verify(self) -> None:
        if self._hash is None or self._verified:
            return
        found = self._hash.hexdigest()
        if found != self.digest.partition(":")[2]:
            raise Corrupt(
                f"fetch blob {self.digest}: what came has the digest {self.digest.partition(':')[0]}:{found}"
            )
        self._verified = True

    def close(self) -> None:
        """Stop; the connection is closed unless everything was read."""
        if not self.closed:
            self._discard()
        super().close()
