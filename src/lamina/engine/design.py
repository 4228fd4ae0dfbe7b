"""A container on paper: from what was asked to everything that a start is made of; nothing is changed here.

One path for all: this machine (`host`) is an image whose layers are given.
"""

from __future__ import annotations

import os

from lamina.engine.layers import ATTRIBUTES, arrange
from lamina.engine.options import BIND, OVER, TMPFS, VOLUME, is_linked
from lamina.engine.picture import picture
from lamina.engine.places import Base
from lamina.engine.translate import TTY_GROUP, Circumstances, ImageConfig, arguments, translate
from lamina.errors import InvalidInput, Unsupported
from lamina.linux.procfs import has_group, in_first_user_namespace
from lamina.runtime.bundle import Bundle
from lamina.runtime.seccomp.cache import default_filter
from lamina.runtime.users import own_file, resolve_user
from lamina.supervisor.foreground import terminal_size
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from lamina.engine.further import Further
    from lamina.engine.id_maps import IdMaps
    from lamina.engine.layers import Layers
    from lamina.engine.options import Options, Volume
    from lamina.engine.translate import Spec
    from lamina.engine.within import Maps
    from lamina.linux.fd import Fd
    from lamina.runtime.seccomp.cache import Filter
    from lamina.store.images import ImageRecord
    from lamina.store.root import Store

HOST = "host"
CGROUPFS = "cgroupfs"
CGROUP_PARENT = "lamina"


@value
class Design:
    """A container on paper: everything of it but its directory. `lamina plan` prints what follows from it. `volumes`
    are called by their names in the store, and are as they are mounted in `mounted`; for `files` see Circumstances.
    Without `profiled` the container has the seccomp profile of its specification, which may be none. `held` are
    descriptors that the specification names. `maps` are those of its user namespace, None where it has none; `reach`
    are those with which files in the store are reached that this user may not read (within.py), None for root.
    `hostname` is what it is called, also where its uts namespace is another's.
    """

    bundle: Bundle
    layers: Layers
    spec: Spec
    words: tuple[str, ...]
    maps: IdMaps | None
    warnings: tuple[str, ...]
    base: Base
    volumes: tuple[Volume, ...]
    mounted: tuple[Volume, ...]
    files: tuple[tuple[bytes, bytes], ...]
    profiled: bool = True
    held: tuple[Fd, ...] = ()
    reach: IdMaps | None = None
    hostname: str = ""

    @property
    def has_own_ids(self) -> bool:
        """Whether its ids are not the usual ones."""
        return self.bundle.mapped or self.bundle.outer is not None

    def let_go(self) -> None:
        """Close what was only for the start: a descriptor of another's namespace would keep that, and what is in it."""
        for fd in self.held:
            fd.close()

    def seccomp(self, store: Store) -> Filter | None:
        """The filter of the built-in profile, unless the specification's counts."""
        bounding = self.bounding
        return None if bounding is None else default_filter(bounding, store.cache + b"/seccomp")

    @property
    def bounding(self) -> list[str] | None:
        """The capabilities by which the built-in profile goes; None where another one is in force, or none."""
        found: list[str] = self.spec["process"]["capabilities"]["bounding"]
        return found if self.profiled else None

    def written_spec(self) -> Spec:
        """The specification with the profile that is in force, which takes long to be read."""
        from lamina.runtime.seccomp.profile import default_profile

        if self.bounding is not None:
            self.spec["linux"]["seccomp"] = default_profile(self.bounding)
        return self.spec


