"""Digests: `sha256:` and 64 hexadecimal digits, the name of content. The one place that checks them.

image-spec, "Descriptors: Digests": sha256 must be known, sha512 may be. A digest comes from outside (a manifest, a
command line) and becomes part of a path, so nothing that was not checked here is ever used as one (CVE-2024-3727).
"""

from __future__ import annotations

from lamina.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Hasher(Protocol):
        """A hash of hashlib's."""

        def update(self, data: bytes | bytearray | memoryview, /) -> None: ...
        def hexdigest(self) -> str: ...
        def copy(self) -> Hasher: ...


LENGTHS = {"sha256": 64, "sha512": 128}
_HEX = frozenset("0123456789abcdef")


def is_digest(text: object) -> bool:
    """Whether *text* is a digest as the specification writes it: a known algorithm, lower-case digits."""
    if not isinstance(text, str):
        return False
    algorithm, _, digits = text.partition(":")
    return len(digits) == LENGTHS.get(algorithm, -1) and _HEX.issuperset(digits)


def check_digest(text: object) -> str:
    """*text*, if it is a digest. Raises InvalidInput."""
    if isinstance(text, str) and is_digest(text):
        return text
    shown = repr(text if isinstance(text, str) else type(text).__name__)
    raise InvalidInput(
        f"digest {shown if len(shown) < 200 else shown[:200] + '...'}: not a digest",
        remedy="it is sha256: and 64 hexadecimal digits, or sha512: and 128",
    )


def hex_of(digest: str) -> str:
    """The digits of a digest. Raises InvalidInput."""
    return check_digest(digest).partition(":")[2]


def algorithm_of(digest: str) -> str:
    """`sha256` or `sha512`. Raises InvalidInput."""
    return check_digest(digest).partition(":")[0]


def hasher(digest: str = "sha256") -> Hasher:
    """A new hash of hashlib's, for the algorithm of *digest* (or the algorithm itself). Raises InvalidInput."""
    algorithm = digest if digest in LENGTHS else algorithm_of(digest)
    import hashlib

    return hashlib.new(algorithm, usedforsecurity=False)


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """The digest of *data*."""
    hashed = hasher(algorithm)
    hashed.update(data)
    return f"{algorithm}:{hashed.hexdigest()}"
