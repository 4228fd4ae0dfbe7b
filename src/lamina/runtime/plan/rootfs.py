"""The root file system as steps: mounted, furnished, and made the root by pivot_root(2) or chroot(2)."""

from __future__ import annotations

from errno import EINVAL, ENOENT
from os import O_CLOEXEC, O_DIRECTORY, O_PATH

from lamina.errors import InvalidInput
from lamina.linux.constants import (
    AT_FDCWD,
    AT_RECURSIVE,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    F_DUPFD_CLOEXEC,
    MNT_DETACH,
    MOUNT_ATTR_RDONLY,
    MOVE_MOUNT_F_EMPTY_PATH,
    MS_PRIVATE,
    MS_REC,
    MS_SHARED,
    MS_SLAVE,
)
from lamina.linux.program import Reg, Step, Struct
from lamina.overlay.spec import MountSpec
from lamina.overlay.steps import overlay_steps
from lamina.runtime.destinations import components, destination_of
from lamina.runtime.plan.devices import NODES, Node, bindable, careful_steps, devices_of, node_steps
from lamina.runtime.plan.masks import cover_steps
from lamina.runtime.plan.mounts import clone_steps, early_steps, mount_steps
from lamina.runtime.plan.options import PROPAGATION, parse_options
from lamina.runtime.plan.paths import (
    ROOT,
    attach_step,
    attribute_step,
    open_step,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamina.runtime.bundle import Bundle, Spec, Wiring
    from lamina.runtime.plan.mounts import Place
    from lamina.runtime.plan.namespaces import Namespaces
    from lamina.runtime.waits import Wait

CAP_SYS_ADMIN = 21
FRESH, BOUND, IMAGES = "fresh", "bound", "the image's"
# single files of procfs that may be covered, by what emulates them for one container (runc, checkProcMount)
_PROC_FILES = frozenset(
    b"cpuinfo diskstats meminfo stat swaps uptime loadavg slabinfo sys/kernel/ns_last_pid sys/crypto/fips_enabled"
    .split()
)  # fmt: skip


def root_steps(bundle: Bundle, wiring: Wiring, places: Sequence[Place]) -> list[Step]:
    """Mount the root and the overlays over it; leave the root's descriptor in the register `root`."""
    propagation = root_propagation(bundle.spec)
    trees = dict(wiring.trees)
    steps = early_steps(places, wiring)
    connected = bool(propagation and propagation[0] & MS_SLAVE) and isinstance(bundle.rootfs, bytes)
    if connected and ROOT not in trees:
        steps += clone_steps(bundle.rootfs, ROOT, AT_RECURSIVE)  # type: ignore[arg-type]
    private = MS_REC | MS_PRIVATE
    steps.append(Step("mount", None, b"/", None, private, None, note="nothing we mount reaches the host"))
    options = parse_options(list(bundle.attributes))
    if ROOT in trees:
        # under a number of its own, so that the steps need not know who made it
        steps.append(
            Step("fcntl", trees[ROOT], F_DUPFD_CLOEXEC, 3, save=ROOT, note="the root, mounted by the caller")
        )
        kind = MS_SLAVE if connected else MS_PRIVATE
        steps.append(attribute_step(ROOT, options.set, propagation=kind, recursive=AT_RECURSIVE))
    elif connected:
        steps.append(attribute_step(ROOT, options.set, propagation=MS_SLAVE, recursive=AT_RECURSIVE))
    else:
        steps += _stack_steps(bundle.rootfs, ROOT, options.set, wiring, bundle.merged)
    at = b"/" if ROOT in trees else bundle.merged
    steps.append(Step("move_mount", ROOT, b"", AT_FDCWD, at, MOVE_MOUNT_F_EMPTY_PATH, note="the root"))
    for index, (mountpoint, spec) in enumerate(bundle.overlays):
        save, target = Reg(f"overlay{index}"), Reg(f"overlay{index}.at")
        made = trees.get(save)
        if made is not None:
            steps.append(attribute_step(made, options.set, propagation=MS_PRIVATE))
        else:
            steps += _stack_steps(spec, save, options.set, wiring, bundle.merged)
        steps.append(open_step(mountpoint, target, flags=O_PATH | O_DIRECTORY))
        steps.append(attach_step(save if made is None else made, target))
    for index, path in enumerate(bundle.readonly):
        steps += _readonly_bind_steps(path, index, options.set)
    for index, path in enumerate(bundle.hide):
        place = Reg(f"hide{index}")
        steps.append(
            open_step(path, place, flags=O_PATH | O_DIRECTORY, note=f"hide {path.decode(errors='replace')}")
        )
        steps += cover_steps(place, Reg(f"hide{index}.dir"))
    return steps


def root_propagation(spec: Spec) -> tuple[int, int] | None:
    """Read `linux.rootfsPropagation` as (MS_*, AT_RECURSIVE or 0). Raises InvalidInput."""
    word = (spec.get("linux") or {}).get("rootfsPropagation")
    if not word:
        return None
    if word not in PROPAGATION:
        raise InvalidInput(f"set rootfsPropagation {word!r}: the words are {', '.join(PROPAGATION)}")
    return PROPAGATION[word]


def propagation_steps(spec: Spec) -> list[Step]:
    """What of `rootfsPropagation` waits for the root to be the root: pivot_root(2) does not move what is shared."""
    propagation = root_propagation(spec)
    if propagation is None or propagation[0] & (MS_SLAVE | MS_PRIVATE):
        return []
    kind, below = propagation
    attributes = Struct("mount_attr", "QQQQ", (0, 0, kind, 0))
    note = f"root file system {'shared' if kind == MS_SHARED else 'unbindable'}"
    return [Step("mount_setattr", AT_FDCWD, b"/", below, attributes, 32, note=note)]


def _stack_steps(
    rootfs: MountSpec | bytes, save: Reg, attributes: int, wiring: Wiring, scratch: bytes
) -> list[Step]:
    if isinstance(rootfs, bytes):
        steps = clone_steps(rootfs, save, AT_RECURSIVE)
        return [*steps, attribute_step(save, attributes)] if attributes else steps
    return overlay_steps(
        rootfs, save, attributes=attributes, lowerdir_plus=wiring.lowerdir_plus, scratch=scratch
    )


def _readonly_bind_steps(path: bytes, index: int, attributes: int) -> list[Step]:
    """A mount of the host that cannot be overlaid, read-only at its own place."""
    save, target = Reg(f"host{index}"), Reg(f"host{index}.at")
    steps = clone_steps(path, save, AT_RECURSIVE)
    steps[0].note = f"bind {path.decode(errors='backslashreplace')} [readonly]"
    steps.append(attribute_step(save, MOUNT_ATTR_RDONLY | attributes, recursive=AT_RECURSIVE))
    return [*steps, open_step(path, target), attach_step(save, target)]


def furniture_steps(
    bundle: Bundle, wiring: Wiring, namespaces: Namespaces, places: Sequence[Place]
) -> tuple[list[Step], list[Wait]]:
    """The specification's mounts in their order, with the devices put into /dev as soon as that is mounted."""
    steps: list[Step] = []
    waits: list[Wait] = []
    spec, own = bundle.spec, namespaces.own
    bind = binds_nodes(own, mknod=wiring.mknod)
    devices = bindable(devices_of(spec)) if bind else devices_of(spec)
    kind, devices_at = dev_kind(spec)
    here = tuple(node for node in devices if kind == FRESH and _in_fresh_dev(node, bind))
    label = (spec.get("linux") or {}).get("mountLabel")
    for index, place in enumerate(places):
        _check_place(place, wiring)
        data: tuple[tuple[str, str], ...] = ()
        if label and not place.bound:
            from lamina.runtime.plan.labels import mount_label_option

            data = mount_label_option(label, place.fstype, wiring)
        if place.fstype == "cgroup":
            from lamina.runtime.plan.cgroup_mounts import cgroup_steps

            sets = spec["process"].get("capabilities") or {}
            steps += cgroup_steps(place, wiring, own, sets.get("bounding") or ())
        else:
            made, needed = mount_steps(place, wiring, data=data)
            steps += made
            waits += needed
        if index == devices_at:
            steps += node_steps(bind=bind, devices=here)
    rest = tuple(node for node in devices if node not in here)
    if rest or kind == IMAGES:
        steps += careful_steps(rest, bind=bind, wiring=wiring, defaults=kind == IMAGES)
    return steps, waits


def dev_kind(spec: Spec) -> tuple[str, int | None]:
    """What the container's /dev is, and the index of the mount that makes it so."""
    kind, at = IMAGES, None
    for index, mount in enumerate(spec.get("mounts") or []):
        if _names(destination_of(mount)) == [b"dev"]:
            options = mount.get("options") or []
            if mount.get("type") == "tmpfs":
                kind, at = FRESH, index
            elif mount.get("type") == "bind" or "bind" in options or "rbind" in options:
                kind, at = BOUND, None
    return kind, at


def binds_nodes(own: int, *, mknod: bool) -> bool:
    """Whether device nodes must be bound because none can be made."""
    return bool(own & CLONE_NEWUSER) or not mknod


def nodes_to_bind(spec: Spec, own: int, *, mknod: bool) -> tuple[Node, ...]:
    """The nodes of the host that the caller has to look at before they are bound."""
    if not own & CLONE_NEWNS or not binds_nodes(own, mknod=mknod):
        return ()
    nodes = tuple(node for node in bindable(devices_of(spec)) if node.kind != "p")
    if dev_kind(spec)[0] == IMAGES:
        nodes += tuple(Node(b"/dev/" + name, "c", major, minor) for name, major, minor in NODES)
    return nodes


def _in_fresh_dev(node: Node, bind: bool) -> bool:
    """Whether the node can simply be made in a fresh /dev."""
    return (
        (not bind or node.kind == "p") and len(components(node.path)) == 2 and node.path.startswith(b"/dev/")
    )


def _names(path: str) -> list[bytes]:
    return components(path.encode("utf-8", "surrogateescape"))


def _check_place(place: Place, wiring: Wiring) -> None:
    names = _names(place.destination)
    if not names:
        raise InvalidInput(f"mount at {place.destination}: that is the root, which root.path says")
    if names[0] != b"proc" or place.options.remount:
        return
    inside = b"/".join(names[1:])
    if not inside and (place.fstype == "proc" or (place.bound and place.source in wiring.procfs)):
        return
    if inside in _PROC_FILES and place.bound and place.source in wiring.files:
        return
    # what lies over /proc could lie to us about labels, masks and descriptors (CVE-2019-19921, CVE-2025-52881)
    raise InvalidInput(f"mount at {place.destination}: nothing but a procfs may be mounted there")


def enter_steps(bundle: Bundle, wiring: Wiring, bounding: int) -> list[Step]:
    """Make the register `root` the root and let go of the old one.

    Both names may be the same directory: the old root ends up on top of the new and is taken off there
    (pivot_root(2), NOTES). Raises InvalidInput for a way that would not hold what it is to hold.
    """
    if bundle.no_pivot:
        return _move_steps(bounding, there=ROOT in dict(wiring.trees))
    return [
        Step("fchdir", ROOT),
        Step("pivot_root", b".", b"."),
        Step("umount2", b".", MNT_DETACH),
        Step("chdir", b"/"),
    ]


def _move_steps(bounding: int, there: bool) -> list[Step]:
    """Move the root over "/", where it may be already (*there*), and enter it by chroot(2): for a "/" that
    pivot_root(2) refuses (an initramfs).

    The host's file systems stay below it. Nothing leads there: ".." ends at the mount on top. But whoever may unmount
    can take that away; and the host's procfs and sysfs, being unmasked, would let a user namespace mount fresh ones.
    """
    if bounding >> CAP_SYS_ADMIN & 1:
        raise InvalidInput(
            "start without pivot_root: a process with CAP_SYS_ADMIN could unmount its root and be in the host's",
            remedy="leave the capability out of the bounding set, or start where the root can be pivoted",
        )
    steps = []
    for path in (b"/proc", b"/sys"):
        cover = cover_steps(Reg(f"old{path.decode()}"), Reg(f"old{path.decode()}.empty"))
        note, held = f"the host's {path.decode()}", Reg(f"old{path.decode()}")
        flags = O_PATH | O_DIRECTORY | O_CLOEXEC
        steps += [
            Step("umount2", path, MNT_DETACH, tolerate=(EINVAL,), leap=len(cover) + 1, note=note),
            Step("openat", AT_FDCWD, path, flags, 0, save=held, tolerate=(ENOENT,), skip=len(cover)),
            *cover,
        ]
    steps.append(Step("fchdir", ROOT))
    if not there:
        steps.append(Step("move_mount", ROOT, b"", AT_FDCWD, b"/", MOVE_MOUNT_F_EMPTY_PATH))
    return [*steps, Step("chroot", b"."), Step("chdir", b"/")]


def borrowed_steps(bundle: Bundle) -> list[Step]:
    """Enter the root in a mount namespace that others are in as well: nothing may be mounted or made there.

    Raises InvalidInput for everything that would have to be.
    """
    spec = bundle.spec
    linux = spec.get("linux") or {}
    for there, what in (
        (spec.get("mounts"), "mounts"),
        ((spec.get("root") or {}).get("readonly"), "root.readonly"),
        (linux.get("maskedPaths"), "linux.maskedPaths"),
        (linux.get("readonlyPaths"), "linux.readonlyPaths"),
        (linux.get("rootfsPropagation"), "linux.rootfsPropagation"),
        (linux.get("devices"), "linux.devices"),
        (linux.get("mountLabel"), "linux.mountLabel"),
        (spec["process"].get("terminal"), "process.terminal"),
        (bundle.overlays or bundle.readonly or bundle.hide, "a root of several mounts"),
        (isinstance(bundle.rootfs, MountSpec), "a root that is a stack of directories"),
    ):
        if there:
            raise InvalidInput(
                f"start in a mount namespace that others use: {what} would change their files",
                remedy='give the container a mount namespace of its own: {"type": "mount"} without a path',
            )
    assert isinstance(bundle.rootfs, bytes)
    flags = O_PATH | O_DIRECTORY | O_CLOEXEC
    steps = [
        Step("openat", AT_FDCWD, bundle.rootfs, flags, 0, save=ROOT, note="the root, nothing is mounted"),
        Step("fchdir", ROOT),
    ]
    if bundle.rootfs.rstrip(b"/"):
        steps.append(Step("chroot", b"."))
    return [*steps, Step("chdir", b"/")]


def readonly_root_steps() -> list[Step]:
    """Make the root itself read-only; what is mounted below it stays as it is."""
    attributes = Struct("mount_attr", "QQQQ", (MOUNT_ATTR_RDONLY, 0, 0, 0))
    return [Step("mount_setattr", AT_FDCWD, b"/", 0, attributes, 32, note="read-only root")]