def design(
    store: Store,
    identity: str,
    home: bytes,
    image: ImageRecord | None,
    command: tuple[str, ...],
    options: Options,
    stdin: int | None,
    refused: Mapping[bytes, str] | None = None,
    *,
    grouped: bool = False,
    kept: Mapping[bytes, int] | None = None,
    frozen: Mapping[bytes, tuple[str, ...]] | None = None,
    ids: IdMaps | None = None,
) -> Design:
    """Draw up the container *identity* in the directory *home* over *image* (None: the host); nothing is changed.

    *stdin* is what a terminal takes its size from, *refused* are places that the kernel would not overlay. *grouped*:
    it has control groups also where nothing is limited. *kept* and *frozen*: see `arrange`. *ids* are its ids where
    they are not the usual ones (`user_namespaces.choose`). Raises Unsupported, InvalidInput, NotFound for what cannot
    be had.
    """
    usual = usual_ids()
    first = in_first_user_namespace()
    # root of another user namespace than the first is as little of a root for overlayfs as a user is
    rootless, maps = usual is not None or not first, ids or usual
    above = (frozen or {}).get(b"/", ())
    base = _host(store, rootless, refused) if image is None else _stored(store, image, rootless, usual, above)
    layers = arrange(
        base.image,
        store,
        home,
        rootless=rootless,
        volatile=options.volatile,
        read_only=options.read_only,
        kept=kept,
        frozen=frozen,
    )
    words = arguments(command, options, base.config)
    user = resolve_user(options.user or (ids and _keeper(options)) or base.config.user or None, base.read)
    volumes = _volumes(store, identity, options, base)
    _check_volumes(volumes, ids is not None, rootless)
    mounted = _drawn(store, home, volumes, rootless)
    files = _own_files(home, bool(base.id)) if base.id or is_linked(options.network) else ()
    around = Circumstances(
        identity=identity,
        cgroup=cgroup_path(identity, manager_of(options)) if grouped or _is_limited(options) else "",
        hostname=os.uname().nodename,
        maps=maps,
        size=terminal_size(stdin) if options.tty else None,
        volumes=mounted,
        files=files,
        mapped=ids is not None and not rootless,
        shared_name=_shared_name(store, options.further),
        tty_group=first or has_group(TTY_GROUP),
    )
    spec = translate(words, options, base.config, user, around)
    hostname = spec["hostname"]
    profiled, held, given = _beyond(store, spec, options, around, base)
    outer = usual.spec() if ids is not None and usual is not None else None
    bundle = _bundle(store, spec, options, around, base, layers, given, outer)
    warnings = (*base.image.warnings, *options.warnings)
    return Design(
        bundle, layers, spec, words, maps, warnings, base, volumes, mounted, files, profiled, held, usual, hostname
    )  # fmt: skip


def _is_limited(options: Options) -> bool:
    """Whether it is asked for what takes control groups, or may."""
    limits = (options.memory, options.cpu_quota, options.pids_limit, options.further)
    return any(limit is not None for limit in limits)


def _beyond(
    store: Store, spec: Spec, options: Options, around: Circumstances, base: Base
) -> tuple[bool, tuple[Fd, ...], tuple[tuple[bytes, Fd], ...]]:
    """Change *spec* into what is asked beyond the usual, and shared with others. What it gives: see `_amended`."""
    profiled = True
    held: tuple[Fd, ...] = ()
    given: tuple[tuple[bytes, Fd], ...] = ()
    further = options.further
    if further is not None:
        if options.hostname and further.uts not in ("", "private"):
            raise InvalidInput(
                f"run: --hostname and --uts {further.uts} contradict each other", remedy="leave one out"
            )
        profiled, held, given = _amended(store, around.identity, spec, further, around.maps, base)
    if ":" in options.network and not is_linked(options.network):
        from lamina.engine.sharing import join_network

        held = (*held, *join_network(store, spec, options.network, around.maps))
    return profiled, held, given


def _bundle(
    store: Store,
    spec: Spec,
    options: Options,
    around: Circumstances,
    base: Base,
    layers: Layers,
    given: tuple[tuple[bytes, Fd], ...],
    outer: Maps | None,
) -> Bundle:
    return Bundle(
        spec=spec,
        rootfs=layers.rootfs,
        merged=store.merged,
        overlays=layers.overlays,
        readonly=base.image.readonly,
        hide=base.image.hide,
        attributes=_attributes(options, spec, around.maps is not None),
        identity=around.identity.encode(),
        init=options.init,
        parts=tuple((volume.target, volume.subpath) for volume in around.volumes if volume.subpath),
        networked=is_linked(options.network),
        mapped=around.mapped,
        given=tuple((place, int(tree)) for place, tree in given),
        outer=outer,
    )


def _shared_name(store: Store, further: Further | None) -> str:
    """The name of the uts namespace that it is to share, "" where it has its own."""
    mode, _, reference = ("" if further is None else further.uts).partition(":")
    if mode == "container":
        from lamina.store.containers import find

        return str((find(store, reference).read("spec") or {}).get("hostname") or os.uname().nodename)
    return os.uname().nodename if mode == "host" else ""


def _keeper(options: Options) -> str:
    from lamina.engine.user_namespaces import keeper, parse

    return keeper(parse(options.further.userns)) if options.further is not None else ""


def _check_volumes(volumes: tuple[Volume, ...], own_ids: bool, rootless: bool) -> None:
    for volume in volumes:
        if volume.kind == OVER and own_ids:
            raise Unsupported(
                f"run: volume {os.fsdecode(volume.source)}: the option O and --userns contradict each other",
                remedy="mount it as it is, or read-only",
            )
        if "idmap" in volume.options and rootless:
            raise Unsupported(
                f"run: volume {os.fsdecode(volume.source)}: the kernel lets only root map the ids of a mount",
                remedy="U gives it to the container's user, --userns keep-id keeps it yours",
            )


