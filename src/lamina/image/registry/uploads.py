"""Blobs into a registry: not at all if it has them, by mounting them from another repository, or by uploading.

A blob goes in one request (POST, then PUT with everything), or, with *chunk* or where that is refused as too large, in
pieces (PATCH). When the connection
breaks, the registry is asked how much it has, and gets the rest; one that does not say so gets all of it again.
(distribution-spec, "Push".)
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import IO, Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from lamina.errors import Corrupt, RegistryError
from lamina.image.registry.authentication import scope_of
from lamina.image.registry.client import LARGEST_ERROR, Registry
from lamina.image.registry.transport import RETRIED, Response, resolved, shown
from lamina.store.digest import check_digest, is_digest

__all__ = ["mount_blob", "upload_blob"]

ATTEMPTS = 5
_BEGIN_ANEW = frozenset({404, 416})  # the session is gone, or disagrees about how far it is
# bytes of a piece where somebody on the way takes no larger requests (413): then a quarter of that, and so on
_PIECE, _SMALLEST = 64 << 20, 256 << 10


def mount_blob(registry: Registry, digest: str, source: str) -> bool:
    """Let the repository have the blob that the repository *source* of the same registry has; whether it worked.

    Whatever the registry answers, an upload tells whether we may write. Raises RegistryError when it does not answer.
    """
    url = (
        registry.address("blobs/uploads/") + "?" + urlencode({"mount": check_digest(digest), "from": source})
    )
    try:
        response = registry.call("POST", url, body=b"", scopes=registry.scopes | {scope_of(source, "pull")})
        registry.read(response, LARGEST_ERROR)
        if response.status == 202:
            # a session was begun instead: it is given up, or it stays open for days
            location = _location(registry, response, url)
            registry.read(registry.call("DELETE", location), LARGEST_ERROR)
    except RegistryError as error:
        if not error.status or error.status in RETRIED:
            raise
        return False  # who hands out tokens gives none for both repositories
    return response.status == 201


def upload_blob(
    registry: Registry,
    digest: str,
    size: int,
    source: IO[bytes],
    *,
    chunk: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Upload *size* bytes of the seekable *source*. Raises RegistryError, Corrupt when they are not *digest*."""
    upload = _Upload(registry, check_digest(digest), size, source, chunk, progress)
    waited = 0.0
    for attempt in range(ATTEMPTS):
        try:
            upload.run()
            return
        except RegistryError as error:
            if error.status == 413 and upload.in_smaller_pieces() and attempt + 1 < ATTEMPTS:
                upload.begin_anew()
                continue
            lost = error.status in _BEGIN_ANEW
            final = error.status and not lost and error.status not in RETRIED and error.status < 500
            waited += error.retry_after or 0
            if final or attempt + 1 == ATTEMPTS or waited > registry.transport.patience.total:
                raise
            registry.transport.pause(attempt + 1, error.message, error.retry_after)
            if lost or not upload.ask():
                upload.begin_anew()


