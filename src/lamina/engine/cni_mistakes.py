"""What plugins of CNI find wrong that is not: their own known mistakes, which nobody can mend but who makes them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_FAMILIES = {"ipv4": ".", "ipv6": ":"}  # and what is in an address of it


def is_mistaken(plugin: Mapping[str, Any], result: Mapping[str, Any], message: str) -> bool:
    """Whether the complaint of a plugin, by CHECK, is about what it has never made.

    portmap 1.1, which Debian 12 has, looks for its rules of each container in both iptables and ip6tables, also where
    the container has addresses of one family alone, and no rules were made of the other. (Later ones do not.)
    """
    if plugin.get("type") != "portmap":
        return False
    addresses = [str(one.get("address") or "") for one in result.get("ips") or () if isinstance(one, dict)]
    return any(
        f"could not check {family} dnat" in message and not any(mark in address for address in addresses)
        for family, mark in _FAMILIES.items()
    )