def _attributes(options: Options, spec: Spec, mapped: bool) -> tuple[str, ...]:
    """Of the mounts of its files. Who may make device nodes may use them, as far as its control group allows; in a user
    namespace nobody may.
    """
    nodes = not mapped and "CAP_MKNOD" in spec["process"]["capabilities"]["bounding"]
    lifted = {
        "nosuid": options.new_privileges,
        "nodev": nodes and bool(spec["linux"]["resources"].get("devices")),
    }
    return tuple(attribute for attribute in ATTRIBUTES if not lifted[attribute])


def _amended(
    store: Store, identity: str, spec: Spec, further: Further, maps: IdMaps | None, base: Base
) -> tuple[bool, tuple[Fd, ...], tuple[tuple[bytes, Fd], ...]]:
    """Change *spec* into what is asked beyond the usual; whether the built-in seccomp profile holds, descriptors
    that *spec* names, and mounts of other containers by their places.
    """
    from lamina.engine.amend import amend, profile_of

    joined: dict[str, Fd] = {}
    mounts: tuple[tuple[bytes, Fd], ...] = ()
    if any(mode.startswith("container:") for mode in (further.pid, further.uts, further.ipc)):
        from lamina.engine.sharing import shared

        found = shared(store, further, maps)
        joined, mounts = found.namespaces, found.mounts
    paths = {kind: f"/proc/self/fd/{int(fd)}" for kind, fd in joined.items()}
    places = {os.fsdecode(place): f"/proc/self/fd/{int(tree)}" for place, tree in mounts}
    amend(spec, further, maps=maps, read=base.read, identity=identity, joined=paths, shown=places)
    profile = profile_of(further, tuple(spec["process"]["capabilities"]["bounding"]))
    if profile:
        spec["linux"]["seccomp"] = profile
    return profile is None, (*joined.values(), *(tree for _, tree in mounts)), mounts


def _host(store: Store, rootless: bool, refused: Mapping[bytes, str] | None) -> Base:
    config = ImageConfig(workdir=_working_directory())
    return Base(picture(store, rootless=rootless, refused=refused), config, own_file)


def _stored(
    store: Store, image: ImageRecord, rootless: bool, maps: IdMaps | None, above: tuple[str, ...]
) -> Base:
    from lamina.engine.base import stored

    return stored(store, image, rootless=rootless, maps=lambda: maps_record(maps), above=above)


def maps_record(maps: IdMaps | None) -> Maps | None:
    """As a container's record keeps them."""
    return None if maps is None else maps.spec()


def _volumes(store: Store, identity: str, options: Options, base: Base) -> tuple[Volume, ...]:
    if not (options.volumes or options.volumes_from or base.config.volumes):
        return ()
    from lamina.engine.mounted import named, wanted

    return named(identity, wanted(store, options, base.config.volumes))


def _drawn(store: Store, home: bytes, volumes: tuple[Volume, ...], rootless: bool) -> tuple[Volume, ...]:
    if all(volume.kind in (BIND, TMPFS) for volume in volumes):
        return volumes
    from lamina.engine.mounted import drawn

    return drawn(store, home, volumes, rootless=rootless)


def _own_files(home: bytes, over_image: bool) -> tuple[tuple[bytes, bytes], ...]:
    from lamina.engine.own_files import places, places_over_host

    return places(home) if over_image else places_over_host(home)


def usual_ids() -> IdMaps | None:
    """The ids of this user's containers where nothing is asked for; root's have no user namespace."""
    if os.geteuid() == 0:
        return None
    from lamina.engine.id_maps import id_maps

    return id_maps()


def manager_of(options: Options) -> str:
    """Who makes the control groups of a container with these *options*."""
    return (options.further.cgroup_manager if options.further is not None else "") or CGROUPFS


def cgroup_path(identity: str, manager: str = CGROUPFS) -> str:
    """Below the root of each hierarchy, or below what was delegated to this user (runtime/cgroups/delegation); with
    systemd as the *manager* a scope of its own (runtime/cgroups/systemd).
    """
    if manager != CGROUPFS:
        return f":{CGROUP_PARENT}:{identity}"
    return f"{'' if os.geteuid() else '/'}{CGROUP_PARENT}/{identity}"


def _working_directory() -> str:
    """As for any command on this machine: the caller's, unless the container cannot have it."""
    try:
        here = os.getcwd()
    except OSError:
        return "/"
    fresh = here.split("/", 2)[1] in ("proc", "sys", "dev")
    return "/" if fresh or not here.startswith("/") else here


def to_come(drawn: Design) -> dict[bytes, bool]:
    """The sources of mounts that a start makes, and whether each will be a directory: for who only draws it up."""
    found = {source: False for _, source in drawn.files}
    asked = zip(drawn.volumes, drawn.mounted, strict=True)
    found.update({mounted.source: True for volume, mounted in asked if volume.kind == VOLUME})
    found.update(
        {
            volume.source: True
            for volume in drawn.volumes
            if volume.kind == BIND and volume.create and not os.path.lexists(volume.source)
        }
    )
    return found
