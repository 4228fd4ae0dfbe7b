"""The images of a store: listed, named, removed, told of in docker's words."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lamina.engine.design import HOST
from lamina.engine.discard import remover
from lamina.engine.inspect import healthcheck, timestamp
from lamina.engine.naming import resolve
from lamina.engine.view_verbs import ViewVerbs
from lamina.errors import Conflict, Corrupt, LaminaError, NotFound
from lamina.image.reference import Reference, parse
from lamina.store import blobs, garbage, images, tags
from lamina.store.events import event, note
from lamina.store.names import some
from lamina.store.references import ContainerUses
from lamina.values import replace, value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lamina.engine.parameters import Source
    from lamina.engine.viewing import View
    from lamina.image.documents import ImageConfig
    from lamina.store.events import Event
    from lamina.store.images import ImageRecord
    from lamina.store.root import Store

# bytes of a config that a program keeps: most are a few thousand, and one of four million is thirty when it is decoded
MOST_KEPT = 64 << 10


@value
class Step:
    """One line of an image's history, the youngest first: `id` is the image's for the first, "" for others, `size` the
    bytes that its layer brought.
    """

    id: str
    created: float
    created_by: str
    size: int
    comment: str
    empty: bool


class Image(ViewVerbs):
    """An image of the store, as `Engine.image`, `Engine.images`, `Engine.load` and others give it. What is said of it
    is as it was then, `reload` looks again. An image never changes, only its names do.
    """

    def __init__(self, store: Store, record: ImageRecord, names: Iterable[tags.ImageName]) -> None:
        self._store = store
        self._set(record, names)

    def _set(self, record: ImageRecord, names: Iterable[tags.ImageName]) -> None:
        read = [(parse(name.name, default_tag=None), name) for name in names]
        digests = {
            Reference(reference.registry, reference.repository, None, digest).familiar
            for reference, name in read
            for digest in (*name.digests, *([reference.digest] if reference.digest else []))
        }
        self._record = record
        self._tags: list[str] = sorted(reference.familiar for reference, _ in read if reference.tag)
        self._digests: list[str] = sorted(digests)

    def __repr__(self) -> str:
        return f"<Image {', '.join(self._tags) or self.short_id}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Image):
            return NotImplemented
        return (self.id, self._store.path) == (other.id, other._store.path)

    def __hash__(self) -> int:
        return hash((self.id, self._store.path))

    def _view(self) -> View:
        from lamina.engine.viewing import view_image

        record = images.get(self._store, self.id)
        if record is None:
            raise images.no_such((self._tags or [self.short_id])[0])
        return view_image(self._store, record, (self._tags or [self.short_id])[0])

    # -- what it is

    @property
    def store(self) -> Store:
        """The store that it is in."""
        return self._store

    @property
    def id(self) -> str:
        """64 hexadecimal digits: those of the sha256 of its config. While its layers have no digests, which `commit`
        does not make, the config is one of this store alone; when they are made, for a push or an archive, the image
        gets another id (`reload`), and is found by this one as well.
        """
        return self._record.id

    @property
    def short_id(self) -> str:
        """The first 12 of them, as people read it."""
        return self.id[:12]

    @property
    def tags(self) -> list[str]:
        """Its names, as people write them: "debian:12"."""
        return list(self._tags)

    @property
    def digests(self) -> list[str]:
        """Its names by digest: "debian@sha256:...", of where it was pulled from or pushed to."""
        return list(self._digests)

    @property
    def labels(self) -> dict[str, str]:
        """Those of its config."""
        return dict(self._record.run.get("labels") or {})

    @property
    def created(self) -> float:
        """When it was made, seconds since 1970."""
        return self._record.created / 1e9

    @property
    def last_used(self) -> float:
        """When a container of it was last started, seconds since 1970; looked at when it is asked for."""
        return images.last_used(self._store, self.id) / 1e9

    @property
    def size(self) -> int:
        """The bytes of all its files."""
        return size_of(self._store, self._record)

    @property
    def is_pending(self) -> bool:
        """Whether layers of it have no digests yet: `save` and `push` make them."""
        return bool(self._record.pending)

    @property
    def platform(self) -> str:
        """What it is for: "linux/arm64/v8"."""
        record = self._record
        return "/".join(filter(None, (record.os, record.architecture, record.variant)))

    @property
    def is_pinned(self) -> bool:
        """Whether it is never evicted or pruned; see `Storage.pin`."""
        return self._record.pinned

    @property
    def attrs(self) -> dict[str, Any]:
        """Everything known of it, in the words of `docker image inspect`. Raises NotFound, Corrupt."""
        return inspect(self._store, self.id)

    def history(self) -> list[Step]:
        """How it came about, the youngest step first. Raises NotFound, Corrupt."""
        return history(self._store, self.id)

    def reload(self) -> None:
        """Look again, at its names above all, and at the id that it has now. Raises NotFound."""
        record = resolve(self._store, self.id)[0]
        self._set(record, _names_of(self._store, record))

    # -- what can be done with it

    def tag(self, name: str) -> None:
        """Let *name* stand for it as well. Raises NotFound, InvalidReference, Conflict."""
        tag(self._store, self.id, name)
        self.reload()

    def remove(self, *, force: bool = False, prune: bool = True) -> list[tuple[str, str]]:
        """Remove it and all its names, and (*prune*) the layers that nothing else needs; with *force* also where it has
        names in several repositories, or containers that do not run are over it.

        What was done: pairs of "Untagged" or "Deleted", and what. Raises NotFound, Conflict.
        """
        return remove(self._store, self.id, force=force, prune=prune)

    def squash(self, name: str | None = None, *, since: str | None = None) -> Image:
        """An image with the same files and config in which the layers above those of the image *since* (a name or id;
        None: all) are one; *name* stands for it. Its history keeps every step. This image stays as it is.

        Raises NotFound, Conflict where it was not made of *since*, InvalidInput where there are not two such layers,
        KernelError.
        """
        from lamina.engine.squashed_image import squash_image

        base = None if since is None else resolve(self._store, since)[0].id
        return squash_image(self._store, self.id, name, base)

    def save(self, target: Source, *, form: str = "docker-archive") -> None:
        """Write it with its names to an archive; as `Engine.save`. Raises NotFound, Corrupt, KernelError."""
        from lamina.engine.archives import save

        save(self._store, self._tags or [self.id], target, form, None)


def image(store: Store, reference: str) -> Image:
    """The image that *reference*, a name or an id, means. Raises NotFound, InvalidInput."""
    return of_record(store, resolve(store, reference)[0])


def of_record(store: Store, record: ImageRecord) -> Image:
    """The image of that record, which may be removed meanwhile, with the names that it has now."""
    return Image(store, record, _names_of(store, record))


def _names_of(store: Store, record: ImageRecord) -> list[tags.ImageName]:
    return [name for name in tags.list_names(store) if name.id == record.id]


def list_images(store: Store) -> list[Image]:
    """All images, the youngest first."""
    names: dict[str, list[tags.ImageName]] = {}
    for name in tags.list_names(store):
        names.setdefault(name.id, []).append(name)
    found = []
    for identity in images.identities(store):
        try:
            record = images.get(store, identity)
        except Corrupt:
            continue  # `system check` tells of it
        if record is not None:
            found.append(Image(store, record, names.get(identity, [])))
    return sorted(found, key=lambda one: (-one.created, one.tags, one.id))


def tag(store: Store, source: str, target: str) -> None:
    """Let the name *target* stand for the image *source*. Raises NotFound, InvalidReference."""
    reference = parse(target)
    if reference.digest is not None:
        raise Conflict(
            f"tag {target}: a digest cannot be given, it is found out",
            remedy="leave out the @ and what follows",
        )
    if target == HOST:
        raise Conflict(f"tag {target}: 'run host' is always this system", remedy="take another name")
    identity = resolve(store, source)[0].id
    tags.tag(store, reference.canonical, identity)
    note(store, event("image", "tag", f"sha256:{identity}", name=reference.familiar))


def remove(store: Store, reference: str, *, force: bool = False, prune: bool = True) -> list[tuple[str, str]]:
    """Take the name away and, with the last one, the image: what docker's `rmi` does, and in its words: pairs of
    "Untagged" or "Deleted" and what.

    With *prune* (unless somebody else collects) layers that nobody needs any more go at once. Raises NotFound; Conflict
    when a container is over it, or an id has names in several repositories, unless *force*.
    """
    record, name = resolve(store, reference)
    names = sorted(one.name for one in tags.list_names(store) if one.id == record.id)
    short = record.id[:12]
    if name is not None and len(names) > 1:
        tags.untag(store, name, record.id)
        note(store, event("image", "untag", f"sha256:{record.id}", name=parse(name).familiar))
        return [("Untagged", parse(name).familiar)]
    if name is None and not force and len({parse(one, default_tag=None).name for one in names}) > 1:
        shown = some([parse(one).familiar for one in names])
        raise Conflict(
            f"remove image {short}: it has names in several repositories ({shown})",
            remedy="name one of them, or force it",
        )
    uses = ContainerUses(store)
    running = _running(store, record.id, uses)
    if running:
        raise Conflict(
            f"remove image {short}: it is used by the running container {running}", remedy="stop it first"
        )
    gone = images.remove(store, record.id, unless_used=None if force else uses)
    note(store, *gone_events(record.id, gone))
    done = [("Untagged", parse(one).familiar) for one in sorted(gone)]
    done.append(("Deleted", f"sha256:{record.id}"))
    if prune:
        done += _deleted(collect(store))
    return done


def gone_events(identity: str, names: Iterable[str]) -> list[Event]:
    """What is to be said of an image that was removed with those full names."""
    said = [
        event("image", "untag", f"sha256:{identity}", name=parse(name).familiar) for name in sorted(names)
    ]
    return [*said, event("image", "delete", f"sha256:{identity}")]


def _running(store: Store, identity: str, uses: ContainerUses) -> str:
    from lamina.store.containers import LIVING, Home

    for use in uses.refresh().of_image(identity):
        if Home(store, use.id).state() in LIVING:
            return use.shown
    return ""


def collect(store: Store) -> garbage.Collected:
    """Remove what nobody refers to, also what belongs to subordinate ids of the user."""
    return garbage.collect(store, remove=remover(None))


def _deleted(collected: garbage.Collected) -> list[tuple[str, str]]:
    """A layer whose digest nobody needed yet has none."""
    return [("Deleted", layer if layer.startswith("x") else f"sha256:{layer}") for layer in collected.layers]


def prune(
    store: Store,
    *,
    everything: bool = False,
    until: float | None = None,
    labels: Sequence[str] = (),
    without_labels: Sequence[str] = (),
) -> tuple[list[tuple[str, str]], int]:
    """Remove images without a name, or all that no container uses; what was done, and how many bytes became free."""
    from lamina.engine.pruning import Chosen
    from lamina.store.prune import prune_images

    chosen = Chosen(until, labels, without_labels)

    def wanted(record: ImageRecord) -> bool:
        return chosen.takes(record.created / 1e9, record.run.get("labels") or {})

    done: list[tuple[str, str]] = []
    for gone in prune_images(store, everything=everything, wanted=wanted):
        note(store, *gone_events(gone.id, gone.names))
        done += [("Untagged", parse(name).familiar) for name in gone.names]
        done.append(("Deleted", f"sha256:{gone.id}"))
    collected = collect(store)
    done += _deleted(collected)
    return done, collected.freed


# -- what is known of it


def config_of(store: Store, record: ImageRecord) -> ImageConfig:
    """The config of the image. Raises NotFound, Corrupt, InvalidInput."""
    from lamina.image.documents.reading import DEFAULT_LIMITS

    data = blobs.read_blob(store, record.config, DEFAULT_LIMITS.document)
    decode = _decoded if len(data) > MOST_KEPT else _decoded_once
    return decode(data, f"config of image {record.id[:12]}", bool(record.pending))


def _decoded(data: bytes, what: str, pending: bool) -> ImageConfig:
    from lamina.image.documents.config import decode_config

    return decode_config(data, what=what, pending=pending)


# a program commits again and again what came from one image
_decoded_once = lru_cache(maxsize=16)(_decoded)


def history(store: Store, reference: str) -> list[Step]:
    """How the image came about, the youngest step first. Raises NotFound, Corrupt."""
    from lamina.image.documents.moment import nanoseconds

    record, _ = resolve(store, reference)
    config = config_of(store, record)
    sizes = iter([_size(store, layer) for layer in record.layers])
    steps = []
    for entry in config.history or ():
        size = 0 if entry.empty_layer else next(sizes, 0)
        steps.append(
            Step(
                "",
                nanoseconds(entry.created) / 1e9,
                entry.created_by or "",
                size,
                entry.comment or "",
                bool(entry.empty_layer),
            )
        )
    steps += [Step("", record.created / 1e9, "", size, "", False) for size in sizes]  # layers without a word
    steps.reverse()
    if steps:
        steps[0] = replace(steps[0], id=record.id)
    return steps


def _size(store: Store, layer: str) -> int:
    try:
        return garbage.size_of_layer(store, layer)[0]
    except LaminaError:
        return 0


def size_of(store: Store, record: ImageRecord) -> int:
    """The bytes of all files of the image; of layers that nobody counted yet they are counted now."""
    return sum(_size(store, layer) for layer in record.layers) if record.pending else record.size


def inspect(store: Store, reference: str) -> dict[str, Any]:
    """Everything known of the image, in the words of `docker image inspect`. Raises NotFound, Corrupt."""
    record, _ = resolve(store, reference)
    known = of_record(store, record)
    try:
        config = config_of(store, record)
    except NotFound:  # a store that was mended keeps the image without it
        config = None
    top = record.layers[-1] if record.layers else ""
    return {
        "Id": f"sha256:{record.id}",
        "RepoTags": known.tags,
        "RepoDigests": known.digests,
        "Parent": "",
        "Comment": (config.history[-1].comment or "") if config and config.history else "",
        "Created": timestamp(record.created),
        "Author": (config.author or "") if config else "",
        "Config": _run(record),
        "Architecture": record.architecture,
        "Variant": record.variant,
        "Os": record.os,
        "Size": size_of(store, record),
        "GraphDriver": {
            "Name": "overlay2",
            "Data": {"Layers": list(record.layers), "Top": top},
        },
        "RootFS": {"Type": "layers", "Layers": list(config.diff_ids) if config else []},
        "Metadata": {"LastTagTime": _last_tagged(store, record.id)},
        "Manifest": record.manifest or "",
        "Pending": list(record.pending),
        "Pinned": record.pinned,
        "LastUsed": timestamp(int(known.last_used * 1e9)),
    }


def _run(record: ImageRecord) -> dict[str, Any]:
    run = record.run
    found: dict[str, Any] = {
        "User": run.get("user") or "",
        "ExposedPorts": {port: {} for port in run.get("exposed_ports") or ()} or None,
        "Env": list(run.get("env") or ()),
        "Cmd": run.get("cmd") or None,
        "Volumes": {path: {} for path in run.get("volumes") or ()} or None,
        "WorkingDir": run.get("workdir") or "",
        "Entrypoint": run.get("entrypoint") or None,
        "OnBuild": run.get("onbuild") or None,
        "Labels": run.get("labels") or None,
    }
    if run.get("stop_signal"):
        found["StopSignal"] = run["stop_signal"]
    if run.get("healthcheck"):
        found["Healthcheck"] = healthcheck(run["healthcheck"])
    if run.get("shell"):
        found["Shell"] = run["shell"]
    return found


def _last_tagged(store: Store, identity: str) -> str:
    return timestamp(max((name.when for name in tags.list_names(store) if name.id == identity), default=0))
