"""HTTP to a registry: one connection pool, patience where it helps, redirects without handing anything on.

What is retried: 408, 429, 500, 502, 503, 504 and connections that break or time out, after a pause that doubles and
has a random part, or as long as the registry asks for (Retry-After), at most `Patience.attempts` times and
`Patience.total` seconds. What is not: a host that is unknown or refuses before it ever answered, and bad certificates.
"""

from __future__ import annotations

import email.utils
import random
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import IO, Any
from urllib.parse import SplitResult, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import (
    HTTPError,
    LocationParseError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    SSLError,
    TimeoutError,
)

from lamina.errors import RegistryError
from lamina.image.registry.tls import Tls
from lamina.image.registry.waits import Waits
from lamina.values import value

__all__ = [
    "Patience", "Response", "Transport", "discard", "host_of", "is_loopback", "read_answer", "resolved", "shown",
    "some",
]  # fmt: skip

Response = urllib3.BaseHTTPResponse
Body = bytes | IO[bytes] | None

RETRIED = frozenset({408, 429, 500, 502, 503, 504})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MOST_REDIRECTS = 5
SENSITIVE = frozenset({"authorization", "cookie", "proxy-authorization"})
_CONNECTIONS = 10  # kept open to a host
# bytes of what nobody wants, and how long is waited for them; urllib3's drain_conn() would read all, into memory
_READ_AWAY, _SECONDS_AWAY = 64 << 10, 5.0


@value
class Patience:
    """How often and how long is tried again. Seconds."""

    attempts: int = 6
    first: float = 0.5
    longest: float = 20.0
    total: float = 180.0  # of pauses, for one request
    connect: float = 20.0
    read: float = 60.0  # between two pieces of an answer
    slowest: int = 16 << 10  # bytes of a blob that come at least...
    window: float = 60.0  # ... in so many seconds of waiting; less is as good as nothing


