"""registries.conf, version 2 (containers-registries.conf(5)): mirrors, other locations, insecure and blocked ones.

    [[registry]]
    prefix = "docker.io/library"       # what it is about; the longest that fits counts; "*.example.org" fits subdomains
    location = "mirror.internal/hub"   # where that is really fetched from
    insecure = false
    blocked = false
    mirror-by-digest-only = false
      [[registry.mirror]]
      location = "10.0.0.1:5000/hub"
      insecure = true
      pull-from-mirror = "all"         # or "digest-only", "tag-only"

Left out on purpose: `unqualified-search-registries` and aliases (a name without registry is Docker Hub's, as with
docker) and `credential-helpers` (they are read from the files with credentials).
"""

from __future__ import annotations

import os
from typing import Any

from lamina.errors import InvalidInput, RegistryError
from lamina.image.reference import Reference
from lamina.image.registry.places import Places
from lamina.values import value

__all__ = ["Configuration", "Endpoint", "Mirror", "Rule", "read_configuration"]

LARGEST = 1 << 20  # bytes of a file


@value
class Endpoint:
    """Where a repository is to be found: `host` is a registry's name with its port."""

    host: str
    repository: str
    insecure: bool = False
    mirror: bool = False


@value
class Mirror:
    """A place to try before the registry itself. `pulls` is "all", "digest-only" or "tag-only"."""

    location: str
    insecure: bool = False
    pulls: str = "all"


@value
class Rule:
    """One `[[registry]]`. `origin` is the file that it stands in."""

    prefix: str
    location: str
    insecure: bool = False
    blocked: bool = False
    mirrors: tuple[Mirror, ...] = ()
    origin: str = ""

    def matches(self, name: str) -> bool:
        """Whether it is about *name*, `registry/repository` with tag or digest."""
        if self.prefix.startswith("*."):
            return name.partition("/")[0].partition(":")[0].endswith(self.prefix[1:])
        return name == self.prefix or (name.startswith(self.prefix) and name[len(self.prefix)] in "/:@")


@value
class Configuration:
    """All rules that hold."""

    rules: tuple[Rule, ...] = ()

    def rule(self, reference: Reference) -> Rule | None:
        """The rule with the longest prefix that fits, None if none does."""
        fitting = [rule for rule in self.rules if rule.matches(reference.canonical)]
        return max(fitting, key=lambda rule: len(rule.prefix), default=None)

    def endpoints(self, reference: Reference, *, mirrors: bool = True) -> tuple[Endpoint, ...]:
        """Where to look for *reference*, in this order: mirrors (for pulling), then the registry itself.

        Raises RegistryError for a blocked registry.
        """
        rule = self.rule(reference)
        if rule is None:
            return (Endpoint(reference.registry, reference.repository),)
        if rule.blocked:
            raise RegistryError(
                f"use registry {reference.registry}: blocked by {rule.origin}",
                remedy="ask who wrote that file",
            )
        wanted = {"all", "digest-only" if reference.digest else "tag-only"}
        found = [
            _endpoint(reference.name, rule.prefix, mirror.location, mirror.insecure, mirror=True)
            for mirror in rule.mirrors
            if mirrors and mirror.pulls in wanted
        ]
        return (*found, _endpoint(reference.name, rule.prefix, rule.location, rule.insecure))


def _endpoint(name: str, prefix: str, location: str, insecure: bool, mirror: bool = False) -> Endpoint:
    """*name* with its *prefix* replaced by *location*."""
    if location and not prefix.startswith("*."):
        name = location + name[len(prefix) :]
    elif location:
        name = location + "/" + name.partition("/")[2]
    host, _, repository = name.partition("/")
    if not repository:
        raise InvalidInput(f"read registries.conf: location {location!r} leaves no repository of {prefix!r}")
    return Endpoint(host, repository, insecure, mirror)


def read_configuration(places: Places) -> Configuration:
    """The configuration for these places. Raises InvalidInput for a file that cannot be understood."""
    rules: dict[str, Rule] = {}
    for path in places.registries():
        for rule in _read(path):
            rules[rule.prefix] = rule  # of a later file: it replaces the whole rule
    return Configuration(tuple(rules.values()))


def _read(path: str) -> list[Rule]:
    import tomllib

    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise InvalidInput(f"read {path}: larger than {LARGEST} bytes")
        read = tomllib.loads(data.decode())
    except OSError as error:
        raise InvalidInput(f"read {path}: {os.strerror(error.errno or 0)}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"read {path}: not TOML: {error}") from None
    if "registries" in read:
        # it may block or trust registries: ignoring it would do what somebody forbade
        raise InvalidInput(
            f"read {path}: [registries] is version 1 of the format", remedy="write [[registry]] tables"
        )
    tables = read.get("registry", [])
    if not isinstance(tables, list):
        raise InvalidInput(f"read {path}: registry is no array of tables", remedy="write [[registry]]")
    return [_rule(table, path) for table in tables]


def _rule(table: Any, path: str) -> Rule:
    prefix, location = _text(table, "prefix", path), _text(table, "location", path)
    if not (prefix or location):
        raise InvalidInput(f"read {path}: a [[registry]] with neither prefix nor location")
    digest_only = _boolean(table, "mirror-by-digest-only", path)
    mirrors = []
    for mirror in _member(table, "mirror", list, path) or []:
        pulls = _text(mirror, "pull-from-mirror", path) or "all"
        if pulls not in ("all", "digest-only", "tag-only"):
            raise InvalidInput(
                f"read {path}: pull-from-mirror is {pulls!r}, not all, digest-only or tag-only"
            )
        if digest_only:
            pulls = "digest-only"
        where = _text(mirror, "location", path)
        if not where:
            raise InvalidInput(f"read {path}: a [[registry.mirror]] without location")
        mirrors.append(Mirror(where, _boolean(mirror, "insecure", path), pulls))
    return Rule(
        prefix=prefix or location,
        location=location,
        insecure=_boolean(table, "insecure", path),
        blocked=_boolean(table, "blocked", path),
        mirrors=tuple(mirrors),
        origin=path,
    )


def _member(table: Any, name: str, kind: type, path: str) -> Any:
    if not isinstance(table, dict):
        raise InvalidInput(f"read {path}: registry is no array of tables", remedy="write [[registry]]")
    found = table.get(name)
    if found is not None and type(found) is not kind:
        raise InvalidInput(f"read {path}: {name} is {found!r}, which is no {kind.__name__}")
    return found


def _text(table: Any, name: str, path: str) -> str:
    found = _member(table, name, str, path) or ""
    if "://" in found:
        raise InvalidInput(f"read {path}: {name} is {found!r}: a host, without http:// or https://")
    return str(found).rstrip("/")


def _boolean(table: Any, name: str, path: str) -> bool:
    return bool(_member(table, name, bool, path))
