"""Which machine an image is for, and which of an index's images is for this one.

A platform is written `os/architecture[/variant]` (image-spec, "image-index.md"), with Go's names: `linux/amd64`,
`linux/arm64`, `linux/arm/v7`. What people write otherwise (`x86_64`, `aarch64`, `armhf`) is normalised, and the choice
is made, as containerd's `platforms` package does it: an architecture also runs what its older variants run, best
first (`arm64`: `arm/v8`, `arm/v7`, ...; `amd64/v3`: `v2`, `v1`; `amd64`: `386`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Protocol, TypeVar

from lamina.errors import InvalidInput
from lamina.values import replace, value

__all__ = ["Platform", "best", "current", "normalise", "parse"]

SYSTEMS = frozenset({
    "aix", "android", "darwin", "dragonfly", "freebsd", "hurd", "illumos", "ios", "js", "linux", "nacl", "netbsd",
    "openbsd", "plan9", "solaris", "windows", "zos",
})  # fmt: skip
ARCHITECTURES = frozenset({
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64",
    "s390x", "sparc64", "wasm",
})  # fmt: skip
# uname(2)'s names, and other spellings: (architecture, variant)
SPELLINGS = {
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv5tel": ("arm", "v5"),
    "armv5tejl": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v8"),
    "loongarch64": ("loong64", ""),
}
_PART = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_VERSION = re.compile(r"v([0-9])(?:\.([0-9]))?")


@value
class Platform:
    """What an image is made for, normalised. `variant` is "" for the usual one (amd64/v1, arm64/v8)."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    def runs(self, image: Platform) -> bool:
        """Whether a machine of this platform can execute what *image* was made for."""
        return image in _vector(self)


class HasPlatform(Protocol):
    """An entry of an index: its platform may be unsaid."""

    @property
    def for_platform(self) -> Platform | None: ...


Entry = TypeVar("Entry", bound=HasPlatform)


def parse(text: str) -> Platform:
    """The platform that *text* means: `linux/arm/v7`, `linux/x86_64`, `arm64` (of this system), `linux` (on this
    machine). Raises InvalidInput.
    """
    parts = text.split("/")
    if len(parts) > 3 or not all(_PART.fullmatch(part) for part in parts):
        raise InvalidInput(
            f"parse platform {text!r}: not os/architecture[/variant]",
            remedy="for example linux/arm64 or linux/arm/v7",
        )
    if len(parts) > 1:
        return normalise(*parts)
    here = current()
    if parts[0].lower() in SYSTEMS or parts[0].lower() == "macos":
        return normalise(parts[0], here.architecture, here.variant)
    found = normalise(here.os, parts[0])
    if found.architecture not in ARCHITECTURES:
        raise InvalidInput(
            f"parse platform {text!r}: unknown operating system or architecture",
            remedy="for example linux/arm64 or linux/arm/v7",
        )
    return found


def normalise(system: str, architecture: str, variant: str = "") -> Platform:
    """The platform under its usual names."""
    system, architecture, variant = system.lower(), architecture.lower(), variant.lower()
    if system == "macos":
        system = "darwin"
    architecture, implied = SPELLINGS.get(architecture, (architecture, ""))
    variant = implied or variant
    if variant.isdecimal() and architecture in ("arm", "arm64", "amd64"):
        variant = f"v{variant}"
    if architecture == "arm" and not variant:
        variant = "v7"
    if architecture == "arm64":
        variant = variant.removesuffix(".0")
    if (architecture, variant) in (("arm64", "v8"), ("amd64", "v1")) or architecture == "386":
        variant = ""
    return Platform(system, architecture, variant)


def current() -> Platform:
    """The platform of this machine, by uname(2)."""
    return normalise("linux", os.uname().machine)


def best(entries: Iterable[Entry], wanted: Platform) -> Entry | None:
    """The first entry of the best platform that a machine like *wanted* runs, None if there is none.

    An entry that does not say its platform is taken if no other fits (its config will tell).
    """
    ranks = {platform: rank for rank, platform in enumerate(_vector(wanted))}
    found: tuple[int, Entry] | None = None
    for entry in entries:
        platform = entry.for_platform
        rank = len(ranks) if platform is None else ranks.get(platform)
        if rank is not None and (found is None or rank < found[0]):
            found = rank, entry
    return None if found is None else found[1]


def _vector(wanted: Platform) -> list[Platform]:
    """What a machine like *wanted* runs, best first (containerd, platforms/compare.go)."""
    architecture, variant = wanted.architecture, wanted.variant
    if architecture == "arm64":
        return [replace(wanted, variant=v) for v in _arm64(variant)] + _vector(
            normalise(wanted.os, "arm", "v8" if variant == "" or _VERSION.fullmatch(variant) else variant)
        )
    vector = [wanted]
    oldest = {"amd64": 1, "arm": 5}.get(architecture)
    found = _VERSION.fullmatch(variant)
    if oldest is not None and found and not found[2]:
        vector += [
            normalise(wanted.os, architecture, f"v{n}") for n in range(int(found[1]) - 1, oldest - 1, -1)
        ]
    if architecture == "amd64":
        vector.append(Platform(wanted.os, "386"))
    return vector


def _arm64(variant: str) -> list[str]:
    """The variants of arm64 that one of them runs. v9.0 is v8.5 and more, so v9.x runs v8.(x+5)."""
    found = _VERSION.fullmatch(variant or "v8")
    if not found or int(found[1]) not in (8, 9):
        return [variant]
    major, minor = int(found[1]), int(found[2] or 0)
    versions = []
    if major == 9:
        versions += [(9, n) for n in range(minor, -1, -1)]
        minor += 5
    versions += [(8, n) for n in range(minor, -1, -1)]
    return ["" if v == (8, 0) else f"v{v[0]}" if v[1] == 0 else f"v{v[0]}.{v[1]}" for v in versions]
