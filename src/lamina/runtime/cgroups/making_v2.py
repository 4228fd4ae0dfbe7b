"""A container's group in the v2 tree made, which takes that each group above hands controllers down (cgroups(7))."""

from __future__ import annotations

import os

from lamina.errors import Unsupported
from lamina.linux.fd import Fd
from lamina.runtime.cgroups.layout import read_file
from lamina.runtime.cgroups.making import make_below, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.runtime.cgroups.cgroup import Cgroup
    from lamina.runtime.cgroups.layout import Layout
    from lamina.runtime.cgroups.making import Wanted


def make_v2(
    cgroup: Cgroup,
    layout: Layout,
    relative: bytes,
    wanted: Wanted,
    devices: bool,
    whole: bool,
    further: frozenset[str],
) -> None:
    """The group in the v2 tree, when something is asked of it there, or it is to be there (*whole*); its limits, and
    the descriptor to join it with. *further* are controllers that it is to have where that can be.
    """
    asked = [name for name in wanted if name not in layout.v1]
    if layout.v2 is None or not (asked or devices or whole):
        if devices:
            raise Unsupported("limit devices: this host has neither the v1 controller nor cgroup v2")
        return
    place = layout.v2 + b"/" + relative
    try:
        # the group first: the groups above cannot be removed any more, and hand down to it also what they do later
        make_below(cgroup, "", layout.v2, relative)
        others = layout.v2_controllers.intersection(further).difference(asked)
        delegate(layout.v2, relative, [name for name in asked if name], sorted(others))
    except Unsupported:
        if asked or devices:
            raise
        return  # nobody asked for it
    for name in asked:
        made = wanted[name]
        if name and not os.path.exists(place + b"/" + made[0][0].encode()):
            # a neighbour is just being made, and the files come after what `subtree_control` says; a write waits
            _hand_down(os.path.dirname(place) + b"/cgroup.subtree_control", [name])
        for setting in made:
            write(place, setting, name or "unified", cgroup)
    cgroup.v2 = Fd(os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def delegate(root: bytes, relative: bytes, asked: list[str], others: list[str]) -> None:
    """Have each group above that at *relative* hand the controllers down: *asked* must be, *others* may be.

    Raises Unsupported, saying which group does not.
    """
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
                    from lamina.runtime.cgroups.refusals import not_handed_down

                    raise not_handed_down(place, controller, failure) from failure


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
