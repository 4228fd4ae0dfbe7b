"""WWW-Authenticate: what a registry wants to see (RFC 9110, "Authentication Scheme"; RFC 6750; distribution, "token").

Bearer realm="https://auth.example.org/token",service="registry.example.org",scope="repository:a/b:pull"
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lamina.values import value

__all__ = ["Challenge", "parse_challenges"]

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'[\s,]*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))')
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?=\s|,|$)(?!\s*=)")
LONGEST = 8192


@value
class Challenge:
    """One way to authenticate: the scheme in lower case, and its parameters (names in lower case)."""

    scheme: str
    parameters: tuple[tuple[str, str], ...] = ()

    def get(self, name: str) -> str:
        """A parameter, "" if it is not there."""
        return dict(self.parameters).get(name, "")


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """The challenges in these header lines, in their order. What cannot be understood is left out."""
    found = []
    for text in headers:
        text, place = text[:LONGEST], 0
        while scheme := _SCHEME.match(text, place):
            place = scheme.end()
            parameters: dict[str, str] = {}
            while not _SCHEME.match(text, place) and (one := _PARAMETER.match(text, place)):
                quoted = re.sub(r"\\(.)", r"\1", one[2]) if one[2] is not None else one[3]
                parameters.setdefault(one[1].lower(), quoted)
                place = one.end()
            found.append(Challenge(scheme[1].lower(), tuple(parameters.items())))
    return found
