"""A container becomes an image: what it wrote, on top of the layers it was made from, and what it was asked to be.

What it wrote is packed as the layer of an image is, and unpacked into the store meanwhile, like any other that comes:
so the layer has its digest and the recipe of its archive, and every verb for images can do with it what it does with
others. The two cost a copy of the upper, in exchange for nothing that is special about a committed image
(decision 0046). What a start put there only to mount something on it is left out, as `diff` leaves it out.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import msgspec

from lamina.engine.apply.gather import without_mount_points
from lamina.engine.apply.selection import ancestors
from lamina.engine.archives import Reading, Writing, packed, tag_of
from lamina.engine.health.checks import TIMES
from lamina.engine.holding import Held
from lamina.engine.images import config_of, of_record
from lamina.engine.keeping import said_of
from lamina.engine.pausing import Meanwhile
from lamina.engine.storage import within_limit
from lamina.engine.unpacking import unpacking
from lamina.errors import Conflict, Corrupt, KernelError, LaminaError, NotFound, Unsupported
from lamina.image.archive.instructions import changed
from lamina.image.archive.load import record_of, unpack
from lamina.image.documents import History, RootFS, encode_config, run_config
from lamina.image.pack import pack_layer
from lamina.image.reference import parse
from lamina.image.tar.limits import given
from lamina.linux.fd import Fd
from lamina.linux.mountinfo import read_mountinfo
from lamina.linux.signals import signal_name
from lamina.store import images, layers
from lamina.store.blobs import write_blob
from lamina.store.claims import claim
from lamina.store.containers import LIVING, RUNNING
from lamina.store.events import about, event, note
from lamina.store.leases import lease

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from lamina.engine.container import Container
    from lamina.engine.image_verbs import LayerLimits
    from lamina.engine.images import Image
    from lamina.image.apply import IdMap
    from lamina.image.documents import ImageConfig
    from lamina.image.tar.limits import Limits
    from lamina.store.containers import Home
    from lamina.store.images import ImageRecord
    from lamina.store.layers import Layer
    from lamina.store.leases import Lease
    from lamina.store.root import Store

    Run = dict[str, Any]


def commit(
    container: Container,
    home: Home,
    name: str | None = None,
    *,
    author: str = "",
    changes: Sequence[str] = (),
    message: str = "",
    pause: bool = True,
    limits: LayerLimits | None = None,
) -> Image:
    """See `Container.commit`; *home* is the container's."""
    store, asked = container.store, home.asked()
    said = f"commit container {container.name}"
    if not container.image_id:
        raise Unsupported(
            f"{said}: it is over this machine, which is no image",
            remedy="'lamina diff' shows what it did, 'lamina apply' does it",
        )
    canonical = None if name is None else tag_of(name)
    with _parent(container, said) as parent, lease(store) as held, claim(store, home.id):
        config = config_of(store, parent)
        words, run = run_of(asked, parent.run)
        run = changed(run, changes)  # first: nothing is paused for a slip of the pen
        found = _layers(store, parent, config)
        with _still(container, home, said, pause=pause):
            layer = _layer(container, home, held, said, given(wanted=limits))
        if layer is not None:  # a step that changed no file has none, as docker has it
            found.append(layer)
        step = History(
            created=datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            created_by=" ".join(words) or None,
            author=author or None,
            comment=message or None,
            empty_layer=True if layer is None else None,
        )
        made = _config(config, found, run, step)
        data = encode_config(made)
        record = record_of(data, made, found, blobs=(write_blob(store, data, held),))
        record = images.put(store, record, names=() if canonical is None else (canonical,), lease=held)
    known = None if canonical is None else parse(canonical).familiar
    note(
        store,
        about(asked, "commit", comment=message, imageID=f"sha256:{record.id}", imageRef=known),
        *([] if known is None else [event("image", "tag", f"sha256:{record.id}", name=known)]),
    )
    within_limit(store, [record.id])
    return of_record(store, record)


