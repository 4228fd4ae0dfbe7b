"""Bridges, and the links of containers: made by a few messages, found again by their names.

A network's bridge is made when it is first needed, and is up only when everything of it is there: so who finds it up
need not look further, and whoever finds it down goes on where somebody was killed. A container's link is one message:
both ends, each where it belongs. It is never removed: it goes with the container's network namespace (a removal by
message takes 15 ms, the kernel's own goes on beside us).
"""

from __future__ import annotations

import os
from errno import EEXIST, ENODEV
from time import sleep

from lamina.errors import Conflict, KernelError
from lamina.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    open_channel,
    request,
    requests,
)
from lamina.linux.rtnetlink import (
    NUD_STALE,
    RTM_DELLINK,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    address,
    bridge,
    bridge_port,
    forwarding_entry,
    link,
    links,
    macvlan,
    namespace_number,
    neighbour,
    route,
    routes,
    veth,
)
from lamina.network import forwarding
from lamina.network.model import PORTS_OF_OTHERS, PORTS_OF_SYSTEM, mac_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import Any

    from lamina.linux.netlink import Channel
    from lamina.linux.rtnetlink import Link
    from lamina.network.model import Attachment, Network

IFF_UP, IFF_RUNNING = 0x1, 0x40
_NEW = NLM_F_CREATE | NLM_F_EXCL
_TRIES, _PAUSE = 40, 0.025  # until the link of a container that has just ended is gone
_LOOKS, _BETWEEN = 25, 0.002


def opened() -> Channel:
    """A route netlink socket of this network namespace. Raises KernelError."""
    return open_channel()


def around(inside: int) -> Channel:
    """A socket that is another's descriptor, which stays theirs. Raises KernelError."""
    return open_channel(fd=os.dup(inside))


def find(channel: Any, name: str) -> Link | None:
    """The link of that name, None where there is none. Raises KernelError."""
    try:
        return links(channel, name=name)[0]
    except KernelError as error:
        if error.errno != ENODEV:
            raise
        return None


def ensure_bridge(channel: Any, network: Network, settled: Callable[[], None]) -> int:
    """The number of the network's bridge, which is made if it is not there, with its addresses and settings. *settled*
    is called before it comes up: then its rules must stand.

    Raises Conflict when a link of somebody else has its name; KernelError.
    """
    found = find(channel, network.bridge)
    if found is not None and is_of(found, network):
        if found.address != _bridge_mac(network) and _is_idle(channel, found):
            remove(channel, found)  # of a network of that name that went with its store's directory
            found = None
        elif found.flags & IFF_UP:
            return found.index
    if found is None:
        try:
            body = link(name=network.bridge, mtu=network.mtu, address=_bridge_mac(network), more=bridge())
            request(channel, RTM_NEWLINK, body, _NEW, target=f"make bridge {network.bridge}")
        except KernelError as error:
            if error.errno != EEXIST:  # somebody else makes it as well
                raise
        found = links(channel, name=network.bridge)[0]
    if not is_of(found, network):
        raise Conflict(
            f"make the bridge of network {network.name}: there is a link {network.bridge} that is not it"
            + (f", but that of {found.alias}" if found.alias else ""),
            remedy="rename that link; or make the network anew, with -o bridge=NAME",
        )
    # apart: the kernel takes an alias only for a link that is there
    request(channel, RTM_NEWLINK, link(found.index, alias=network.note), target=network.bridge)
    forwarding.settle_bridge(network)
    for gateway, subnet in zip(network.gateways, network.subnets, strict=True):
        try:
            body = address(found.index, gateway, subnet.prefix)
            request(channel, RTM_NEWADDR, body, _NEW, target=network.bridge)
        except KernelError as error:
            if error.errno != EEXIST:
                raise
    settled()
    request(channel, RTM_NEWLINK, link(found.index, up=True), target=f"bring {network.bridge} up")
    return found.index


def is_of(found: Link, network: Network) -> bool:
    """Whether the link is the network's bridge. One whose maker was killed before it said so has the address."""
    if found.kind != "bridge":
        return False
    if not found.alias:
        return found.address == _bridge_mac(network)
    return found.alias in (network.note, f"{network.table} network {network.name}")


def _is_idle(channel: Any, bridge: Link) -> bool:
    return all(one.master != bridge.index for one in links(channel))


