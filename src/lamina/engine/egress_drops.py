"""What was dropped of what containers with an egress policy sent: read from counts of the rules, and told as events."""

from __future__ import annotations

from lamina.network import egress, firewall
from lamina.network.model import PROTOCOLS
from lamina.network.subnet import text_of
from lamina.store.events import event, note

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from lamina.linux.nftables import Element
    from lamina.network.model import Attachment
    from lamina.store.events import Event
    from lamina.store.root import Store

ACTION = "egress-drop"
MOST = 64  # events at once, of all containers; what is beyond is one for each that says how much
_NAMES = {number: name for name, number in PROTOCOLS.items()} | {1: "icmp", 58: "ipv6-icmp"}


def tell(store: Store, table: str, owners: Mapping[bytes, tuple[str, str]]) -> None:
    """Write events of what was counted since the last time for the sources in *owners*: each the (id, name) of the
    container that has the address. Raises KernelError.
    """
    counted: dict[tuple[str, str], list[Element]] = {}
    for element in firewall.take_counted(table, lambda element: egress.where(element)[0] in owners):
        counted.setdefault(owners[egress.where(element)[0]], []).append(element)
    share = max(MOST // max(len(counted), 1), 1)
    events = [one for owner, own in counted.items() for one in _events(owner, own, share)]
    if events:
        note(store, *events)


def _events(owner: tuple[str, str], counted: list[Element], most: int) -> list[Event]:
    """Of one container: of the destinations that had most, and one of all others together."""
    counted.sort(key=lambda element: -element.packets)
    events = [_event(owner, one.packets, *egress.where(one)[1:]) for one in counted[:most]]
    if rest := sum(one.packets for one in counted[most:]):
        events.append(_event(owner, rest))
    return events


def _event(
    owner: tuple[str, str], packets: int, target: bytes = b"", protocol: int = 0, port: int = 0
) -> Event:
    identity, name = owner
    said = {
        "name": name,
        "destination": text_of(target) if target else "others",
        "protocol": _NAMES.get(protocol, str(protocol)) if target else None,
        "port": port or None,
        "packets": packets,
    }
    return event("container", ACTION, identity, said)


def conclude(store: Store, attachment: Attachment, table: str) -> None:
    """Tell what is left to tell of this place, and forget what a name server said that it may reach: somebody else gets
    its addresses. Raises KernelError, Unsupported.
    """
    owner = (attachment.owner, attachment.title)
    tell(store, table, {one: owner for own in egress.sources_of(attachment).values() for one in own})
    short = attachment.owner[:12]
    firewall.left_over(table, lambda other: other != short, egress.TOLD)
