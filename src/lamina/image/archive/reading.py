"""Which images an archive holds: docker's manifest.json, or an OCI layout's index.json; with both, the latter.

OCI image-spec, "image-layout.md"; docker's form is what `docker save` writes: a list of config, names and layers. Both
are hostile: every document is bounded, every digest compared, and names lead to members of the archive only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from lamina.errors import Corrupt, InvalidInput, InvalidReference, NotFound
from lamina.image.documents import (
    DEFAULT_LIMITS,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    decode_config,
    decode_manifest,
    read_json,
)
from lamina.image.platform import Platform, best, current
from lamina.image.reference import parse
from lamina.store.digest import algorithm_of, digest_of, hex_of
from lamina.values import value

if TYPE_CHECKING:
    from lamina.image.archive.members import Members

MOST_IMAGES = 1000
NAME, CONTAINERD_NAME = "org.opencontainers.image.ref.name", "io.containerd.image.name"


@value
class LayerSource:
    """A layer to come: its diff_id, the member that holds it, its digest there (None: only the diff_id is known)."""

    diff_id: str
    member: str
    digest: str | None


@value
class Found:
    """An image of an archive. `names` are canonical; `manifest` and `indexes` are the documents as bytes, if any."""

    names: tuple[str, ...]
    config: bytes
    parsed: ImageConfig
    layers: tuple[LayerSource, ...]
    manifest: bytes | None = None
    indexes: tuple[bytes, ...] = ()


class _Entry(msgspec.Struct, rename="pascal"):
    """One image in docker's manifest.json."""

    config: str
    repo_tags: list[str] | None = None
    layers: list[str] | None = None


def images(members: Members, platform: Platform | None = None) -> list[Found]:
    """The images of an archive, in its order; of one for several platforms that for *platform*, or this machine.

    Raises InvalidInput for what is no archive of images, NotFound for what it lacks, Corrupt.
    """
    if members.has("index.json"):
        found = _Layout(members, platform).images()
    elif members.has("manifest.json"):
        found = _docker(members)
    elif members.has("repositories"):
        raise InvalidInput(
            "read archive: the form of Docker before 1.10, without manifest.json",
            remedy="load it with an old Docker and save it again",
        )
    else:
        raise InvalidInput(
            "read archive: neither index.json nor manifest.json is in it",
            remedy="'lamina import' takes an archive of files; this one wants what 'docker save' writes",
        )
    return found


# -- docker's form


def _docker(members: Members) -> list[Found]:
    return [_docker_image(members, entry) for entry in _docker_entries(members)]


def _docker_entries(members: Members) -> list[_Entry]:
    data = members.open("manifest.json").whole(DEFAULT_LIMITS.document, "manifest.json")
    entries: list[_Entry] = read_json(data, list[_Entry], "manifest.json")
    if len(entries) > MOST_IMAGES:
        raise InvalidInput(f"read manifest.json: {len(entries)} images, at most {MOST_IMAGES} are allowed")
    return entries


def _docker_image(members: Members, entry: _Entry) -> Found:
    data = members.open(entry.config).whole(DEFAULT_LIMITS.document, entry.config)
    paths = entry.layers or []
    config = decode_config(data, len(paths), what=entry.config)
    layers = [LayerSource(diff_id, path, None) for diff_id, path in zip(config.diff_ids, paths, strict=True)]
    return Found(_tags(entry), data, config, tuple(layers))


def _tags(entry: _Entry) -> tuple[str, ...]:
    return tuple(dict.fromkeys(parse(tag).canonical for tag in entry.repo_tags or ()))


# -- an OCI layout


