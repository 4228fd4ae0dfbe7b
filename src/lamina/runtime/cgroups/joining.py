"""Descriptors with which a further process joins a container's control groups."""

from __future__ import annotations

import os

from lamina.errors import InvalidInput, KernelError, NotFound
from lamina.linux.fd import Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.runtime.cgroups.cgroup import Cgroup


def open_groups(cgroup: Cgroup, below: tuple[str, ...], beside: int) -> None:
    """See `Cgroup.open`."""
    inside = _inside(cgroup, below)
    everywhere = inside.get("", b"")
    cgroup.close()
    try:
        hierarchies: dict[bytes, list[str]] = {}
        for name, place in cgroup.paths.items():
            if name:
                hierarchies.setdefault(place, []).append(name)
        for place, names in hierarchies.items():
            path = next((inside[name] for name in names if name in inside), everywhere)
            file = (place + b"/" + path if path else place) + b"/tasks"
            cgroup.tasks[",".join(names)] = _open(file, os.O_WRONLY)
        place_v2 = cgroup.paths.get("")
        if place_v2 is not None:
            place = place_v2 + b"/" + everywhere if everywhere else _habitable(place_v2, beside)
            cgroup.v2 = _open(place, os.O_RDONLY | os.O_DIRECTORY)
    except BaseException:
        cgroup.close()
        raise


def _inside(cgroup: Cgroup, below: tuple[str, ...]) -> dict[str, bytes]:
    """The path inside the group of each v1 controller that is named, and as "" that for every hierarchy."""
    found: dict[str, bytes] = {}
    for text in below:
        named, colon, path = text.rpartition(":")
        inside = os.fsencode(path).strip(b"/")
        if b".." in inside.split(b"/") or b"\0" in inside:
            raise InvalidInput(f"join cgroup {text!r}: not a path inside the container's own")
        if not colon and len(below) > 1:
            raise InvalidInput(
                f"join cgroup {text!r}: it is not said of which controller",
                remedy="CONTROLLER[,CONTROLLER]:PATH",
            )
        for name in named.split(",") if colon else ("",):
            if name in found:
                raise InvalidInput(f"join cgroup {text!r}: controller {name} is named twice")
            if colon and (not name or name not in cgroup.paths):
                raise InvalidInput(
                    f"join cgroup {text!r}: the container is in no group of a controller {name!r}",
                    remedy="known: " + ", ".join(sorted(filter(None, cgroup.paths))),
                )
            found[name] = inside
    return found


def _open(name: bytes, flags: int) -> Fd:
    try:
        return Fd(os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC))
    except FileNotFoundError:
        raise NotFound(f"join cgroup {os.fsdecode(name)}: there is none") from None
    except OSError as error:
        raise KernelError("open", error.errno or 0, os.fsdecode(name)) from error


def _habitable(place: bytes, beside: int) -> bytes:
    """A group that hands controllers down takes no processes: then where the container's first process went."""
    try:
        with open(place + b"/cgroup.subtree_control", "rb", buffering=0) as file:
            divided = bool(file.read().strip())
    except OSError:
        divided = False
    if not divided or not beside:
        return place
    from lamina.runtime.cgroups.delegation import own
    from lamina.runtime.cgroups.layout import read_layout

    there = own(read_layout(), beside).get("")
    return there if there is not None and there.startswith(place + b"/") else place
