"""linux.netDevices: moving network devices of the host into a container.

https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#network-devices, rtnetlink(7)

Permanent addresses of global scope come along, and the device is brought up. When the namespace ends, the kernel gives
a physical device back under its name; a virtual one ends with it.
"""

from __future__ import annotations

import _socket
import os

from lamina.errors import InvalidInput, KernelError, NotFound
from lamina.linux.netlink import (
    ADDRESS,
    IFA_CACHEINFO,
    IFA_F_PERMANENT,
    IFA_FLAGS,
    IFF_UP,
    IFLA_IFNAME,
    IFLA_NET_NS_PID,
    IFNAMSIZ,
    LINK,
    NLM_F_DUMP,
    RT_SCOPE_UNIVERSE,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    attribute,
    attributes,
    request,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.linux.fd import Fd

_AF_NETLINK, _NETLINK_ROUTE = 16, 0
_ENODEV = 19


def check_devices(devices: dict[str, Any]) -> None:
    """Raise InvalidInput for names that no device can have, or that two are to have."""
    names = [(device or {}).get("name") or old for old, device in devices.items()]
    for name in (*devices, *names):
        encoded = name.encode("utf-8", "surrogateescape")
        if not 0 < len(encoded) < IFNAMSIZ or name in (".", "..") or any(c in "/: \t\n\0%" for c in name):
            raise InvalidInput(f"move network device: {name!r} cannot be a device's name")
    if len(set(names)) < len(names):
        raise InvalidInput("move network devices: two of linux.netDevices are to have the same name")


def move_devices(devices: dict[str, Any], pid: int, inside: Fd) -> None:
    """Move *devices* (host's name: {"name": the container's}) to the namespace of the process *pid*, our child.

    *inside* is a route netlink socket of that namespace. Raises NotFound for a device that is not there, KernelError.
    """
    check_devices(devices)
    there = _socket.socket(_AF_NETLINK, _socket.SOCK_RAW, _NETLINK_ROUTE, os.dup(inside))
    here = _socket.socket(_AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, _NETLINK_ROUTE)
    try:
        for name, device in devices.items():
            _move(here, there, name, (device or {}).get("name") or name, pid)
    finally:
        here.close()
        there.close()


def _move(here: Any, there: Any, old: str, new: str, pid: int) -> None:
    index = _index(here, old)
    kept = _addresses(here, index)
    move = attribute(IFLA_NET_NS_PID, pid.to_bytes(4, "little")) + attribute(
        IFLA_IFNAME, _encoded(new) + b"\0"
    )
    request(here, RTM_NEWLINK, LINK.pack(0, 0, index, 0, 0) + move, target=f"move device {old} as {new}")
    moved = _index(there, new)
    for family, prefix, flags, scope, content in kept:
        body = ADDRESS.pack(family, prefix, flags, scope, moved) + content
        request(there, RTM_NEWADDR, body, target=f"keep an address of {new}")
    request(there, RTM_NEWLINK, LINK.pack(0, 0, moved, IFF_UP, IFF_UP), target=f"bring {new} up")


def _index(channel: Any, name: str) -> int:
    try:
        answers = request(
            channel, RTM_GETLINK, LINK.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, _encoded(name) + b"\0"),
            target=f"device {name}",
        )  # fmt: skip
    except KernelError as error:
        if error.errno == _ENODEV:
            raise NotFound(f"move network device {name}: there is none of that name") from error
        raise
    for kind, content in answers:
        if kind == RTM_NEWLINK:
            return int(LINK.unpack_from(content)[2])
    raise NotFound(f"move network device {name}: there is none of that name")


def _addresses(channel: Any, index: int) -> list[tuple[int, int, int, int, bytes]]:
    """The permanent addresses of global scope that a move takes away: family, prefix, flags, scope, attributes."""
    kept = []
    for kind, content in request(channel, RTM_GETADDR, ADDRESS.pack(0, 0, 0, 0, 0), NLM_F_DUMP):
        if kind != RTM_NEWADDR:
            continue
        family, prefix, flags, scope, of = ADDRESS.unpack_from(content)
        found = attributes(content[ADDRESS.size :])
        every = int.from_bytes(found.get(IFA_FLAGS, flags.to_bytes(4, "little")), "little")
        if of == index and scope == RT_SCOPE_UNIVERSE and every & IFA_F_PERMANENT:
            again = b"".join(attribute(k, v) for k, v in found.items() if k not in (IFA_CACHEINFO, IFA_FLAGS))
            kept.append((family, prefix, 0, scope, again))
    return kept


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
