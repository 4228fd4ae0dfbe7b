"""Repositories of a registry whose name, or description, has a word in it.

Two ways exist, and no registry has to offer either: `GET /v1/search` (Docker Hub's, at index.docker.io; others such as
Quay have it as well) ranks, and knows descriptions; `GET /v2/_catalog` (a Docker addition to the distribution
specification) lists all names, page by page. A registry without the first is asked for the second.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from lamina.errors import InvalidInput, NotFound, RegistryError, Unsupported
from lamina.image.documents import media
from lamina.image.reference import parse
from lamina.image.registry.client import HUB, LARGEST_ERROR, Registry
from lamina.image.registry.session import Registries, registry_name
from lamina.values import value

__all__ = ["Repository", "search"]

HUB_INDEX = "https://index.docker.io"
MOST = 100  # what /v1/search gives at once
MOST_NAMES = 100_000  # of a catalogue
_CATALOG = frozenset({"registry:catalog:*"})  # distribution, "Token Scope"
_ABSENT = frozenset({400, 401, 403, 404, 405, 406, 410, 501})  # and redirects: there is no such way to ask


@value
class Repository:
    """One that was found: `name` is what `pull` takes. What a catalogue does not know is empty, 0, False."""

    name: str
    index: str
    description: str = ""
    stars: int = 0
    official: bool = False
    automated: bool = False


def search(text: str, limit: int, registries: Registries) -> list[Repository]:
    """At most *limit* repositories for *text*, "[REGISTRY/]TERM"; the term may be empty where the names are listed.

    Raises InvalidInput, RegistryError, Unsupported (the registry can be asked in neither way).
    """
    if not 1 <= limit <= MOST:
        raise InvalidInput(f"search {text}: a limit of {limit}", remedy=f"1 to {MOST}")
    host, term = _split(text)
    registry = registries.repositories(parse(f"{host}/lamina/search"))[-1]
    found = _ranked(registry, term, limit)
    if found is None:
        found = _listed(registry, term, limit)
    return found


def _split(text: str) -> tuple[str, str]:
    """Registry and term: what is before the first slash is a registry if it looks like one, as in references."""
    first, slash, rest = text.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return registry_name(first), rest.strip()
    return HUB, text.strip()


def _ranked(registry: Registry, term: str, limit: int) -> list[Repository] | None:
    """By /v1/search; None where the registry has no such thing."""
    host = registry.endpoint.host
    hub = host == HUB
    if not term:
        if hub:
            raise InvalidInput(
                "search docker.io: there is no word to look for", remedy="lamina search debian"
            )
        return None
    base = HUB_INDEX if hub else registry.base()
    # "library/x" finds nothing there: the official ones are called by their last name (as docker does)
    query = urlencode({"q": term.removeprefix("library/") if hub else term, "n": limit})
    try:
        response = registry.call("GET", f"{base}/v1/search?{query}", scopes=frozenset())
    except RegistryError as error:
        if hub or error.status not in (401, 403):
            raise
        return None  # it wants a login for what it may not even have
    data = registry.read(response, registry.limits.document)
    kind = media.essence(response.headers.get("Content-Type"))
    if not hub and (response.status in _ABSENT or 300 <= response.status < 400 or kind == "text/html"):
        return None
    if response.status != 200:
        raise registry.refused(response, data[:LARGEST_ERROR], "search")
    try:
        results = json.loads(data)["results"]
        found = [_result(host, one) for one in results if isinstance(one, dict)]
    except (ValueError, KeyError, TypeError, RecursionError):
        if not hub:
            return None
        raise RegistryError(f"search {host}: what came is no list of results") from None
    return [one for one in found if one.name][:limit]


def _result(host: str, one: dict[str, Any]) -> Repository:
    name, stars = one.get("name"), one.get("star_count")
    name = name if isinstance(name, str) else ""
    return Repository(
        name=name if host == HUB or not name else f"{host}/{name}",
        index=host,
        description=" ".join(str(one.get("description") or "").split()),
        stars=stars if isinstance(stars, int) else 0,
        official=one.get("is_official") is True,
        automated=one.get("is_automated") is True,
    )


def _listed(registry: Registry, term: str, limit: int) -> list[Repository]:
    host = registry.endpoint.host
    found: list[Repository] = []
    for name in _catalog(registry):
        if term in name:
            found.append(Repository(f"{host}/{name}", host))
            if len(found) == limit:
                break
    return found


def _catalog(registry: Registry) -> Iterator[str]:
    host, count = registry.endpoint.host, 0
    url = f"{registry.base()}/v2/_catalog?n={MOST}"
    try:
        for page in registry.pages(url, f"search {host}", scopes=_CATALOG):
            for name in page.get("repositories") or ():
                if not isinstance(name, str) or (count := count + 1) > MOST_NAMES:
                    raise RegistryError(
                        f"search {host}: more than {MOST_NAMES} repositories, or no names at all"
                    )
                yield name
    except NotFound:
        refused = None
    except RegistryError as error:
        if error.status not in _ABSENT:
            raise
        refused = error
    else:
        return
    why = f": {refused.message.partition(': ')[2]}" if refused is not None else ""
    raise Unsupported(
        f"search {host}: it has neither a search nor a list of its repositories{why and ' for us'}{why}",
        remedy="its web page may have one; 'lamina pull NAME' fetches by name"
        + (f"; perhaps 'lamina login {host}' helps" if refused is not None else ""),
    )
