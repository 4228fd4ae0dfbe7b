"""Which network a container has for which none is named.

Where nothing is set either ($LAMINA_NETWORK, `Engine(network=)`) root's containers of images are in `bridge`, as with
docker, those of others have one by pasta or slirp4netns, as with podman. Nobody has asked for that. So where this host
cannot have it (no nf_tables, no right to make links, no such program) a container has none, with a warning: that is
less than what is usual, never more.
"""

from __future__ import annotations

import os
from errno import EACCES, EAFNOSUPPORT, ENOENT, EOPNOTSUPP, EPERM, EROFS

from lamina.errors import KernelError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from lamina.store.root import Store

NONE, BRIDGE, PASTA = "none", "bridge", "pasta"
# what is asked of a link of the container's own: then such a link is asked for as well
LINKED = ("publish", "publish_all", "ip", "ip6", "mac_address", "network_aliases", "egress")
# what a kernel says that has no bridges, or has them but not for this process
_CANNOT = (EPERM, EACCES, EROFS, EOPNOTSUPP, EAFNOSUPPORT, ENOENT)


def default_network(
    store: Callable[[], Store], asked: Mapping[str, Any], *, trying: bool = True
) -> tuple[str, str]:
    """(the network, a warning or "") of a container over an image, where *asked* names none and none is set.
    *trying*: the link and the rules of the bridge are made where they are not there; nothing else tells that they can.

    Raises Conflict, KernelError where this host can have the bridge, and something is wrong with it.
    """
    linked = any(asked.get(key) for key in LINKED)
    if linked and not os.geteuid():
        return BRIDGE, ""
    network, why = usual(store if trying else None)
    if os.geteuid() and not why:
        from lamina.engine.usermode import why_not_beside

        why = why_not_beside(str(asked.get("pid") or ""))
        network = NONE if why else network
    if not why:
        return network, ""
    if linked:
        return PASTA, ""  # whose error says what is missing
    said = f"no network but the loopback device: {why}"
    return network, f"{said} (--network none asks for that, as LAMINA_NETWORK=none does)"


def usual(store: Callable[[], Store] | None = None) -> tuple[str, str]:
    """(the network that is usual for this user, why it is not the one that it would be elsewhere). In a *store* that is
    tried; without one it is what can be told without. Raises as `default_network`.
    """
    if os.geteuid():
        from lamina.engine import usermode

        return usermode.usual()
    why = _why_no_bridge(store)
    return (NONE, why) if why else (BRIDGE, "")


def _why_no_bridge(store: Callable[[], Store] | None) -> str:
    from lamina.engine.networks import default_bridge, is_there
    from lamina.network.firewall import stands

    if store is not None and is_there(default_bridge(store())):
        return ""
    try:
        stands(
            "lamina"
        )  # before anything is made: no nf_tables, or no right to change them, is the usual reason
        if store is not None:
            _try(store())
    except Unsupported as error:
        return error.message
    except KernelError as error:
        if error.errno not in _CANNOT:
            raise
        return str(error.message)
    return ""


def _try(store: Store) -> None:
    from lamina.engine.networks import network_of
    from lamina.engine.plugging import bridge_for, explained
    from lamina.engine.taken_bridges import network_for
    from lamina.network import links
    from lamina.store import networks
    from lamina.store.lock import LOCK_EX, turn

    record = None
    while record is None:
        network_for(store, networks.DEFAULT)
        # nobody removes it meanwhile
        with turn(store.networks, LOCK_EX), explained(), links.opened() as channel:
            record = networks.find(store, networks.DEFAULT)
            if record is None:
                continue
            network = network_of(store, record)
            try:
                bridge_for(store, channel, network, [])
            except (KernelError, Unsupported):
                links.remove_bridge(channel, network)
                raise
