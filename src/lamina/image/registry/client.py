"""One repository of one registry, by the distribution specification: manifests, tags, whether blobs are there.

`blobs.open_blob` and `uploads.upload_blob` move blobs. Everything that a registry says is checked: a manifest's bytes
against its digest, and against the digest in the registry's own header; sizes; types. What an error says is quoted as
text, bounded, and never followed.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from typing import IO, Any
from urllib.parse import quote, urlsplit

from lamina.errors import Corrupt, LaminaError, NotFound, RegistryError
from lamina.image.documents import media
from lamina.image.documents.reading import DEFAULT_LIMITS, Limits
from lamina.image.registry.authentication import Authenticator, scope_of
from lamina.image.registry.challenge import parse_challenges
from lamina.image.registry.configuration import Endpoint
from lamina.image.registry.credentials import Login
from lamina.image.registry.transport import (
    Response,
    Transport,
    discard,
    is_loopback,
    origin,
    resolved,
    shown,
)
from lamina.store.digest import digest_of, is_digest
from lamina.values import value

__all__ = ["Fetched", "Registry"]

HUB, HUB_HOST = "docker.io", "registry-1.docker.io"
LARGEST_ERROR = 64 << 10
MOST_TAGS, MOST_PAGES = 100_000, 1000


@value
class Fetched:
    """A manifest as it came: its bytes, the type it was said to have, and its digest, which was found right."""

    data: bytes
    media_type: str
    digest: str


class Registry:
    """A repository. `actions` are what is wanted of it: "pull", or "pull", "push". May be used from several threads.

    *verify* False: neither certificates nor encryption are insisted on. So it is for this machine's registries, and for
    those that the configuration calls insecure. Raises RegistryError for a host that cannot be one.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        transport: Transport,
        login: Login | None = None,
        *,
        actions: tuple[str, ...] = ("pull",),
        verify: bool = True,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.endpoint, self.transport, self.limits = endpoint, transport, limits
        self.host = HUB_HOST if endpoint.host == HUB else endpoint.host
        if not resolved(
            "", f"https://{self.host}/"
        ):  # what Docker's grammar of names allows is not always one
            raise RegistryError(f"use registry {self.host}: that is no address", remedy="is the port right?")
        self.verify = verify and not endpoint.insecure and not is_loopback(self.host)
        self.scopes = frozenset({scope_of(endpoint.repository, *actions)})
        # that this registry is this machine's says nothing of whoever hands out its tokens
        believing = not verify or endpoint.insecure
        self.authenticator = Authenticator(endpoint.host, login, transport, verify=not believing)
        self._base: str | None = None
        self._turn = threading.Lock()

    def __repr__(self) -> str:
        return f"Registry({self.endpoint.host}/{self.endpoint.repository})"

    @property
    def name(self) -> str:
        """Registry and repository, for messages."""
        return f"{self.endpoint.host}/{self.endpoint.repository}"

    # -- requests

    def base(self) -> str:
        """The address of the registry, asked once (`GET /v2/`). Raises RegistryError."""
        with self._turn:
            if self._base is None:
                self._base = self._ping()
            return self._base

    def _ping(self) -> str:
        schemes = ("https",) if self.verify else ("https", "http")
        for scheme in schemes:
            url = f"{scheme}://{self.host}/v2/"
            last = scheme == schemes[-1]
            try:
                response = self.transport.request("GET", url, {}, verify=self.verify, retry=last)
            except RegistryError as error:
                if last or error.status:
                    raise
                continue  # whatever went wrong without an answer: perhaps it does not speak TLS
            data = self.read(response, LARGEST_ERROR)
            if response.status == 401:
                challenges = parse_challenges(response.headers.getlist("WWW-Authenticate"))
                self.authenticator.learn(challenges, frozenset(), None)
            elif response.status in (200, 404) and _is_page(response):
                raise self._no_registry(url)
            elif response.status >= 400:
                raise self.refused(response, data, "ask")
            elif response.status != 200:
                raise self._no_registry(url)
            return f"{scheme}://{self.host}"
        raise AssertionError("unreachable")

    def check_login(self) -> None:
        """Ask the registry whether it knows us. Raises RegistryError if not."""
        self.base()
        response = self.call("GET", f"{self.base()}/v2/", scopes=frozenset())
        data = self.read(response, LARGEST_ERROR)
        if response.status == 401:
            raise RegistryError(
                f"log in to {self.endpoint.host}: the registry does not take this name and password",
                status=401,
                code=_complaint(data)[0] or "UNAUTHORIZED",
                remedy="are both right? some registries want an access token in place of the password",
            )
        if response.status != 200:
            raise self.refused(response, data, "log in to")

    def address(self, path: str) -> str:
        """The address of something in the repository: `manifests/latest`, `blobs/sha256:...`."""
        return f"{self.base()}/v2/{quote(self.endpoint.repository)}/{path}"

    def call(
        self,
        method: str,
        url: str,
        headers: dict[str, str] | None = None,
        body: bytes | IO[bytes] | None = None,
        *,
        scopes: frozenset[str] | None = None,
        retry: bool = True,
    ) -> Response:
        """Send a request with what authenticates us; once more with something better where that was not enough.

        Raises RegistryError when there is no answer. The caller looks at the status, and reads or drains.
        """
        scopes = self.scopes if scopes is None else scopes
        start = body.tell() if body is not None and not isinstance(body, bytes) else 0
        for attempt in range(3):
            sent = self.authenticator.header(scopes) if self._is_ours(url) else None
            authorization = {"Authorization": sent} if sent else {}
            response = self.transport.request(
                method, url, {**(headers or {}), **authorization}, body, verify=self.verify, retry=retry
            )
            # a 401 of whom we were redirected to is not the registry's: it is told nothing
            if response.status != 401 or not self._is_ours(response.url):
                return response
            challenges = parse_challenges(response.headers.getlist("WWW-Authenticate"))
            if attempt == 2 or not challenges or not self.authenticator.learn(challenges, scopes, sent):
                return response
            discard(response)
            if body is not None and not isinstance(body, bytes):
                body.seek(start)
        raise AssertionError("unreachable")

    def _is_ours(self, url: str | None) -> bool:
        """Whether an address is the registry's own: nobody else gets, or is asked for, what authenticates us."""
        return self._base is not None and origin(urlsplit(url or "")) == origin(urlsplit(self._base))

    # -- manifests

    def head_manifest(self, version: str) -> str | None:
        """The digest that *version* (a tag or digest) has now, None if the registry does not say it so.

        Raises NotFound, RegistryError.
        """
        response = self.call(
            "HEAD", self.address(f"manifests/{version}"), {"Accept": ", ".join(media.ACCEPT)}
        )
        self.read(response, 0)
        if response.status == 404:
            raise self._no_manifest(version)
        digest = response.headers.get("Docker-Content-Digest", "")
        return digest if response.status == 200 and is_digest(digest) else None

    def get_manifest(self, version: str) -> Fetched:
        """The manifest or index that *version* (a tag or digest) means.

        Raises NotFound, RegistryError, Corrupt when the bytes are not what digest or registry say they are.
        """
        what = f"manifest of {self.name}{'@' if ':' in version else ':'}{version}"
        response = self.call("GET", self.address(f"manifests/{version}"), {"Accept": ", ".join(media.ACCEPT)})
        data = self.read(response, self.limits.document + 1)
        if response.status == 404:
            raise self._no_manifest(version)
        if response.status != 200:
            raise self.refused(response, data, "pull from")
        if len(data) > self.limits.document:
            raise RegistryError(
                f"fetch {what}: larger than the {self.limits.document} bytes that are allowed"
            )
        if _is_page(response):
            raise self._no_registry(self.address("manifests"))
        kind = media.essence(response.headers.get("Content-Type"))
        said = response.headers.get("Docker-Content-Digest", "")
        wanted = version if ":" in version else (said if is_digest(said) else "")
        digest = digest_of(data, wanted.partition(":")[0] or "sha256")
        if wanted and digest != wanted:
            who = "that was asked for" if wanted == version else "that the registry says"
            raise Corrupt(f"fetch {what}: what came has the digest {digest}, not {wanted} {who}")
        return Fetched(data, kind, digest)

    def put_manifest(self, version: str, data: bytes, media_type: str) -> str:
        """Upload a manifest or index under *version*; its digest. Raises RegistryError, Corrupt."""
        response = self.call("PUT", self.address(f"manifests/{version}"), {"Content-Type": media_type}, data)
        answer = self.read(response, LARGEST_ERROR)
        if response.status not in (200, 201, 202):
            raise self.refused(response, answer, "push to")
        digest = digest_of(data)
        said = response.headers.get("Docker-Content-Digest", "")
        if is_digest(said) and said.startswith("sha256:") and said != digest:
            raise Corrupt(f"push to {self.name}: the registry has the digest {said} for what is {digest}")
        return digest

    def tags(self) -> Iterator[str]:
        """All tags, page by page. Raises NotFound, RegistryError."""
        count = 0
        for page in self.pages(self.address("tags/list"), f"list tags of {self.name}"):
            for tag in page.get("tags") or ():
                if not isinstance(tag, str) or (count := count + 1) > MOST_TAGS:
                    raise RegistryError(f"list tags of {self.name}: more than {MOST_TAGS}, or no tags at all")
                yield tag

    def pages(self, url: str, what: str, scopes: frozenset[str] | None = None) -> Iterator[dict[str, Any]]:
        """The answers of a list that comes in pages (distribution-spec: `Link: <...>; rel="next"`), from *url* on.

        *what* begins an error. Raises NotFound, RegistryError.
        """
        for _ in range(MOST_PAGES):
            response = self.call("GET", url, scopes=scopes)
            data = self.read(response, self.limits.document)
            if response.status == 404:
                raise NotFound(f"{what}: the registry has no such repository")
            if response.status != 200:
                raise self.refused(response, data, what.rpartition(" ")[0])
            yield self._json(data)
            following = re.match(r'\s*<([^>]*)>\s*;\s*rel="?next"?', response.headers.get("Link", ""))
            if following is None:
                return
            url = resolved(url, following[1])
            if not url or not self._is_ours(url):
                raise RegistryError(f"{what}: the next page is elsewhere: {shown(url or following[1])!r}")
        raise RegistryError(f"{what}: more than {MOST_PAGES} pages")

    def has_blob(self, digest: str) -> int | None:
        """The size of a blob that is in the repository, None if it is not there. Raises RegistryError."""
        response = self.call("HEAD", self.address(f"blobs/{digest}"))
        self.read(response, 0)
        if response.status == 404:
            return None
        if response.status != 200:
            raise self.refused(response, b"", "look into")
        length = response.headers.get("Content-Length", "")
        return int(length) if length.isascii() and length.isdecimal() and len(length) < 20 else 0

    # -- answers

    def read(self, response: Response, limit: int) -> bytes:
        """The first *limit* bytes of an answer; 0 for one that has no content (to HEAD). Raises RegistryError."""
        if not limit:
            discard(
                response
            )  # it is to be read all the same: or its connection is not free for the next request
            return b""
        return self.transport.whole(response, limit, self.endpoint.host)

    def _json(self, data: bytes) -> dict[str, Any]:
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise RegistryError(f"read from {self.name}: what came is not JSON")
        return found

    def refused(self, response: Response, data: bytes, verb: str) -> LaminaError:
        """The error for an answer of the registry that is one; *verb* is what was tried ("push to")."""
        code, message = _complaint(data)
        said = f": {message or code}" if message or code else ""
        status = response.status
        what = f"{verb} {self.name}"
        if status in (401, 403):
            who = self.authenticator.login
            return RegistryError(
                f"{what}: {'access denied' if who else 'access denied, or no such repository'}{said}",
                status=status,
                code=code or "DENIED",
                remedy=f"lamina login {self.endpoint.host}" + (" as somebody who may" if who else ""),
            )
        if status == 404 and not verb.startswith("push"):
            return NotFound(f"{what}: not there{said}")
        if status in (301, 302, 303, 307, 308):
            return RegistryError(
                f"{what}: the registry sends us elsewhere, which is not followed here", status=status
            )
        return RegistryError(f"{what}: the registry answered {status}{said}", status=status, code=code)

    def _no_manifest(self, version: str) -> NotFound:
        joined = f"{self.name}{'@' if ':' in version else ':'}{version}"
        return NotFound(
            f"pull {joined}: the registry has no such image", remedy="is the name, and the tag, right?"
        )

    def _no_registry(self, url: str) -> RegistryError:
        return RegistryError(
            f"ask {url}: what answers is no registry (it sends a web page)",
            remedy="is the host right? a proxy or a login page may be in between",
        )


def _is_page(response: Response) -> bool:
    return media.essence(response.headers.get("Content-Type")) == "text/html"


def _complaint(data: bytes) -> tuple[str, str]:
    """Code and message of an error's body (distribution-spec, "Error Codes"); "" for what is not there."""
    try:
        first = json.loads(data)["errors"][0]
        code, message = first.get("code") or "", first.get("message") or ""
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return "", ""
    return (
        re.sub(r"[^A-Z_]", "", str(code).upper())[:40],
        "".join(letter if letter.isprintable() else " " for letter in str(message)[:300]).strip(),
    )
