"""A container's group in the v2 tree made, which takes that each group above hands controllers down (cgroups(7))."""

from __future__ import annotations

import os
from errno import ENOENT

from lamina.errors import KernelError, Unsupported
from lamina.linux.fd import Fd
from lamina.runtime.cgroups.layout import read_file
from lamina.runtime.cgroups.making import make_group, make_parents, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.runtime.cgroups.cgroup import Cgroup
    from lamina.runtime.cgroups.layout import Layout
    from lamina.runtime.cgroups.making import Wanted


def make_v2(
    cgroup: Cgroup, layout: Layout, relative: bytes, wanted: Wanted, devices: bool, everywhere: bool
) -> None:
    """The group in the v2 tree, when something is asked of it there; its limits, and the descriptor to join it with."""
    asked = [name for name in wanted if name not in layout.v1]
    if layout.v2 is None or not (asked or devices or everywhere):
        if devices:
            raise Unsupported("limit devices: this host has neither the v1 controller nor cgroup v2")
        return
    place = layout.v2 + b"/" + relative
    others = layout.v2_controllers.difference(asked) if everywhere else ()
    try:
        for _ in range(20):
            whole = _delegate(cgroup, layout.v2, relative, [name for name in asked if name], sorted(others))
            if whole and make_group(cgroup, place, asked[0] if asked else "devices" if devices else "cgroup"):
                break
        else:
            # the group above was removed, again and again, by the end of its last container
            raise KernelError("mkdir", ENOENT, os.fsdecode(place))
    except Unsupported:
        if asked or devices:
            raise
        return  # nobody asked for it
    cgroup.paths[""] = place
    for name in asked:
        for setting in wanted[name]:
            write(place, setting, name or "unified", cgroup)
    cgroup.v2 = Fd(os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def _delegate(cgroup: Cgroup, root: bytes, relative: bytes, asked: list[str], others: list[str]) -> bool:
    """Make the groups above, and have each of them hand the controllers down: *asked* must be, *others* may be.

    False when one of them was removed meanwhile, by the end of its last container.
    """
    make_parents(cgroup, root, relative, (asked or others or ["cgroup"])[0])
    place = root
    for name in (b"", *relative.split(b"/")[:-1]):
        place = place + b"/" + name if name else place
        control = place + b"/cgroup.subtree_control"
        # read first: a write takes the lock of all cgroups and may wait for groups that are going
        on = read_file(control).decode().split()
        missing = [name for name in (*asked, *others) if name not in on]
        if missing and not _hand_down(control, missing):
            for controller in missing:
                if (failure := _hand_down_one(control, controller)) is not None and controller in asked:
                    if not os.path.isdir(place):
                        return False
                    from lamina.runtime.cgroups.refusals import not_handed_down

                    raise not_handed_down(place, controller, failure) from failure
    return True


def _hand_down(control: bytes, controllers: list[str]) -> bool:
    try:
        with open(control, "wb", buffering=0) as file:
            file.write(" ".join([f"+{name}" for name in controllers]).encode())
    except OSError:
        return False
    return True


def _hand_down_one(control: bytes, controller: str) -> OSError | None:
    try:
        with open(control, "wb", buffering=0) as file:
            file.write(b"+" + controller.encode())
    except OSError as error:
        return error
    return None