class Transport:
    """Sends requests. May be used from several threads.

    `waits` tells of pauses. `sleep` and `chance` (0 to 1) are for tests. *insecure* hosts
    are asked for by the caller; see `Registry`.
    """

    def __init__(
        self,
        tls: Tls,
        patience: Patience | None = None,
        *,
        sleep: Callable[[float], object] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.patience = patience or Patience()
        self.waits = Waits(sleep)
        self._tls, self._chance = tls, chance
        self._managers: dict[tuple[int, str], urllib3.PoolManager] = {}
        self._reached: set[str] = set()
        self._turn = threading.Lock()

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body = None,
        *,
        verify: bool = True,
        retry: bool = True,
        fields: Mapping[str, str] | None = None,
    ) -> Response:
        """The answer, whatever its status, unless that is one to try again and patience has ended.

        Its content is not read yet: the caller reads or drains it. *body* may be a file, which is sent from where it
        stands and rewound for another attempt. Raises RegistryError.
        """
        start = body.tell() if body is not None and not isinstance(body, bytes) else 0
        waited = 0.0
        for attempt in range(self.patience.attempts):
            if attempt and body is not None and not isinstance(body, bytes):
                body.seek(start)
            pause = self._length(attempt)
            try:
                response = self._follow(method, url, dict(headers), body, verify, fields)
            except HTTPError as error:
                problem, transient = self._understood(error, method, url)
            else:
                if response.status not in RETRIED:
                    return response
                problem, transient = _busy(response, url), True
                asked = _retry_after(response)
                discard(response)
                if asked:  # "at once" is no answer to how a busy registry is to be spared
                    pause = asked * (1 + self._chance() / 10)
                    problem.retry_after = pause
                    if waited + asked > self.patience.total:
                        raise _too_long(problem, asked)
            waited += pause
            if (
                not (retry and transient)
                or attempt + 1 == self.patience.attempts
                or waited > self.patience.total
            ):
                raise problem
            self.waits.wait(pause, attempt + 2, problem.message)
        raise AssertionError("unreachable")

    def pause(self, attempt: int, reason: str, asked: float | None = None) -> None:
        """Wait before a further attempt, the *attempt*th, of what a caller tries again; as long as was *asked* for."""
        self.waits.wait(self._length(attempt - 1) if asked is None else asked, attempt + 1, reason)

    def _length(self, attempt: int) -> float:
        whole: float = min(self.patience.first * 2**attempt, self.patience.longest)
        return whole * (0.5 + self._chance() / 2)

    def _follow(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: Body,
        verify: bool,
        fields: Mapping[str, str] | None,
    ) -> Response:
        """One request with the redirects that its answer asks for."""
        for _ in range(MOST_REDIRECTS + 1):
            response = self._once(method, url, headers, body, verify, fields)
            response.url = (
                url  # urllib3 gives the path alone; who answered decides whether a challenge is believed
            )
            where = response.headers.get("Location", "")
            if response.status not in REDIRECTS or not where:
                return response
            if method not in ("GET", "HEAD"):
                return response  # the caller knows whether it can go elsewhere with what it sends
            discard(response)
            target = resolved(url, where)
            if not target:
                raise _redirected(url, where, "which is no address")
            here, there = urlsplit(url), urlsplit(target)
            if there.scheme == "http" and here.scheme == "https" and verify:
                raise _redirected(url, target, "which is not encrypted")
            if origin(here) != origin(there):
                # nobody but the registry gets what was meant for it; nor does it tell others to believe anybody
                headers = {name: text for name, text in headers.items() if name.lower() not in SENSITIVE}
                verify = verify or here.hostname != there.hostname
            url = target
        raise RegistryError(f"request {shown(url)}: more than {MOST_REDIRECTS} redirects")

    def _once(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: Body,
        verify: bool,
        fields: Mapping[str, str] | None,
    ) -> Response:
        parts = urlsplit(url)
        more: dict[str, Any] = {} if fields is None else {"fields": dict(fields), "encode_multipart": False}
        if fields is None:
            more["body"] = body
        try:
            response = self._manager(parts, verify).request(
                method,
                url,
                headers={"User-Agent": "lamina", "Accept-Encoding": "identity", **headers},
                preload_content=False,
                decode_content=False,
                redirect=False,
                retries=False,
                timeout=urllib3.Timeout(connect=self.patience.connect, read=self.patience.read),
                **more,
            )
        except ValueError as error:
            # http.client closes an answer a second time when the connection that it came by is found to be broken
            if isinstance(error, HTTPError):
                raise
            raise ProtocolError("Connection aborted.", error) from error
        self._reached.add(parts.netloc)
        return response

    def _manager(self, parts: SplitResult, verify: bool) -> urllib3.PoolManager:
        context = self._tls.context(host_of(parts), verify=verify) if parts.scheme == "https" else None
        proxy = _proxy(parts)
        with self._turn:
            found = self._managers.get((id(context), proxy))
            if found is None:
                more: dict[str, Any] = {"maxsize": _CONNECTIONS, "num_pools": 20}
                if context is not None:
                    more["ssl_context"] = context
                    more["assert_hostname"] = None if context.check_hostname else False
                found = urllib3.ProxyManager(proxy, **more) if proxy else urllib3.PoolManager(**more)
                found.pool_classes_by_scheme = {"http": urllib3.HTTPConnectionPool, "https": _Connections}
                self._managers[id(context), proxy] = found
            return found

    def _understood(self, error: HTTPError, method: str, url: str) -> tuple[RegistryError, bool]:
        """The error in our words, and whether trying again may help."""
        cause: BaseException = error
        if isinstance(error, MaxRetryError) and error.reason is not None:
            cause = error.reason
        what = f"reach registry {urlsplit(url).netloc}"
        reached = urlsplit(url).netloc in self._reached
        if isinstance(cause, SSLError):
            return _distrusted(cause, what), False
        if isinstance(cause, ProxyError):
            return RegistryError(
                f"{what}: by the proxy: {_short(cause)}", remedy="see HTTPS_PROXY and NO_PROXY"
            ), reached
        if isinstance(cause, NameResolutionError):
            return RegistryError(f"{what}: the host is not known", remedy="is the name right?"), reached
        if isinstance(cause, NewConnectionError):
            return RegistryError(
                f"{what}: {_refusal(cause)}", remedy="is the name, and the port, right? is it up?"
            ), reached
        if isinstance(cause, TimeoutError):
            return RegistryError(f"{what}: no answer in time"), True
        if isinstance(cause, ProtocolError):
            return RegistryError(f"{what}: the connection broke: {_short(cause)}"), True
        if isinstance(cause, LocationParseError):
            return RegistryError(f"{what}: {shown(url)!r} is no address"), False
        return RegistryError(f"{what}: {method}: {_short(cause)}"), False

    def whole(self, response: Response, limit: int, host: str) -> bytes:
        """The first *limit* bytes of an answer of *host*, which may take as long as all pauses together. Raises
        RegistryError.
        """
        try:
            data, all_of_it = read_answer(response, limit, self.patience.total)
        except (HTTPError, OSError) as error:
            response.close()
            raise RegistryError(f"read from {host}: the answer broke off: {_short(error)}") from None
        if all_of_it:
            response.release_conn()
            return data
        response.close()  # there may be more, without end
        if len(data) < limit:
            raise RegistryError(
                f"read from {host}: the answer does not come to its end: {len(data)} bytes in "
                f"{self.patience.total:.0f} seconds"
            )
        return data

    def close(self) -> None:
        """Close all connections."""
        with self._turn:
            managers, self._managers = list(self._managers.values()), {}
        for manager in managers:
            manager.clear()


class _Connections(urllib3.HTTPSConnectionPool):
    """Without urllib3's warning about what is not verified: whoever asked for that knows."""

    def _validate_conn(self, conn: Any) -> None:
        if conn.is_closed:
            conn.connect()


