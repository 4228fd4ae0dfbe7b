"""Mounts of type `cgroup`: the container's own control groups, and nothing of anybody else's.

With a cgroup namespace the kernel shows a new mount from the container's own cgroup on. Without one it would show the
whole machine's, for everybody in the container to write to (CVE-2023-25809): then the own directories are bound,
read-only unless the container may mount what it likes anyway (CAP_SYS_ADMIN among its capabilities, and no user
namespace) and asks for "rw", as a privileged one of podman's does. A container that has no cgroup of its own gets no
such mount.
https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#cgroup-ownership, cgroups(7)
"""

from __future__ import annotations

from errno import EEXIST

from lamina.errors import InvalidInput
from lamina.linux.constants import (
    AT_RECURSIVE,
    CLONE_NEWCGROUP,
    CLONE_NEWUSER,
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
)
from lamina.linux.program import Reg, Step
from lamina.runtime.plan.mounts import clone_steps, new_mount_steps
from lamina.runtime.plan.paths import attach_step, attribute_step, target_steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamina.runtime.bundle import Wiring
    from lamina.runtime.plan.mounts import Place


def cgroup_steps(place: Place, wiring: Wiring, own: int, bounding: Sequence[str] = ()) -> list[Step]:
    """The control groups at *place*: one cgroup2, or a directory of v1 hierarchies. *own* are the container's new
    namespaces, *bounding* the capabilities that it can have.
    """
    if place.options.data or place.options.superblock or place.options.idmap is not None:
        raise InvalidInput(f"mount at {place.destination}: a cgroup mount takes no option of a file system")
    bound = not own & CLONE_NEWCGROUP
    writable = "rw" in _said(place)
    privileged = "CAP_SYS_ADMIN" in bounding and not own & CLONE_NEWUSER
    if bound and writable and not privileged:
        raise InvalidInput(
            f"mount at {place.destination}: writable control groups need a cgroup namespace, or they are everybody's",
            remedy='add {"type": "cgroup"} to linux.namespaces, or leave "rw" out',
        )
    if wiring.cgroup >= 0 and not wiring.controllers:
        return _v2_steps(place, wiring, bound, writable)
    return _v1_steps(place, wiring, bound, writable) if wiring.controllers else []


def _said(place: Place) -> tuple[str, ...]:
    cleared = place.options.clear & MOUNT_ATTR_RDONLY or place.options.clear_below & MOUNT_ATTR_RDONLY
    return ("rw",) if cleared else ()


def _v2_steps(place: Place, wiring: Wiring, bound: bool, writable: bool) -> list[Step]:
    attributes = place.options.set | place.options.set_below
    if bound:
        closed = attributes if writable else attributes | MOUNT_ATTR_RDONLY
        steps = _bound_steps(wiring.places[0], place.save, closed) if wiring.places else []
    else:
        steps = new_mount_steps("cgroup2", place.save, attributes=attributes, source="cgroup")
    if not steps:
        return []
    steps[0].note = f"cgroup2 -> {place.destination}"
    steps += target_steps(place.path, place.target, directory=True, links=False)
    return [*steps, attach_step(place.save, place.target)]


def _bound_steps(directory: bytes, save: Reg, attributes: int) -> list[Step]:
    return [
        *clone_steps(directory, save, 0),
        attribute_step(save, 0, propagation=MS_PRIVATE),
        attribute_step(save, attributes, recursive=AT_RECURSIVE),
    ]


def _v1_steps(place: Place, wiring: Wiring, bound: bool, writable: bool) -> list[Step]:
    """A tmpfs with a directory for each hierarchy, and links for the controllers that share one; a hybrid has its v2
    tree at `unified`, as hosts do.
    """
    attributes = place.options.set | place.options.set_below
    readonly = attributes & MOUNT_ATTR_RDONLY or (bound and not writable)
    top = attributes & ~MOUNT_ATTR_RDONLY
    steps = new_mount_steps("tmpfs", place.save, attributes=top, data=(("mode", "755"),), source="tmpfs")
    steps[0].note = f"cgroup -> {place.destination}"
    steps += target_steps(place.path, place.target, directory=True, links=False)
    steps.append(attach_step(place.save, place.target))
    for number, name in enumerate(wiring.controllers):
        save, target = Reg(f"{place.save}.{number}"), Reg(f"{place.target}.{number}")
        words = name.removeprefix(b"name=").split(b",")
        if bound and len(wiring.places) > number:
            closed = attributes if writable else attributes | MOUNT_ATTR_RDONLY
            steps += _bound_steps(wiring.places[number], save, closed)
        elif bound:
            continue
        else:
            steps += new_mount_steps(
                "cgroup", save, attributes=attributes, data=_hierarchy(name), source="cgroup"
            )
        directory = name.removeprefix(b"name=")
        steps += target_steps(place.path + b"/" + directory, target, directory=True, links=False)
        steps.append(attach_step(save, target))
        if len(words) > 1:
            steps += [Step("symlinkat", directory, place.save, word, tolerate=(EEXIST,)) for word in words]
    if wiring.cgroup >= 0 and not bound:
        save, target = Reg(f"{place.save}.unified"), Reg(f"{place.target}.unified")
        steps += new_mount_steps("cgroup2", save, attributes=attributes, source="cgroup")
        steps += target_steps(place.path + b"/unified", target, directory=True, links=False)
        steps.append(attach_step(save, target))
    if readonly:
        steps.append(attribute_step(place.save, MOUNT_ATTR_RDONLY))
    return steps


def _hierarchy(name: bytes) -> tuple[tuple[str, str], ...]:
    """The mount options that find a v1 hierarchy by its controllers, or by its name if it has none."""
    if name.startswith(b"name="):
        return (("none", ""), ("name", name[5:].decode()))
    return tuple((word, "") for word in name.decode().split(","))
