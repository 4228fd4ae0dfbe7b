"""What people are told of a container's networks: `port`, `inspect`."""

from __future__ import annotations

from lamina.engine.network_record import attachments_in
from lamina.errors import LaminaError
from lamina.network.subnet import text_of
from lamina.store import networks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from lamina.network.model import Attachment, Published
    from lamina.store.containers import Home

# of a network that it will be in
_NOWHERE: dict[str, Any] = {
    "IPAddress": "",
    "IPPrefixLen": 0,
    "Gateway": "",
    "GlobalIPv6Address": "",
    "GlobalIPv6PrefixLen": 0,
    "IPv6Gateway": "",
    "MacAddress": "",
    "InterfaceName": "",
    "Aliases": [],
    "DNSNames": [],
    "HostInterfaceName": "",
}
# what docker has said of the default network since before there were others
_OF_THE_FIRST = (
    "Gateway", "IPAddress", "IPPrefixLen", "IPv6Gateway", "GlobalIPv6Address", "GlobalIPv6PrefixLen", "MacAddress",
)  # fmt: skip


def ports_of(home: Home) -> dict[str, list[str]]:
    """Where its ports are published now: {"80/tcp": ["0.0.0.0:8080", "[::]:8080"]}."""
    found: dict[str, list[str]] = {}
    for one in attachments_in(home):
        for port in one.published:
            places = found.setdefault(f"{port.port}/{port.protocol}", [])
            every = (f"{host}:{port.host_port}" for host in _hosts(one, port))
            places += [place for place in every if place not in places]
    return found


def _hosts(attachment: Attachment, port: Published) -> list[str]:
    if port.host:
        return [f"[{text_of(port.host)}]" if len(port.host) == 16 else text_of(port.host)]
    every = {4: "0.0.0.0", 16: "[::]"}
    return [every[len(address)] for address in attachment.addresses]


def settings_of(home: Home, names: Sequence[str]) -> dict[str, Any]:
    """What `inspect` says of its networks in docker's words: where it is now, and *names* without an address."""
    found = attachments_in(home)
    now = {one.network.name: {**_endpoint(one), **_maker(home, one)} for one in found}
    first = found[0] if found else None
    facts = _NOWHERE if first is None else _endpoint(first)
    return {
        "Ports": {
            inside: [
                {"HostIp": host.strip("[]"), "HostPort": port}
                for host, _, port in (place.rpartition(":") for place in places)
            ]
            for inside, places in ports_of(home).items()
        },
        **{key: facts[key] for key in _OF_THE_FIRST},
        "Networks": {
            name: {"NetworkID": _identity(home, name), **(now.get(name) or _NOWHERE)}
            for name in dict.fromkeys([*now, *names])
        },
    }


def _identity(home: Home, name: str) -> str:
    if name in networks.RESERVED or ":" in name:
        return ""
    try:
        record = networks.find(home.store, name)
    except LaminaError:  # damaged, which `network inspect` says
        return ""
    return "" if record is None else record.id


def _endpoint(one: Attachment) -> dict[str, Any]:
    gateways = {len(gateway): text_of(gateway) for gateway in one.network.gateways}
    prefixes = {len(subnet.base): subnet.prefix for subnet in one.network.subnets}
    return {
        "IPAddress": _first(one, 4),
        "IPPrefixLen": prefixes.get(4, 0),
        "Gateway": gateways.get(4, ""),
        "GlobalIPv6Address": _first(one, 16),
        "GlobalIPv6PrefixLen": prefixes.get(16, 0),
        "IPv6Gateway": gateways.get(16, ""),
        "MacAddress": one.mac.hex(":"),
        "InterfaceName": one.device,
        "Aliases": list(one.aliases),
        "DNSNames": list(one.names),
        "HostInterfaceName": "" if one.network.maker else one.port,
    }


def _maker(home: Home, one: Attachment) -> dict[str, Any]:
    """Of one that somebody else makes: who, and the helper that it has as long as it runs."""
    if not one.network.maker:
        return {}
    from lamina.engine.usermode import helper_of

    helper = helper_of(home)
    return {
        "Maker": one.network.maker,
        "MakerOptions": list(one.network.words),
        "MakerPid": 0 if helper is None else int(helper["pid"]),
    }


def _first(one: Attachment | None, length: int) -> str:
    if one is None:
        return ""
    return next((text_of(address) for address in one.addresses if len(address) == length), "")