def discard(response: Response) -> None:
    """Let go of an answer whose content is not wanted: its connection serves again if there is little of that."""
    try:
        whole = read_answer(response, _READ_AWAY, _SECONDS_AWAY)[1]
    except (HTTPError, OSError):
        whole = False
    if whole:
        response.release_conn()
    else:
        response.close()


def some(response: Response, count: int) -> bytes:
    """At most *count* bytes of an answer, as soon as there are any; b"" at its end. Raises HTTPError, OSError."""
    # read1() of http.client left the connection taken at the end of an answer, before Python 3.11.8 and 3.12.2
    return response.read1(count, decode_content=False) or response.read(1, decode_content=False)


def read_answer(response: Response, limit: int, seconds: float) -> tuple[bytes, bool]:
    """The first *limit* bytes of an answer, or what came of them in so many seconds; and whether that is all of it.

    Raises HTTPError, OSError.
    """
    pieces: list[bytes] = []
    left, end = limit, time.monotonic() + seconds
    while left and (piece := some(response, left)):
        pieces.append(piece)
        left -= len(piece)
        if time.monotonic() > end:
            return b"".join(pieces), False
    return b"".join(pieces), left > 0


def resolved(url: str, where: str) -> str:
    """The address that *where*, which came in an answer of *url*, means; "" if it is none that can be asked."""
    try:
        target = urljoin(url, where)
        parts = urlsplit(target)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets without end, ports that are no numbers, names that are no names
        return ""
    return target if good else ""


def shown(url: str) -> str:
    """An address for messages, without what may be a secret in it: a user, and the query, which signs it."""
    plain = url.partition("?")[0].partition("#")[0]
    scheme, slashes, rest = plain.partition("//")
    host, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"[:200]


def origin(parts: SplitResult) -> tuple[str, str, int | None]:
    """What makes two addresses the same host's: scheme, name, port (RFC 6454)."""
    usual = {"http": 80, "https": 443}
    return parts.scheme, parts.hostname or "", parts.port or usual.get(parts.scheme)


def host_of(parts: SplitResult) -> str:
    """Host and port as people write them: without the port if it is the usual one."""
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return host if parts.port in (None, usual) else f"{host}:{parts.port}"


def is_loopback(host: str) -> bool:
    """Whether *host*, with or without port, is this machine: such registries may do without TLS, as with docker."""
    name = urlsplit(f"//{host}").hostname or ""
    return (
        name == "localhost" or name == "::1" or (name.startswith("127.") and name.replace(".", "").isdigit())
    )


def _proxy(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if is_loopback(parts.netloc) or proxy_bypass(host):
        return ""
    return getproxies().get(parts.scheme, "")


def _busy(response: Response, url: str) -> RegistryError:
    host = urlsplit(url).netloc
    if response.status == 429:
        return RegistryError(f"request {host}: too many requests (429)", status=429, code="TOOMANYREQUESTS")
    return RegistryError(
        f"request {host}: the registry fails with status {response.status}", status=response.status
    )


def _too_long(problem: RegistryError, asked: float) -> RegistryError:
    """For a registry that wants to be left alone for longer than anybody waits."""
    error = RegistryError(
        f"{problem.message}, and asks to come back in {asked:.0f} seconds",
        status=problem.status,
        remedy="try again then; a login raises the limits of some registries",
    )
    error.retry_after = asked
    return error


def _retry_after(response: Response) -> float | None:
    """What Retry-After asks for in seconds (RFC 9110: seconds, or a date), None if it asks for nothing."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return float(min(int(text[:9]), 10**9))
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _redirected(url: str, target: str, why: str) -> RegistryError:
    return RegistryError(f"request {urlsplit(url).netloc}: redirected to {shown(target)!r}, {why}")


def _distrusted(error: BaseException, what: str) -> RegistryError:
    text = _short(error)
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text.lower():
        return RegistryError(
            f"{what}: it does not speak TLS",
            remedy="--tls-verify=false, or insecure = true in registries.conf",
        )
    inner = getattr(error, "args", (error,))[0]
    if isinstance(inner, ssl.SSLCertVerificationError):
        text = inner.verify_message or text
    return RegistryError(
        f"{what}: its certificate is not trusted: {text}",
        remedy="put its root into /etc/containers/certs.d/<host:port>/ca.crt, or give --tls-verify=false",
    )


def _refusal(error: BaseException) -> str:
    """ "Connection refused" of "Failed to establish a new connection: [Errno 111] Connection refused"."""
    cause = error.__cause__
    return (cause.strerror if isinstance(cause, OSError) else None) or _short(error)


def _short(error: BaseException) -> str:
    text = str(error)
    # urllib3 names its own object first: "HTTPConnection(host='x', port=1): Failed to ..."
    return (text.partition("): ")[2] or text or type(error).__name__)[:300]