def _bridge_mac(network: Network) -> bytes:
    """Of its own, made of its first address: else it would change with the containers that come and go."""
    return mac_of(network.gateways[0])


def remove_bridge(channel: Any, network: Network) -> None:
    """Remove it, if it is there and its own. Raises KernelError."""
    found = find(channel, network.bridge)
    if found is not None and is_of(found, network):
        remove(channel, found)


def remove(channel: Any, found: Link) -> None:
    """Remove a link, with its other end; one that has just gone is gone. Raises KernelError."""
    try:
        request(channel, RTM_DELLINK, link(found.index), target=f"remove link {found.name}")
    except KernelError as error:
        if error.errno != ENODEV:
            raise


def plug(
    outside: Any,
    inside: Any,
    pid: int,
    attachments: Sequence[Attachment],
    bridges: Sequence[int],
    *,
    namespace: int = -1,
    leading: Collection[int] = (),
) -> None:
    """Make the links of the process *pid*, or of the network *namespace*, a descriptor: with their addresses, and the
    first one that leads somewhere the default route of its families, of which those in *leading* (lengths of addresses)
    have one.

    *outside* and *inside* are route netlink sockets here and there, *bridges* the numbers of the networks' bridges.
    Raises KernelError; what was made goes with the namespace.
    """
    messages: list[tuple[int, bytes, int, str]] = []
    led = set(leading)
    for attachment, master in zip(attachments, bridges, strict=True):
        network = attachment.network
        make = _make_on_wire if network.parent else _make_pair
        make(outside, attachment, master, pid, namespace)
        number = links(inside, name=attachment.device)[0].index
        what = f"{attachment.device} of {attachment.title}"
        # not with the pair: a veth cannot come up before it has its other end
        messages.append((RTM_NEWLINK, link(number, up=True), 0, f"bring up {what}"))
        for own, subnet in zip(attachment.addresses, network.subnets, strict=True):
            messages.append((RTM_NEWADDR, address(number, own, subnet.prefix), _NEW, f"address of {what}"))
        for gateway in () if network.internal else network.gateways:
            if len(gateway) not in led:
                led.add(len(gateway))
                messages.append((RTM_NEWROUTE, route(number, gateway), _NEW, f"route by {what}"))
    requests(inside, messages)
    for attachment, master in zip(attachments, bridges, strict=True):
        _await_running(inside, name=attachment.device)
        if attachment.network.parent:
            continue
        _settle_port(outside, attachment, _await_running(outside, name=attachment.port).index)
        _await_running(outside, index=master)


def _settle_port(channel: Any, attachment: Attachment, port: int) -> None:
    """The container is behind that port, and who has had its address before, and with that its MAC, is nowhere: also
    where the end of it is still on its way out and says its last words.
    """
    body = forwarding_entry(port, attachment.mac)
    request(channel, RTM_NEWNEIGH, body, NLM_F_CREATE | NLM_F_REPLACE, target=attachment.port)


def _await_running(channel: Any, *, index: int = 0, name: str = "") -> Link:
    """A link that has come up drops what is sent until the kernel's link watch has seen it, which is not long, but the
    first packet would be repeated after a second only. Since Linux 6.8 who asks for a link has that done at once.
    """
    for _ in range(_LOOKS):
        found = links(channel, index, name)[0]
        if found.flags & IFF_RUNNING:
            break
        sleep(_BETWEEN)
    return found


def parent_of(channel: Any, network: Network) -> int:
    """The number of the link on whose wire its containers are. Raises Conflict where it is not there, or down."""
    found = find(channel, network.parent)
    if found is None or not found.flags & IFF_UP:
        raise Conflict(
            f"connect to network {network.name}: its parent {network.parent} is {'down' if found else 'not there'}",
            remedy=f"ip link set {network.parent} up" if found else "see 'ip link'",
        )
    return found.index


def _make_on_wire(channel: Any, attachment: Attachment, parent: int, pid: int, namespace: int) -> None:
    body = link(
        name=attachment.device,
        mtu=attachment.network.mtu,
        address=attachment.mac,
        namespace_pid=pid if namespace < 0 else 0,
        namespace_fd=namespace,
        more=macvlan(parent),
    )
    what = f"make {attachment.device} of {attachment.title}"
    request(channel, RTM_NEWLINK, body, _NEW, target=f"{what} on {attachment.network.parent}")


