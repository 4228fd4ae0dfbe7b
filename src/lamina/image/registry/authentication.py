"""Tokens: what a registry hands out for what we may do (distribution, "Token Authentication", "OAuth2").

A registry answers 401 with a challenge; we ask the realm that it names for a token with a scope
(`repository:NAME:pull,push`), as whoever we are or as nobody, and send that. Tokens are kept until shortly before they
expire, and one request at a time fetches them, however many threads want the same.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from typing import Any
from urllib.parse import urlencode, urlsplit

from lamina.errors import RegistryError
from lamina.image.registry.challenge import Challenge
from lamina.image.registry.credentials import Login
from lamina.image.registry.transport import Response, Transport, is_loopback, resolved

__all__ = ["Authenticator", "scope_of"]

LARGEST_ANSWER = 1 << 20
SHORTEST_LIFE = 60  # seconds, what a token lives that does not say (and at least)
_MARGIN = 10
_CLIENT = "lamina"


def scope_of(repository: str, *actions: str) -> str:
    """The scope for *actions* (`pull`, `push`) on a repository."""
    return f"repository:{repository}:{','.join(actions)}"


class Authenticator:
    """Answers one registry's challenges. `login` None: as nobody. *verify* False: any realm gets what it asks for,
    unencrypted as well; else only this machine's do.
    """

    def __init__(self, host: str, login: Login | None, transport: Transport, *, verify: bool = True) -> None:
        self.host, self.login = host, login
        self._transport, self._verify = transport, verify
        self._challenge: Challenge | None = None
        self._tokens: dict[frozenset[str], tuple[str, float]] = {}
        self._turn = threading.Lock()

    def header(self, scopes: frozenset[str]) -> str | None:
        """What to send as Authorization, as far as is known what is wanted. Raises RegistryError."""
        with self._turn:
            if self._challenge is None:
                return None
            if self._challenge.scheme == "basic":
                return self._basic()
            kept = self._tokens.get(scopes)
            if kept is None or kept[1] <= time.monotonic():
                kept = self._tokens[scopes] = self._fetch(scopes, self._challenge)
            return f"Bearer {kept[0]}"

    def learn(self, challenges: list[Challenge], scopes: frozenset[str], sent: str | None) -> bool:
        """Understand the challenges of a 401; whether there is something else to send than what was *sent*.

        Raises RegistryError if none of them can be answered.
        """
        known = {challenge.scheme: challenge for challenge in reversed(challenges)}
        with self._turn:
            if "bearer" in known:
                self._challenge = known["bearer"]
            elif "basic" in known:
                self._challenge = known["basic"]
                return self.login is not None and sent != self._basic()
            else:
                raise RegistryError(
                    f"log in to {self.host}: it wants {', '.join(known) or 'something'}, which is not supported",
                    status=401,
                )
            if sent is None:
                return True
            # expired before its time, or not enough: one more, if it is not that which was just fetched
            kept = self._tokens.get(scopes)
            if kept is not None and sent == f"Bearer {kept[0]}":
                del self._tokens[scopes]
            return True

    def _basic(self) -> str | None:
        if self.login is None or self.login.token:
            return None
        pair = f"{self.login.username}:{self.login.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()

    def _fetch(self, scopes: frozenset[str], challenge: Challenge) -> tuple[str, float]:
        """A token for *scopes*, and until when it is good."""
        realm = challenge.get("realm")
        if not resolved("", realm):
            raise RegistryError(f"log in to {self.host}: its realm {realm[:200]!r} is no address", status=401)
        parts = urlsplit(realm)
        verify = self._verify and not is_loopback(parts.netloc)
        if parts.scheme == "http" and verify:
            raise RegistryError(
                f"log in to {self.host}: its realm {realm[:200]!r} is not encrypted",
                status=401,
                remedy="--tls-verify=false, if you trust everybody between",
            )
        # without a scope of ours, for a ping or a login, whatever the registry wants
        wanted = sorted(scopes) or challenge.get("scope").split()
        login = self.login
        if login is not None and login.token:
            return self._post(realm, challenge, wanted, login, verify)
        query = [("service", challenge.get("service"))] if challenge.get("service") else []
        query += [("scope", scope) for scope in wanted]
        headers = {}
        if login is not None:
            query.append(("account", login.username))
            headers["Authorization"] = self._basic() or ""
        url = realm + ("&" if parts.query else "?") + urlencode(query)
        return self._token(self._transport.request("GET", url, headers, verify=verify), realm)

    def _post(
        self, realm: str, challenge: Challenge, scopes: list[str], login: Login, verify: bool
    ) -> tuple[str, float]:
        """By OAuth 2: the identity token is a refresh token."""
        form = {
            "grant_type": "refresh_token",
            "service": challenge.get("service"),
            "client_id": _CLIENT,
            "scope": " ".join(scopes),
            "refresh_token": login.token,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        body = urlencode(form).encode()
        return self._token(self._transport.request("POST", realm, headers, body, verify=verify), realm)

    def _token(self, response: Response, realm: str) -> tuple[str, float]:
        where = urlsplit(realm).netloc
        data = self._transport.whole(response, LARGEST_ANSWER, where)
        if response.status in (400, 401, 403):
            who = f"as {self.login.username or 'the token'}" if self.login else "as nobody"
            raise RegistryError(
                f"log in to {self.host} {who}: {where} refused (status {response.status})",
                status=response.status,
                code="UNAUTHORIZED",
                remedy=f"lamina login {self.host}",
            )
        if response.status != 200:
            raise RegistryError(
                f"log in to {self.host}: {where} answered {response.status}", status=response.status
            )
        try:
            found: Any = json.loads(data)
            token = found.get("token") or found.get("access_token")
            life = found.get("expires_in") or SHORTEST_LIFE
            if not isinstance(token, str) or isinstance(life, bool) or not isinstance(life, int | float):
                raise ValueError("no token")
            seconds = max(float(life), SHORTEST_LIFE)
        except (ValueError, AttributeError, RecursionError, OverflowError):
            raise RegistryError(f"log in to {self.host}: what {where} answered is no token") from None
        if not token.isascii() or not token.isprintable():
            raise RegistryError(f"log in to {self.host}: what {where} answered is no token")
        return token, time.monotonic() + seconds - _MARGIN
