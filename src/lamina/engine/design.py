"""A container on paper: from what was asked to everything that a start is made of; nothing is changed here.

One path for all: this machine (`host`) is an image whose layers are given.
"""

from __future__ import annotations

import os

from lamina.engine.layers import ATTRIBUTES, arrange
from lamina.engine.options import BIND, TMPFS, VOLUME, is_linked
from lamina.engine.picture import picture
from lamina.engine.places import Base
from lamina.engine.translate import Circumstances, ImageConfig, arguments, translate
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
    descriptors that the specification names.
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
) -> Design:
    """Draw up the container *identity* in the directory *home* over *image* (None: the host); nothing is changed.

    *stdin* is what a terminal takes its size from, *refused* are places that the kernel would not overlay. *grouped*:
    it has control groups also where nothing is limited. *kept*: see `arrange`. Raises Unsupported, InvalidInput,
    NotFound for what cannot be had.
    """
    maps = _id_maps()
    rootless = maps is not None
    base = _host(store, rootless, refused) if image is None else _stored(store, image, maps)
    layers = arrange(
        base.image,
        store,
        home,
        rootless=rootless,
        volatile=options.volatile,
        read_only=options.read_only,
        kept=kept,
    )
    words = arguments(command, options, base.config)
    user = resolve_user(options.user or base.config.user or None, base.read)
    volumes = _volumes(store, identity, options, base)
    mounted = _drawn(store, home, volumes, rootless)
    files = _own_files(home) if base.id else ()
    further = options.further
    limited = options.memory is not None or options.cpu_quota is not None or options.pids_limit is not None
    around = Circumstances(
        identity=identity,
        cgroup=cgroup_path(identity, manager_of(options))
        if limited or grouped or further is not None
        else "",
        hostname=os.uname().nodename,
        maps=maps,
        size=terminal_size(stdin) if options.tty else None,
        volumes=mounted,
        files=files,
    )
    spec = translate(words, options, base.config, user, around)
    profiled = True
    held: tuple[Fd, ...] = ()
    if further is not None:
        profiled, held = _amended(store, identity, spec, further, maps, base)
    if ":" in options.network:
        from lamina.engine.sharing import join_network

        held = (*held, *join_network(store, spec, options.network))
    bundle = Bundle(
        spec=spec,
        rootfs=layers.rootfs,
        merged=store.merged,
        overlays=layers.overlays,
        readonly=base.image.readonly,
        hide=base.image.hide,
        attributes=_attributes(options, spec, rootless),
        identity=identity.encode(),
        init=options.init,
        parts=tuple((volume.target, volume.subpath) for volume in mounted if volume.subpath),
        networked=is_linked(options.network),
    )
    return Design(
        bundle, layers, spec, words, maps, base.image.warnings, base, volumes, mounted, files, profiled, held
    )


def _attributes(options: Options, spec: Spec, rootless: bool) -> tuple[str, ...]:
    """Of the mounts of its files. Who may make device nodes may use them, as far as its control group allows."""
    nodes = not rootless and "CAP_MKNOD" in spec["process"]["capabilities"]["bounding"]
    lifted = {
        "nosuid": options.new_privileges,
        "nodev": nodes and bool(spec["linux"]["resources"].get("devices")),
    }
    return tuple(attribute for attribute in ATTRIBUTES if not lifted[attribute])


def _amended(
    store: Store, identity: str, spec: Spec, further: Further, maps: IdMaps | None, base: Base
) -> tuple[bool, tuple[Fd, ...]]:
    """Change *spec* into what is asked beyond the usual; whether the built-in seccomp profile holds, and descriptors
    of namespaces that *spec* names.
    """
    from lamina.engine.amend import amend, profile_of
    from lamina.engine.sharing import namespaces

    joined = namespaces(store, further)
    paths = {kind: f"/proc/self/fd/{int(fd)}" for kind, fd in joined.items()}
    amend(spec, further, maps=maps, read=base.read, joined=paths, identity=identity)
    profile = profile_of(further, tuple(spec["process"]["capabilities"]["bounding"]))
    if profile:
        spec["linux"]["seccomp"] = profile
    return profile is None, tuple(joined.values())


def _host(store: Store, rootless: bool, refused: Mapping[bytes, str] | None) -> Base:
    config = ImageConfig(workdir=_working_directory())
    return Base(picture(store, rootless=rootless, refused=refused), config, own_file)


def _stored(store: Store, image: ImageRecord, maps: IdMaps | None) -> Base:
    from lamina.engine.base import stored

    return stored(store, image, rootless=maps is not None, maps=lambda: maps_record(maps))


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


def _own_files(home: bytes) -> tuple[tuple[bytes, bytes], ...]:
    from lamina.engine.own_files import places

    return places(home)


def _id_maps() -> IdMaps | None:
    """Root needs none."""
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