@contextmanager
def _parent(container: Container, said: str) -> Iterator[ImageRecord]:
    """The image that it was made from, held. Raises NotFound."""
    try:
        held = images.hold(container.store, container.image_id)
    except NotFound:
        raise NotFound(
            f"{said}: its image {container.image_id[:12]} was removed, and with it what it says of itself",
            remedy="'lamina export' writes its files, of which 'lamina import' makes an image",
        ) from None
    with held:
        yield held.record


@contextmanager
def _still(container: Container, home: Home, said: str, *, pause: bool) -> Iterator[None]:
    """Nothing of it runs meanwhile, unless that is what was asked for. Raises Conflict, Unsupported."""
    with ExitStack() as held:
        if container.state not in LIVING:
            try:
                held.enter_context(Held(home, "commit"))
            except Conflict:
                if container.state not in LIVING:  # else it was just being started
                    raise
            else:
                yield
                return
        if container.state == RUNNING and pause:
            try:
                held.enter_context(Meanwhile(home))
            except Unsupported as error:
                why, remedy = error.message.partition(": ")[2], f"--pause=false, or {error.remedy}"
                raise Unsupported(f"{said}: {why}", remedy=remedy) from error
        yield


# -- its files


def _layer(container: Container, home: Home, held: Lease, said: str, limits: Limits) -> Layer | None:
    """What it wrote as a layer of the store, kept by *held*; None where it wrote nothing."""
    from lamina.engine.within import FIRST_FILE, inside, maps_of, owners_of

    asked = home.asked()
    try:
        upper, userxattr = _upper(container)
        found = without_mount_points(container.changes(), made := _mount_points(container, asked))
        if not found:
            return None
        without = left_out(made, {change.path for change in found})
        ids = _shown(owners_of(asked))
        work = partial(pack_upper, upper=upper, userxattr=userxattr, without=without, ids=ids)
        maps = maps_of(asked)

        def pack(out: Fd) -> None:
            if maps is None:
                work(out)
            else:
                inside(maps, work, FIRST_FILE, files=(out,))

        with packed(pack, f"container {container.name}") as packer:
            return unpack(container.store, _Checked(packer), None, held, unpacking(limits))
    except OSError as error:
        if not home.exists():
            raise Conflict(f"{said}: it was removed meanwhile") from error
        if isinstance(error, LaminaError):
            raise
        raise KernelError("commit", error.errno or 0, f"container {container.name}") from error


class _Checked(Reading):
    """What comes out of the pipe: its end is the archive's only if nothing went wrong with the packing."""

    def __init__(self, packer: Any) -> None:
        super().__init__(packer.reading)
        self._packer = packer

    def read(self, size: int, /) -> bytes:
        """As `Reading.read`. Raises what the packing raised."""
        data = super().read(size)
        if not data:
            self._packer.join()
            self._packer.check()
        return data


def pack_upper(
    out: int, *, upper: bytes, userxattr: bool, without: Collection[bytes], ids: IdMap | None
) -> None:
    """Write the directory *upper* as a layer to the descriptor *out*: where its files can be read."""
    with Fd(os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)) as directory:
        pack_layer(directory, Writing(out), userxattr=userxattr, ids=ids, without=without)


def _upper(container: Container) -> tuple[bytes, bool]:
    spec = container.overlays()[0][1]
    assert spec.upperdir is not None  # only that of the host's further file systems can be without
    return spec.upperdir, spec.userxattr


def _shown(maps: dict[str, Any] | None) -> IdMap | None:
    """What the ids of its files are inside, None where they are the same."""
    from lamina.image.apply import IdMap

    if not maps:
        return None
    uids, gids = (
        tuple((line["hostID"], line["containerID"], line["size"]) for line in maps[key])
        for key in ("uidMappings", "gidMappings")
    )
    return IdMap(uids, gids)