class _Upload:
    """One upload session, which may be taken up again where it broke."""

    def __init__(
        self,
        registry: Registry,
        digest: str,
        size: int,
        source: IO[bytes],
        chunk: int | None,
        progress: Callable[[int], object] | None,
    ) -> None:
        self.registry, self.digest, self.size, self.chunk = registry, digest, size, chunk
        self.source = _Reading(source, progress)
        self.location = ""
        self.offset = 0  # how much the registry has

    def begin_anew(self) -> None:
        """Forget the session."""
        self.location, self.offset = "", 0

    def in_smaller_pieces(self) -> bool:
        """Send less at once from now on; False where that is as little already as is sent."""
        before = self.chunk or self.size
        self.chunk = min(_PIECE, max(before // 4, _SMALLEST))
        return self.chunk < before

    def run(self) -> None:
        if not self.location:
            self._begin()
        if self.chunk is not None or self.offset:
            while self.offset < self.size:
                self._send_chunk()
        self._finish()

    def _begin(self) -> None:
        url = self.registry.address("blobs/uploads/")
        response = self.registry.call("POST", url, body=b"")
        data = self.registry.read(response, LARGEST_ERROR)
        if response.status != 202:
            raise self.registry.refused(response, data, "push to")
        self.location = _location(self.registry, response, url)
        least = response.headers.get("OCI-Chunk-Min-Length", "")
        if self.chunk is not None and least.isascii() and least.isdecimal():
            self.chunk = max(self.chunk, min(int(least[:12]), 1 << 30))

    def _send_chunk(self) -> None:
        """Send the next piece; after a broken one, all that is missing."""
        count = min(self.chunk or self.size, self.size - self.offset)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(count),
            "Content-Range": f"{self.offset}-{self.offset + count - 1}",
        }
        body = self.source.part(self.offset, count)
        response = self.registry.call("PATCH", self.location, headers, body, retry=False)
        data = self.registry.read(response, LARGEST_ERROR)
        if response.status not in (202, 204):
            raise self.registry.refused(response, data, "push to")
        self.location = _location(self.registry, response, self.location)
        received = _received(response)
        if count == 1 and received == 0:
            received = 1  # see there
        if received is not None and not self.offset < received <= self.offset + count:
            raise RegistryError(
                f"push to {self.registry.name}: the registry says it has {received} bytes of blob {self.digest}, after "
                f"{self.offset} and {count} more",
                status=416,
            )
        self.offset += count if received is None else received - self.offset

    def _finish(self) -> None:
        count = self.size - self.offset
        parts = urlsplit(self.location)
        query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), ("digest", self.digest)])
        url = urlunsplit(parts._replace(query=query))
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(count)}
        body: Any = self.source.part(self.offset, count) if count else b""
        response = self.registry.call("PUT", url, headers, body, retry=False)
        data = self.registry.read(response, LARGEST_ERROR)
        if response.status not in (201, 204):
            raise self.registry.refused(response, data, "push to")
        said = response.headers.get("Docker-Content-Digest", "")
        if (
            is_digest(said)
            and said.partition(":")[0] == self.digest.partition(":")[0]
            and said != self.digest
        ):
            raise Corrupt(
                f"push to {self.registry.name}: the registry has the digest {said} for blob {self.digest}"
            )

    def ask(self) -> bool:
        """Ask the session how much it has; False if it does not say."""
        if not self.location:
            return False
        try:
            response = self.registry.call("GET", self.location)
            self.registry.read(response, LARGEST_ERROR)
        except RegistryError:
            return False
        received = _received(response)
        if response.status != 204 or received is None or received > self.size:
            return False
        self.location = _location(self.registry, response, self.location)
        self.offset = received
        return True


class _Reading:
    """The source, read for the body of a request, with the progress told once for each byte."""

    def __init__(self, source: IO[bytes], progress: Callable[[int], object] | None) -> None:
        self._source, self._progress = source, progress
        self._told = 0

    def part(self, offset: int, count: int) -> IO[bytes]:
        return io.BufferedReader(_Part(self, offset, count), 128 << 10)

    def read_at(self, offset: int, buffer: memoryview) -> int:
        self._source.seek(offset)
        data = self._source.read(len(buffer))
        buffer[: len(data)] = data
        end = offset + len(data)
        if end > self._told:
            if self._progress is not None:
                self._progress(end - self._told)
            self._told = end
        return len(data)


class _Part(io.RawIOBase):
    """*count* bytes from *offset* on, as a file of their own."""

    def __init__(self, source: _Reading, offset: int, count: int) -> None:
        super().__init__()
        self._source, self._offset, self._count, self._place = source, offset, count, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = {0: 0, 1: self._place, 2: self._count}[whence] + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        with memoryview(buffer).cast("B") as view:
            wanted = view[: self._count - self._place]
            count = self._source.read_at(self._offset + self._place, wanted) if len(wanted) else 0
        if not count and self._place < self._count:
            raise OSError("the blob is shorter than it should be")
        self._place += count
        return count


def _location(registry: Registry, response: Response, url: str) -> str:
    """Where the session goes on: relative to what was asked, or absolute. Raises RegistryError.

    Some registries have uploads on another host; they get no credentials (`Registry.call` sees to it).
    """
    said = response.headers.get("Location", "")
    where = resolved(url, said) if said else ""
    parts, asked = urlsplit(where), urlsplit(url)
    if not where:
        raise RegistryError(f"push to {registry.name}: the registry does not say where to upload")
    if parts.scheme == "http" and asked.scheme == "https":
        if parts.hostname != asked.hostname:
            raise RegistryError(
                f"push to {registry.name}: the registry wants the upload unencrypted, at {shown(where)!r}"
            )
        # behind a proxy that ends TLS and does not say so to the registry: common, and harmless to mend
        where = urlunsplit(parts._replace(scheme="https", netloc=asked.netloc))
    return where


def _received(response: Response) -> int | None:
    """How many bytes a session has, by its Range header; None if it does not say."""
    found = re.match(r"(?:bytes=)?0-(\d{1,19})$", response.headers.get("Range", "").strip())
    if found is None:
        return None
    # an empty session says 0-0 as well as one that has a single byte: sending that byte again is refused, and
    # begins anew, while leaving it out would be wrong
    return int(found[1]) + 1 if int(found[1]) else 0
