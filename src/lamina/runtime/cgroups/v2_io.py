"""cgroup v2, continued: disks, huge pages, RDMA, and files by their own names. cgroup-v2.rst of the kernel."""

from __future__ import annotations

from lamina.errors import InvalidInput, Unsupported
from lamina.runtime.cgroups.resources import number, only
from lamina.runtime.cgroups.v1_io import device_number, page_size, rate, rdma
from lamina.runtime.cgroups.v2 import refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.runtime.cgroups.layout import Layout
    from lamina.runtime.cgroups.resources import Resources, Setting

# the state of a group, not a resource; what they do has verbs of its own
_NO_RESOURCES = frozenset(
    ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "cgroup.controllers", "cgroup.type", "cgroup.kill",
     "cgroup.freeze", "cgroup.events", "cgroup.stat")
)  # fmt: skip
_RATES = {
    "throttleReadBpsDevice": "rbps",
    "throttleWriteBpsDevice": "wbps",
    "throttleReadIOPSDevice": "riops",
    "throttleWriteIOPSDevice": "wiops",
}


def weight_of_blkio(weight: int) -> int:
    """`io.weight` (1 to 10000) for v1's weight (10 to 1000), as every runtime converts it."""
    return 1 + (max(10, min(1000, weight)) - 10) * 9999 // 990


def io(limits: Resources) -> list[Setting]:
    """`io.bfq.weight` where bfq is a scheduler, else `io.weight` (converted), and `io.max`."""
    only(limits, frozenset(("weight", "leafWeight", "weightDevice", *_RATES)), "blockIO")
    refuse(limits, ("leafWeight",), "blockIO", "lets no processes compete with child groups")
    settings: list[Setting] = []
    weight = number(limits, "weight", "blockIO")
    if weight:
        settings.append(_io_weight("default", weight))
    for entry in limits.get("weightDevice") or ():
        refuse(entry, ("leafWeight",), "blockIO.weightDevice", "lets no processes compete with child groups")
        if amount := number(entry, "weight", "blockIO.weightDevice"):
            settings.append(_io_weight(device_number(entry), amount))
    for key, word in _RATES.items():
        for entry in limits.get(key) or ():
            settings += [("io.max", f"{device_number(entry)} {word}={rate(entry, key) or 'max'}")]
    return settings


def _io_weight(device: str, weight: int) -> Setting:
    return ("io.bfq.weight", f"{device} {weight}", "io.weight", f"{device} {weight_of_blkio(weight)}")


def hugetlb(limits: list[dict[str, Any]]) -> list[Setting]:
    """`hugetlb.<size>.max`, and `.rsvd.max` where the kernel counts what is reserved (since Linux 5.7)."""
    settings: list[Setting] = []
    for entry in limits:
        size, text = page_size(entry), str(number(entry, "limit", "hugepageLimits") or 0)
        settings += [(f"hugetlb.{size}.max", text), (f"hugetlb.{size}.rsvd.max", text)]
    return settings


def unified_settings(asked: dict[str, str], layout: Layout) -> dict[str, list[Setting]]:
    """The specification's `unified`: files of v2 as they are, by controller; the core's own under "".

    They come after everything else: where both speak of the same file this one counts.
    """
    if layout.v2 is None:
        raise Unsupported("limit unified: this host has no cgroup v2", remedy="say it in v1's words")
    found: dict[str, list[Setting]] = {}
    for key, text in asked.items():
        controller, _, rest = key.partition(".")
        if not rest or "/" in key or "\0" in key or key in _NO_RESOURCES:
            raise InvalidInput(f"limit unified: {key!r} is no file of a resource")
        if not isinstance(text, str):
            raise InvalidInput(f"limit unified: the value of {key} is {text!r}, not a string")
        if controller == "cgroup":
            controller = ""
        elif controller not in layout.v2_controllers:
            elsewhere = ", which is a v1 hierarchy here" if controller in layout.v1 else ""
            raise Unsupported(
                f"limit unified: {key} needs the {controller} controller in cgroup v2{elsewhere}",
                remedy="have it enabled and delegated (see `lamina doctor`), or leave the limit out",
            )
        # files with a line for each device take one line at a time
        found.setdefault(controller, []).extend((key, line) for line in text.strip().split("\n"))
    return found


TABLE: dict[str, Callable[[Any], list[Setting]]] = {"blkio": io, "hugetlb": hugetlb, "rdma": rdma}