class _Layout:
    def __init__(self, members: Members, platform: Platform | None) -> None:
        self.members, self.platform = members, platform

    def images(self) -> list[Found]:
        data = self.members.open("index.json").whole(DEFAULT_LIMITS.document, "index.json")
        index = decode_manifest(data, what="index.json")
        if not isinstance(index, Index):
            raise InvalidInput("read index.json: it is a manifest, not an index")
        grouped: dict[Any, list[Descriptor]] = {}
        for number, entry in enumerate(index.images):
            name = self._name(entry)
            grouped.setdefault(name if name is not None else number, []).append(entry)
        found = []
        for name, entries in grouped.items():
            one = self._image(entries)
            names = (name,) if isinstance(name, str) else ()
            found.append(Found(names, *[getattr(one, field) for field in Found.__match_args__[1:]]))
        if not found:
            raise InvalidInput("read index.json: there is no image in it")
        return self._merged(found)

    @staticmethod
    def _name(entry: Descriptor) -> str | None:
        """The name in the annotations, where it is one; a tag alone names nothing."""
        notes = entry.annotations or {}
        for text in (notes.get(CONTAINERD_NAME), notes.get(NAME)):
            if text and (":" in text or "/" in text):
                try:
                    return parse(text).canonical
                except (InvalidReference, InvalidInput):
                    continue
        return None

    def _merged(self, found: list[Found]) -> list[Found]:
        """One of each config, with all its names; also those of docker's manifest.json beside it."""
        names: dict[str, list[str]] = {}
        for one in found:
            names.setdefault(digest_of(one.config), []).extend(one.names)
        if self.members.has("manifest.json"):
            for entry in _docker_entries(self.members):
                data = self.members.open(entry.config).whole(DEFAULT_LIMITS.document, entry.config)
                if (digest := digest_of(data)) in names:
                    names[digest].extend(_tags(entry))
        merged = {digest_of(one.config): one for one in reversed(found)}
        ordered = sorted(merged.values(), key=found.index)
        return [
            Found(
                tuple(dict.fromkeys(names[digest_of(one.config)])),
                *[getattr(one, f) for f in Found.__match_args__[1:]],
            )
            for one in ordered
        ]

    def _document(self, descriptor: Descriptor, what: str) -> bytes:
        data = self.members.open(_member(descriptor.digest)).whole(DEFAULT_LIMITS.document, what)
        if digest_of(data, algorithm_of(descriptor.digest)) != descriptor.digest:
            raise Corrupt(f"read archive: {what} {descriptor.digest}: its content is another")
        return data

    def _image(self, entries: list[Descriptor], depth: int = 0, indexes: tuple[bytes, ...] = ()) -> Found:
        """The image among *entries* that is for the platform and there: archives may lack the others."""
        there = [entry for entry in entries if self.members.has(_member(entry.digest))]
        if not there:
            raise NotFound(f"read archive: there is no {_member(entries[0].digest)} in it")
        chosen = best(there, self.platform or current())
        if chosen is None:
            if self.platform is not None or len(there) > 1:
                known = ", ".join(str(entry.for_platform) for entry in there)
                raise NotFound(
                    f"read archive: no image for {self.platform or current()}", remedy=f"there is: {known}"
                )
            chosen = there[0]  # for another machine, but the only one: as docker, whoever runs it is warned
        data = self._document(chosen, "manifest")
        document = decode_manifest(data, chosen.media_type, what=f"manifest {chosen.digest}")
        if isinstance(document, Index):
            if depth >= DEFAULT_LIMITS.nested:
                raise InvalidInput(
                    f"read archive: indexes in indexes, more than {DEFAULT_LIMITS.nested} deep"
                )
            if not document.images:
                raise InvalidInput(f"read manifest {chosen.digest}: there is no image in it")
            return self._image(list(document.images), depth + 1, (*indexes, data))
        return self._manifest(document, data, indexes)

    def _manifest(self, manifest: Manifest, data: bytes, indexes: tuple[bytes, ...]) -> Found:
        config_data = self._document(manifest.config, "config")
        config = decode_config(config_data, len(manifest.layers), what="config")
        if (
            self.platform is not None
            and config.platform != self.platform
            and not self.platform.runs(config.platform)
        ):
            raise NotFound(f"read archive: the image is for {config.platform}, not for {self.platform}")
        layers = [
            LayerSource(diff_id, _member(layer.digest), layer.digest)
            for diff_id, layer in zip(config.diff_ids, manifest.layers, strict=True)
        ]
        return Found((), config_data, config, tuple(layers), data, indexes)


def _member(digest: str) -> str:
    return f"blobs/{algorithm_of(digest)}/{hex_of(digest)}"
