"""cgroup v1, continued: disks, huge pages, packets and RDMA. Documentation/admin-guide/cgroup-v1/ of the kernel."""

from __future__ import annotations

from lamina.errors import InvalidInput
from lamina.runtime.cgroups.resources import number, only

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.runtime.cgroups.resources import Resources, Setting

_RATES = {
    "throttleReadBpsDevice": "blkio.throttle.read_bps_device",
    "throttleWriteBpsDevice": "blkio.throttle.write_bps_device",
    "throttleReadIOPSDevice": "blkio.throttle.read_iops_device",
    "throttleWriteIOPSDevice": "blkio.throttle.write_iops_device",
}
PAGE_UNITS = ("KB", "MB", "GB")


def blkio(limits: Resources) -> list[Setting]:
    """Weights (where the scheduler of the disk is bfq) and rates: blkio-controller.rst, bfq-iosched.rst."""
    only(limits, frozenset(("weight", "leafWeight", "weightDevice", *_RATES)), "blockIO")
    settings: list[Setting] = []
    weight, leaf = number(limits, "weight", "blockIO"), number(limits, "leafWeight", "blockIO")
    if weight:
        settings.append(("blkio.weight", str(weight), "blkio.bfq.weight", str(weight)))
    if leaf:
        settings.append(("blkio.leaf_weight", str(leaf)))
    for entry in limits.get("weightDevice") or ():
        device, text = device_number(entry), str(entry.get("weight"))
        if entry.get("weight"):
            files = ("blkio.weight_device", "blkio.bfq.weight_device")
            settings.append((files[0], f"{device} {text}", files[1], f"{device} {text}"))
        if entry.get("leafWeight"):
            settings.append(("blkio.leaf_weight_device", f"{device} {entry['leafWeight']}"))
    for key, file in _RATES.items():
        settings += [(file, f"{device_number(entry)} {rate(entry, key)}") for entry in limits.get(key) or ()]
    return settings


def hugetlb(limits: list[dict[str, Any]]) -> list[Setting]:
    """Huge pages used, and reserved where the kernel counts that (since Linux 5.7): hugetlb.rst."""
    settings: list[Setting] = []
    for entry in limits:
        size, text = page_size(entry), str(number(entry, "limit", "hugepageLimits") or 0)
        settings.append((f"hugetlb.{size}.limit_in_bytes", text))
        settings.append((f"hugetlb.{size}.rsvd.limit_in_bytes", text))
    return settings


def net_cls(limits: Resources) -> list[Setting]:
    """The class of what is sent: net_cls.rst."""
    return [("net_cls.classid", str(number(limits, "classID", "network")))]


def net_prio(limits: list[dict[str, Any]]) -> list[Setting]:
    """The priority of what is sent, by interface: net_prio.rst."""
    settings: list[Setting] = []
    for entry in limits:
        name, priority = str(entry.get("name") or ""), number(entry, "priority", "network.priorities")
        if not name or " " in name or priority is None:
            raise InvalidInput(f"limit network.priorities: {entry!r} needs a name and a priority")
        settings.append(("net_prio.ifpriomap", f"{name} {priority}"))
    return settings


def rdma(limits: dict[str, Resources]) -> list[Setting]:
    """Handles and objects of each RDMA device; the same file in both versions: rdma.rst."""
    settings: list[Setting] = []
    for device, entry in limits.items():
        only(entry, frozenset(("hcaHandles", "hcaObjects")), f"rdma.{device}")
        words = [
            f"{word}={number(entry, key, f'rdma.{device}')}"
            for key, word in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))
            if entry.get(key) is not None
        ]
        if words:
            settings.append(("rdma.max", " ".join([device, *words])))
    return settings


def device_number(entry: Resources) -> str:
    """`major:minor` of a block device's entry. Raises InvalidInput when they are not there."""
    major, minor = number(entry, "major", "blockIO"), number(entry, "minor", "blockIO")
    if major is None or minor is None or major < 0 or minor < 0:
        raise InvalidInput(f"limit blockIO: {entry!r} names no device by its major and minor number")
    return f"{major}:{minor}"


def rate(entry: Resources, what: str) -> int:
    """The `rate` of a throttle's entry; 0 takes the limit away."""
    amount = number(entry, "rate", f"blockIO.{what}")
    if amount is None or amount < 0:
        raise InvalidInput(f"limit blockIO.{what}: {entry!r} has no rate")
    return amount


def page_size(entry: Resources) -> str:
    """The `pageSize` of a huge page limit, as it is in the files' names: 64KB, 2MB, 1GB."""
    size = str(entry.get("pageSize") or "")
    if not (size[:-2].isascii() and size[:-2].isdigit() and size[-2:] in PAGE_UNITS):
        raise InvalidInput(
            f"limit hugepageLimits: {size!r} is no page size", remedy="it is written as 64KB, 2MB, 1GB"
        )
    return size


TABLE: dict[str, Callable[[Any], list[Setting]]] = {
    "blkio": blkio,
    "hugetlb": hugetlb,
    "net_cls": net_cls,
    "net_prio": net_prio,
    "rdma": rdma,
}