def lead(inside: Any, attachment: Attachment, families: Collection[int]) -> None:
    """Make it the default route of *families*, the lengths of their addresses. Raises KernelError."""
    number = links(inside, name=attachment.device)[0].index
    for gateway in attachment.network.gateways:
        if len(gateway) in families:
            request(inside, RTM_NEWROUTE, route(number, gateway), _NEW, target=attachment.device)


def led_by(inside: Any) -> set[int]:
    """The families, by the lengths of their addresses, that have a default route. Raises KernelError."""
    return {len(one.gateway) for one in routes(inside) if not one.packed and one.gateway}


def _make_pair(channel: Any, attachment: Attachment, master: int, pid: int, namespace: int) -> None:
    """The link of the same container's last run may still be on its way out."""
    name, mtu = attachment.port, attachment.network.mtu
    peer = link(
        name=attachment.device,
        mtu=mtu,
        address=attachment.mac,
        namespace_pid=pid if namespace < 0 else 0,
        namespace_fd=namespace,
    )
    pair = link(name=name, mtu=mtu, master=master, more=veth(peer))
    # what the kernel takes only for a link that is there. Its own published port, by the host's address, comes back to
    # a container where br_netfilter has it rewritten before it is routed
    rest = link(
        name=name,
        up=True,
        alias=attachment.alias,
        without_ipv6_address=forwarding.has_ipv6(),
        more=_as_port(attachment),
    )
    messages = [
        (RTM_NEWLINK, pair, _NEW, f"make link {name}"),
        (RTM_NEWLINK, rest, 0, f"bring link {name} up"),
        # or this host would go on sending to whoever had the address before
        *(
            (
                RTM_NEWNEIGH,
                neighbour(master, own, attachment.mac, NUD_STALE),
                NLM_F_CREATE | NLM_F_REPLACE,
                name,
            )
            for own in attachment.addresses
        ),
    ]
    for left in range(_TRIES, -1, -1):
        try:
            requests(channel, messages)
            return
        except KernelError as error:
            if error.errno != EEXIST or not left:
                raise
        stale = find(channel, name)
        if stale is not None and not _is_end_of(stale, attachment):
            raise Conflict(
                f"make link {name} of {attachment.title}: there is one, which is somebody else's: "
                f"{stale.alias or stale.kind}",
                remedy="rename that link; or make the container anew, whose link then has another name",
            )
        if stale is not None and left == _TRIES:
            remove(channel, stale)
        else:
            sleep(_PAUSE)


def _is_end_of(found: Link, attachment: Attachment) -> bool:
    """Whether the link is one of the container's; its maker may have been killed before he said so."""
    owner = f" {attachment.owner[:12]} network "
    return found.kind == "veth" and (not found.alias or owner in found.alias)


def _as_port(attachment: Attachment) -> bytes:
    return bridge_port(hairpin=bool(attachment.published), learning=False)


def put_back(channel: Any, attachments: Sequence[Attachment], master: int) -> None:
    """Make the links of containers ports of the bridge *master* again; those that are gone stay so, and those that have
    such a name and are somebody else's as they are. Raises KernelError.
    """
    for attachment in attachments:
        found = find(channel, attachment.port)
        if found is None or not _is_end_of(found, attachment):
            continue
        try:
            body = link(name=attachment.port, up=True, master=master)
            request(channel, RTM_NEWLINK, body, target=attachment.port)
            body = link(name=attachment.port, more=_as_port(attachment))
            request(channel, RTM_NEWLINK, body, target=attachment.port)
            _settle_port(channel, attachment, links(channel, name=attachment.port)[0].index)
        except KernelError as error:
            if error.errno != ENODEV:
                raise


def every(channel: Any) -> list[Link]:
    """All of this network namespace. Raises KernelError."""
    return links(channel)


def number_of(channel: Any, namespace: int) -> int:
    """The number of the network *namespace*, a descriptor, as `Link.other_namespace` says it. Raises KernelError."""
    return namespace_number(channel, namespace)


def noted(channel: Any, beginning: str) -> list[Link]:
    """The links of which what is written to them begins so. Raises KernelError."""
    return [found for found in links(channel) if found.alias.startswith(beginning)]


def ports(channel: Any) -> list[Link]:
    """The ends on this host of the links of containers. Raises KernelError."""
    begin = PORTS_OF_SYSTEM, PORTS_OF_OTHERS
    return [found for found in links(channel) if found.name.startswith(begin) and found.kind == "veth"]