def _mount_points(container: Container, asked: dict[str, Any]) -> list[bytes]:
    """Where something is mounted in it: as its record has it, or, of one that `run --rm` stays with, the kernel."""
    if asked.get("made") is not None:
        return [os.fsencode(place) for place in asked["made"]]
    pid = (container.first_process or {}).get("pid")
    try:
        return [mount.mount_point for mount in read_mountinfo(pid)] if pid else []
    except KernelError:
        return []


def left_out(made: Collection[bytes], changed: Collection[bytes]) -> frozenset[bytes]:
    """Of the mount points *made*, and of the directories above them, those at and below which nothing *changed*; as
    paths from the root on. What a start had to make in the upper is among them.
    """
    busy = {*changed, *(above for path in changed for above in ancestors(path))}
    places = {*made, *(above for path in made for above in ancestors(path))} - {b"/"}
    return frozenset(path.lstrip(b"/") for path in places if path not in busy)


# -- what it is


def run_of(asked: dict[str, Any], parent: Run) -> tuple[list[str], Run]:
    """The command of the container whose record is *asked*, without its entrypoint, and what an image of it says: what
    its own image, *parent*, says, under what was asked. Triggers for builds (ONBUILD) are for the next image alone.
    """
    options = said_of(asked)
    own = options.get("entrypoint")
    entrypoint = list(parent.get("entrypoint") or ()) if own is None else list(own)
    words = [str(word) for word in asked["command"]][len(entrypoint) :]
    variables = {entry.partition("=")[0]: entry for entry in parent.get("env") or ()}
    variables.update({name: f"{name}={text}" for name, text in options.get("env") or ()})
    volumes = {*(parent.get("volumes") or ()), *_without_a_name(asked)}
    run = {
        **parent,
        "env": list(variables.values()),
        "entrypoint": entrypoint or None,
        "cmd": words or None,
        "labels": dict(asked.get("labels") or {}),
        "volumes": sorted(volumes),
        "exposed_ports": sorted({*(parent.get("exposed_ports") or ()), *_published(options)}),
        "workdir": options.get("workdir") or parent.get("workdir") or "",
        "user": options.get("user") or parent.get("user") or "",
        "onbuild": [],
    }
    if isinstance(asked.get("stop_signal"), int):
        run["stop_signal"] = signal_name(asked["stop_signal"])
    if check := asked.get("health"):
        run["healthcheck"] = {name: check[name] for name in ("test", *TIMES, "retries")}
    return words, run


def _published(options: dict[str, Any]) -> list[str]:
    """The ports inside of `-p`: they are the image's to be exposed, as in docker."""
    return [
        f"{port}/{protocol}"
        for protocol, _, _, port in (options.get("networking") or {}).get("published", ())
    ]


def _without_a_name(asked: dict[str, Any]) -> list[str]:
    """The places of the volumes that are the container's own, as `-v /data` makes them."""
    return [
        volume["target"]
        for volume in asked.get("volumes") or ()
        if volume["kind"] == "volume" and str(volume.get("name", "")).startswith(asked["id"])
    ]


def _config(config: ImageConfig, found: list[Layer], run: Run, step: History) -> ImageConfig:
    """*config*, of the image it was made from, for one of the layers *found*, that says *run* and came about by *step*
    at last.
    """
    return msgspec.structs.replace(
        config,
        rootfs=RootFS(type="layers", diff_ids=[str(layer.diff_id) for layer in found]),
        created=step.created,
        author=step.author,
        config=run_config(run),
        history=[*(config.history or ()), step],
    )


def _layers(store: Store, parent: ImageRecord, config: ImageConfig) -> list[Layer]:
    """The layers of *parent*, with the digests that its config promises."""
    found = []
    for identity, diff_id in zip_longest(parent.layers, config.diff_ids):
        layer = layers.find(store, identity) if identity else None
        if layer is None or layer.diff_id != diff_id:
            raise Corrupt(
                f"commit: the image {parent.id[:12]} has not the layers that its config promises",
                remedy="remove it and pull it again",
            )
        found.append(layer)
    return found
