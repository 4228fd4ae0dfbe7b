"""Names of images, read exactly as Docker reads them.

    debian                                  docker.io/library/debian:latest
    debian:12                               docker.io/library/debian:12
    someone/thing                           docker.io/someone/thing:latest
    localhost/thing                         localhost/thing:latest
    registry.example:5000/a/b:1@sha256:…    as written

The first component is a registry if it is `localhost`, contains a dot or a colon, or an upper-case letter; otherwise
the registry is `docker.io`. The grammar is that of the `reference` package of the distribution project (its `regexp.go`
and `normalize.go`), with its limits: 255 characters of repository, 128 of tag. Digests are sha256 and sha512.
"""

from __future__ import annotations

import re

from lamina.errors import InvalidInput, InvalidReference
from lamina.store.digest import check_digest
from lamina.values import replace, value

__all__ = ["DEFAULT_REGISTRY", "DEFAULT_TAG", "LONGEST_REPOSITORY", "LONGEST_TAG", "Reference", "parse"]

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
LONGEST_REPOSITORY = 255
LONGEST_TAG = 128
LONGEST = 2048  # of the whole text: nothing longer is looked at

_LEGACY_REGISTRY = "index.docker.io"
_OFFICIAL = "library/"

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_TAG = rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{LONGEST_TAG - 1}}}"
# what a digest may look like in the grammar; which algorithms there are is asked afterwards
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_WHOLE = re.compile(rf"({_HOST})/({_COMPONENT}(?:/{_COMPONENT})*)(?::({_TAG}))?(?:@({_DIGEST}))?", re.ASCII)
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")


@value
class Reference:
    """An image's name. `registry` has the port, if there is one; at least one of `tag` and `digest` is set, unless it
    was parsed with `default_tag=None`. With both, the digest says which image is meant.
    """

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @property
    def name(self) -> str:
        """Registry and repository: `docker.io/library/debian`."""
        return f"{self.registry}/{self.repository}"

    @property
    def canonical(self) -> str:
        """The full name: `docker.io/library/debian:12`."""
        return self.name + self._rest()

    @property
    def familiar(self) -> str:
        """The shortest name that is read as this one: `debian:12`.

        Docker shortens more: it also writes `docker.io/localhost/x` as `localhost/x`, which means something else.
        """
        short = self.repository
        if short.startswith(_OFFICIAL) and "/" not in short.removeprefix(_OFFICIAL):
            short = short.removeprefix(_OFFICIAL)
        short += self._rest()
        if self.registry != DEFAULT_REGISTRY or _IDENTIFIER.fullmatch(short):
            return self.canonical
        return short if _split(short) == (self.registry, self.repository + self._rest()) else self.canonical

    @property
    def version(self) -> str:
        """What a registry is asked for: the digest if there is one, else the tag."""
        return self.digest or self.tag or DEFAULT_TAG

    def with_digest(self, digest: str) -> Reference:
        """The same repository, by *digest* and without tag. Raises InvalidInput."""
        return replace(self, tag=None, digest=check_digest(digest))

    def with_tag(self, tag: str) -> Reference:
        """The same repository with another *tag*, without digest. Raises InvalidReference."""
        if not re.fullmatch(_TAG, tag, re.ASCII):
            raise InvalidReference(f"parse reference {self.name}:{tag}: invalid tag format")
        return replace(self, tag=tag, digest=None)

    def _rest(self) -> str:
        tag = "" if self.tag is None else f":{self.tag}"
        return tag if self.digest is None else f"{tag}@{self.digest}"

    def __str__(self) -> str:
        return self.canonical


def parse(text: str, default_tag: str | None = DEFAULT_TAG) -> Reference:
    """The reference that *text* means to Docker; *default_tag* is added where it has neither tag nor digest.

    Raises InvalidReference with Docker's reason.
    """
    if not text:
        raise _refused(text, "repository name must have at least one component")
    if len(text) > LONGEST:
        raise _refused(text, f"longer than {LONGEST} characters")
    if _IDENTIFIER.fullmatch(text):
        raise _refused(
            text,
            "cannot specify 64-byte hexadecimal strings",
            remedy="that is the id of an image, not a name",
        )
    registry, rest = _split(text)
    repository = rest.partition(":")[0].partition("@")[0]
    if repository.lower() != repository:
        raise _refused(text, f"invalid reference format: repository name ({repository}) must be lowercase")
    found = _WHOLE.fullmatch(f"{registry}/{rest}")
    if found is None:
        raise _refused(text, f"invalid reference format{_likely_reason(text)}")
    registry, repository, tag, digest = found.groups()
    if len(repository) > LONGEST_REPOSITORY:
        raise _refused(text, f"repository name must not be more than {LONGEST_REPOSITORY} characters")
    if digest is not None:
        try:
            check_digest(digest)
        except InvalidInput as error:
            raise _refused(text, error.message, error.remedy) from None
    elif tag is None:
        tag = default_tag
    return Reference(registry, repository, tag, digest)


def _split(text: str) -> tuple[str, str]:
    """Registry and the rest of *text*, as Docker tells them apart."""
    first, slash, rest = text.partition("/")
    if not slash:
        return DEFAULT_REGISTRY, _OFFICIAL + text
    if first == "localhost" or "." in first or ":" in first or first.lower() != first:
        registry = DEFAULT_REGISTRY if first == _LEGACY_REGISTRY else first
    else:
        registry, rest = DEFAULT_REGISTRY, text
    if registry == DEFAULT_REGISTRY and "/" not in rest:
        rest = _OFFICIAL + rest
    return registry, rest


def _refused(text: str, why: str, remedy: str = "") -> InvalidReference:
    shown = text if len(text) <= 300 else text[:300] + "..."
    return InvalidReference(f"parse reference {shown!r}: {why}", remedy=remedy)


def _likely_reason(text: str) -> str:
    """What people type most often that is none; "" where that is not it."""
    if "://" in text:
        return ": a reference has no scheme, leave out everything up to ://"
    if text != text.strip() or any(letter.isspace() for letter in text):
        return ": it contains white space"
    tag = text.rpartition("/")[2].partition("@")[0].partition(":")[2]
    if len(tag) > LONGEST_TAG:
        return f": a tag must not be more than {LONGEST_TAG} characters"
    return ""
