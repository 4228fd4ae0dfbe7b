"""Mounts that the caller makes for a new process which may not: for a user namespace, and with ids mapped.

They are attached nowhere; the new process gets them as descriptors. Root's own procfs is made the same way.
"""

from __future__ import annotations

import os

from lamina.errors import InvalidInput, KernelError, Unsupported
from lamina.linux.capabilities import capget
from lamina.linux.constants import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    FSCONFIG_CMD_CREATE,
    MOUNT_ATTR_IDMAP,
    OPEN_TREE_CLONE,
    PROC_SUPER_MAGIC,
)
from lamina.linux.descriptors import duplicate
from lamina.linux.fd import Fd
from lamina.linux.files import fstatfs, openat2
from lamina.linux.mount import fsconfig, fsmount, fsopen, mount_setattr, open_tree
from lamina.linux.program import Reg, assemble
from lamina.overlay.spec import MountSpec
from lamina.overlay.steps import overlay_steps
from lamina.runtime.id_maps import mapped_namespace
from lamina.runtime.plan.mounts import Place, places_of
from lamina.runtime.plan.paths import INSIDE, ROOT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.runtime.bundle import Bundle, Joined, Wiring

CAP_SYS_ADMIN = 21


def own_procfs() -> Fd:
    """A procfs over which nobody has mounted anything: a new one, or the host's, looked at, where none can be made."""
    try:
        with fsopen("proc") as context:
            fsconfig(context, FSCONFIG_CMD_CREATE, None, None)
            return fsmount(context)
    except KernelError:
        fd = Fd(os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    if fstatfs(fd).type != PROC_SUPER_MAGIC:
        fd.close()
        raise Unsupported("write to procfs: what is mounted at /proc of this host is none")
    return fd


def make_trees(
    bundle: Bundle, joined: tuple[Joined, ...], held: list[Fd], known: Wiring
) -> tuple[tuple[tuple[str, int], ...], tuple[tuple[int, int], ...]]:
    """(`trees`, `id_maps`) of a Wiring, of which *known* is known. Descriptors are added to *held*.

    Raises InvalidInput for id maps that contradict each other, KernelError when the kernel maps no ids there.
    """
    linux = bundle.spec.get("linux") or {}
    mapped = any(n["type"] == "user" and not n.get("path") for n in linux.get("namespaces") or [])
    privileged = bool(capget().effective >> CAP_SYS_ADMIN & 1)
    trees: list[tuple[str, int]] = []
    elsewhere = mapped or any(namespace.kind == "user" and namespace.fd >= 0 for namespace in joined)
    maps = _Maps(linux, mapped, joined, held)
    if bundle.outer is not None:
        return (*_outer(bundle, held, known), *_given(bundle, held)), ()
    if elsewhere and privileged:
        trees += _roots(bundle, maps, held, known)
    id_maps: list[tuple[int, int]] = []
    trees += _given(bundle, held)
    made = {name for name, _ in trees}
    mounts = bundle.spec.get("mounts") or []
    for place, mount in zip(places_of(bundle), mounts, strict=True):
        if place.options.remount or place.save in made:
            continue
        namespace = None
        if place.options.idmap is not None:
            namespace = maps.of(mount)
            id_maps.append((place.index, int(namespace)))
        if place.bound and privileged and (elsewhere or namespace is not None):
            held.append(_tree(place, namespace))
            trees.append((str(place.save), int(held[-1])))
    return tuple(trees), tuple(id_maps)


def _given(bundle: Bundle, held: list[Fd]) -> list[tuple[str, int]]:
    """What the caller has made already, under numbers of our own: above those that the plan fills."""
    given = dict(bundle.given)
    found = []
    for place in places_of(bundle):
        if place.bound and place.path in given:
            held.append(Fd(duplicate(given[place.path], 3)))
            found.append((str(place.save), int(held[-1])))
    return found


def _outer(bundle: Bundle, held: list[Fd], known: Wiring) -> tuple[tuple[str, int], ...]:
    from lamina.runtime.stacks import outer_trees

    if any(place.options.idmap is not None for place in places_of(bundle)):
        raise Unsupported("map ids of a mount: only root may do that", remedy="leave the option idmap out")
    found = outer_trees(bundle, places_of(bundle), known)
    held += [fd for _, fd in found]
    return tuple((name, int(fd)) for name, fd in found)


def _roots(bundle: Bundle, maps: _Maps, held: list[Fd], known: Wiring) -> list[tuple[str, int]]:
    """The root, and where ids are mapped the other stacks as well."""
    if not bundle.mapped:
        held.append(_root(bundle))
        return [(str(ROOT), int(held[-1]))]
    from lamina.runtime.stacks import mapped_stacks

    found = mapped_stacks(bundle, maps.own(), maps.root(), known)
    held += [fd for _, fd in found]
    return [(name, int(fd)) for name, fd in found]


def _root(bundle: Bundle) -> Fd:
    if isinstance(bundle.rootfs, bytes):
        return open_tree(AT_FDCWD, bundle.rootfs, OPEN_TREE_CLONE | AT_RECURSIVE)
    return _stack(bundle.rootfs)


def _stack(rootfs: MountSpec) -> Fd:
    """The stack, mounted here by the steps with which the new process would have done it."""
    steps = overlay_steps(rootfs, Reg("root"))
    outcome = assemble(steps).walk()
    descriptors = [
        result
        for step, result in zip(steps[:-1], outcome.results[:-1], strict=True)
        if step.call in ("fsopen", "fsmount") and result >= 0
    ]
    for descriptor in descriptors:
        os.close(descriptor)
    if outcome.failed is not None:
        step = steps[outcome.failed]
        raise KernelError("mount overlay", outcome.errno, hint=f"step {step!r}")
    return Fd(outcome.results[-1])


class _Maps:
    """User namespaces with the maps that mounts are to have; one for all that ask for the same. They are in *held*."""

    def __init__(
        self, linux: dict[str, Any], mapped: bool, joined: tuple[Joined, ...], held: list[Fd]
    ) -> None:
        self.linux, self.mapped, self.joined, self.held = linux, mapped, joined, held
        self._own: Fd | None = None

    def of(self, mount: dict[str, Any]) -> Fd:
        """That of a mount: its own, or else the container's. Raises InvalidInput."""
        what = f"map ids of the mount at {mount['destination']}"
        uids, gids = mount.get("uidMappings") or [], mount.get("gidMappings") or []
        if bool(uids) != bool(gids):
            raise InvalidInput(f"{what}: uidMappings and gidMappings belong together", remedy="give both")
        if uids:
            return self._held(mapped_namespace(uids, gids))
        if self.mapped:
            return self.own()
        for namespace in self.joined:
            if namespace.kind == "user" and namespace.fd >= 0:
                return self._held(Fd(os.dup(namespace.fd)))
        raise InvalidInput(
            f"{what}: neither it nor the container has id maps",
            remedy="give the mount uidMappings and gidMappings",
        )

    def own(self) -> Fd:
        """With the maps of the container's own new namespace."""
        if self._own is None:
            uids, gids = (self.linux.get(key) or [] for key in ("uidMappings", "gidMappings"))
            self._own = self._held(mapped_namespace(uids, gids))
        return self._own

    def root(self) -> tuple[int, int]:
        """The ids, here, of the container's user 0, or of the first that it has."""
        found = []
        for key in ("uidMappings", "gidMappings"):
            first = min(self.linux[key], key=lambda line: int(line["containerID"]))
            found.append(int(first["hostID"]))
        return found[0], found[1]

    def _held(self, namespace: Fd) -> Fd:
        self.held.append(namespace)
        return namespace


def _tree(place: Place, namespace: Fd | None) -> Fd:
    recursive = AT_RECURSIVE if place.options.bind is None else place.options.bind
    if place.part:
        with (
            Fd(os.open(place.source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as top,
            openat2(top, place.part, os.O_PATH | os.O_DIRECTORY, resolve=INSIDE) as inside,
        ):
            tree = open_tree(inside, b"", OPEN_TREE_CLONE | AT_EMPTY_PATH | recursive)
    else:
        tree = open_tree(AT_FDCWD, place.source, OPEN_TREE_CLONE | recursive)
    try:
        if namespace is not None:
            mount_setattr(
                tree, "", AT_EMPTY_PATH | (place.options.idmap or 0),
                attr_set=MOUNT_ATTR_IDMAP, userns_fd=namespace,
            )  # fmt: skip
    except KernelError as error:
        tree.close()
        raise KernelError(
            f"map ids of the mount at {place.destination}", error.errno or 0, os.fsdecode(place.source),
            hint="its file system does not map ids, or is mapped already",
        ) from error  # fmt: skip
    except BaseException:
        tree.close()
        raise
    return tree
