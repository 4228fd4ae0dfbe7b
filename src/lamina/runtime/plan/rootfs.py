"""The root file system as steps: mounted, furnished, and made the root by pivot_root(2)."""

from __future__ import annotations

from os import O_DIRECTORY, O_PATH

from lamina.errors import InvalidInput
from lamina.linux.constants import (
    AT_FDCWD,
    AT_RECURSIVE,
    CLONE_NEWUSER,
    MNT_DETACH,
    MOUNT_ATTR_RDONLY,
    MOVE_MOUNT_F_EMPTY_PATH,
    MS_PRIVATE,
    MS_REC,
)
from lamina.linux.program import Reg, Step, Struct
from lamina.overlay.spec import MountSpec
from lamina.overlay.steps import overlay_steps
from lamina.runtime.plan.devices import node_steps
from lamina.runtime.plan.masks import cover_steps
from lamina.runtime.plan.mounts import clone_steps, mount_steps, new_mount_steps, parse_options
from lamina.runtime.plan.paths import ROOT, attach_step, attribute_step, components, open_step, target_steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.runtime.bundle import Bundle, Wiring


def root_steps(bundle: Bundle, wiring: Wiring) -> list[Step]:
    """Mount the root and the overlays over it; leave the root's descriptor in the register `root`."""
    private = MS_REC | MS_PRIVATE
    steps = [Step("mount", None, b"/", None, private, None, note="nothing we mount reaches the host")]
    options = parse_options(list(bundle.attributes))
    steps += _stack_steps(bundle.rootfs, ROOT, options.set, wiring, bundle.merged)
    steps.append(
        Step("move_mount", ROOT, b"", AT_FDCWD, bundle.merged, MOVE_MOUNT_F_EMPTY_PATH, note="the root")
    )
    for index, (mountpoint, spec) in enumerate(bundle.overlays):
        save, target = Reg(f"overlay{index}"), Reg(f"overlay{index}.at")
        steps += _stack_steps(spec, save, options.set, wiring, bundle.merged)
        steps += [open_step(mountpoint, target, flags=O_PATH | O_DIRECTORY), attach_step(save, target)]
    for index, path in enumerate(bundle.readonly):
        steps += _readonly_bind_steps(path, index, options.set)
    for index, path in enumerate(bundle.hide):
        place = Reg(f"hide{index}")
        steps.append(
            open_step(path, place, flags=O_PATH | O_DIRECTORY, note=f"hide {path.decode(errors='replace')}")
        )
        steps += cover_steps(place, Reg(f"hide{index}.dir"))
    return steps


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


def furniture_steps(bundle: Bundle, wiring: Wiring, flags: int) -> list[Step]:
    """The specification's mounts in their order, with the devices put into /dev as soon as that is mounted."""
    steps: list[Step] = []
    bind_nodes = bool(flags & CLONE_NEWUSER)
    devices_at = None
    mounts = bundle.spec.get("mounts") or []
    for index, mount in enumerate(mounts):
        if mount.get("type") == "tmpfs" and _names(mount) == [b"dev"]:
            devices_at = index
    for index, mount in enumerate(mounts):
        names = _names(mount)
        if names[:1] == [b"proc"] and (len(names) > 1 or mount.get("type") != "proc"):
            # what lies over /proc could lie to us about labels, masks and descriptors (CVE-2019-19921, CVE-2025-52881)
            raise InvalidInput(f"mount at {mount['destination']}: nothing but a procfs may be mounted there")
        if mount.get("type") == "cgroup":
            steps += _cgroup_steps(mount, index, wiring)
        else:
            steps += mount_steps(mount, index, wiring.files)
        if index == devices_at:
            steps += node_steps(bind=bind_nodes)
    return steps


def _names(mount: dict[str, Any]) -> list[bytes]:
    return components(str(mount["destination"]).encode("utf-8", "surrogateescape"))


def _cgroup_steps(mount: dict[str, Any], index: int, wiring: Wiring) -> list[Step]:
    """The container's own cgroups, read-only as asked: one cgroup2, or a directory of v1 hierarchies as hosts have it.

    Controllers that are mounted together share a directory with links to it; a hybrid has its v2 tree at `unified`.
    """
    options = list(mount.get("options") or [])
    unified = {**mount, "type": "cgroup2", "source": "cgroup"}
    if not wiring.controllers:
        return mount_steps(unified, index, wiring.files) if wiring.cgroup >= 0 else []
    base = {"destination": mount["destination"], "type": "tmpfs", "source": "tmpfs"}
    flags = [o for o in options if o != "ro"]
    steps = mount_steps({**base, "options": [*flags, "mode=755"]}, index * 100, wiring.files)
    directory = Reg(f"mount{index * 100}")
    for number, hierarchy in enumerate(wiring.controllers, 1):
        name = hierarchy.decode().removeprefix("name=")
        controllers = hierarchy.decode().split(",")
        entry = {"destination": f"{mount['destination']}/{name}", "options": [*options, *controllers]}
        steps += _v1_steps(entry, index * 100 + number)
        if len(controllers) > 1:
            steps += [Step("symlinkat", name.encode(), directory, link.encode()) for link in controllers]
    if wiring.cgroup >= 0:
        place = f"{mount['destination']}/unified"
        steps += mount_steps({**unified, "destination": place}, index * 100 + 99, wiring.files)
    if "ro" in options:
        steps.append(attribute_step(directory, MOUNT_ATTR_RDONLY))
    return steps


def _v1_steps(entry: dict[str, Any], index: int) -> list[Step]:
    options = parse_options(entry["options"])
    save, target = Reg(f"mount{index}"), Reg(f"target{index}")
    steps = new_mount_steps("cgroup", save, attributes=options.set, data=options.data, source="cgroup")
    steps += target_steps(entry["destination"].encode(), target, directory=True, links=False)
    return [*steps, attach_step(save, target)]


def pivot_steps() -> list[Step]:
    """Make the register `root` the root and let go of the old one.

    Both names may be the same directory: the old root ends up on top of the new and is taken off there
    (pivot_root(2), NOTES).
    """
    return [
        Step("fchdir", ROOT),
        Step("pivot_root", b".", b"."),
        Step("umount2", b".", MNT_DETACH),
        Step("chdir", b"/"),
    ]


def readonly_root_steps() -> list[Step]:
    """Make the root itself read-only; what is mounted below it stays as it is."""
    attributes = Struct("mount_attr", "QQQQ", (MOUNT_ATTR_RDONLY, 0, 0, 0))
    return [Step("mount_setattr", AT_FDCWD, b"/", 0, attributes, 32, note="read-only root")]
