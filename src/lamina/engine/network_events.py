"""What events say of a container's networks, in docker's words: it is connected when it starts, and disconnected when
it ends, whatever it is connected to or disconnected from in between (`connecting`).
"""

from __future__ import annotations

from lamina.errors import LaminaError
from lamina.store import networks
from lamina.store.events import event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from lamina.network.model import Attachment
    from lamina.store.containers import Home
    from lamina.store.events import Event
    from lamina.store.networks import NetworkRecord

CONNECT, DISCONNECT = "connect", "disconnect"


def joined(home: Home, action: str, network: NetworkRecord) -> Event:
    """That the container was connected to *network*, or disconnected from it."""
    said = {"name": network.name, "type": network.driver, "container": home.id}
    return event("network", action, network.id, said)


def connected(home: Home, attachments: Iterable[Attachment]) -> list[Event]:
    """That the container has these places. Networks that somebody else makes are none of the store's. Never raises."""
    return _each(home, CONNECT, attachments)


def disconnected(home: Home) -> list[Event]:
    """That the container loses the places that it has, for who is about to give them back. Never raises."""
    if not home.has("network"):
        return []
    from lamina.engine.network_record import attachments_in

    try:
        return _each(home, DISCONNECT, attachments_in(home))
    except (OSError, LaminaError):
        return []


def _each(home: Home, action: str, attachments: Iterable[Attachment]) -> list[Event]:
    found = []
    for one in attachments:
        if one.network.maker:
            continue
        try:
            record = networks.find(home.store, one.network.name)
        except (OSError, LaminaError):
            continue
        if record is not None:
            found.append(joined(home, action, record))
    return found
