"""What of the kernel's settings networks need, per network namespace: Documentation/networking/ip-sysctl.rst.

Set where it is needed, when it is needed, and never set back where it is the host's as well: somebody else may have
come to need it.
"""

from __future__ import annotations

import os
from errno import EACCES, ENOENT, EROFS

from lamina.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from lamina.network.model import Network

NET = "/proc/sys/net"
FORWARDING = {4: "ipv4/ip_forward", 16: "ipv6/conf/all/forwarding"}
# of a bridge: a container is no router and tells this host no routes; nor need this host tell it
_OF_A_BRIDGE = (
    ("ipv4/conf/{}/accept_redirects", "0"),
    ("ipv4/conf/{}/secure_redirects", "0"),
    ("ipv4/conf/{}/send_redirects", "0"),
    ("ipv4/conf/{}/accept_source_route", "0"),
)
_OF_IPV6 = (
    ("ipv6/conf/{}/accept_ra", "0"),
    ("ipv6/conf/{}/accept_redirects", "0"),
    ("ipv6/conf/{}/autoconf", "0"),
    # nobody else can have its addresses (the rules see to that): they can be used at once
    ("ipv6/conf/{}/accept_dad", "0"),
)


def forward(families: Iterable[int]) -> list[str]:
    """Let this host forward packets of the families (the lengths of their addresses); what had to be changed for it.

    Raises KernelError, with the remedy.
    """
    changed = []
    for family in families:
        name = FORWARDING[family]
        if read(name) == "1":
            continue
        if family == 16:
            changed += _keep_router_advertisements()
        write(name, "1")
        changed.append(name)
    return changed


def _keep_router_advertisements() -> list[str]:
    """A host that forwards IPv6 no longer listens to routers, unless its `accept_ra` is 2. Where it did, it goes on."""
    changed = []
    for link in sorted(os.listdir(f"{NET}/ipv6/conf")):
        name = f"ipv6/conf/{link}/accept_ra"
        if (
            link not in ("all", "default", "lo")
            and read(name) == "1"
            and read(f"ipv6/conf/{link}/forwarding") == "0"
        ):
            write(name, "2")
            changed.append(name)
    return changed


def settle_bridge(network: Network) -> None:
    """The settings of the network's new bridge. Raises KernelError."""
    for name, wanted in _OF_A_BRIDGE:
        write(name.format(network.bridge), wanted)
    if any(subnet.bits == 128 for subnet in network.subnets):
        for name, wanted in _OF_IPV6:
            write(name.format(network.bridge), wanted)
    elif os.path.exists(f"{NET}/ipv6/conf/{network.bridge}"):
        write(f"ipv6/conf/{network.bridge}/disable_ipv6", "1")


def has_ipv6() -> bool:
    """Whether this host's kernel has IPv6, and it is not switched off as a whole."""
    return os.path.exists(f"{NET}/ipv6/conf/all") and read("ipv6/conf/all/disable_ipv6") != "1"


def route_loopback(network: Network) -> None:
    """Let answers to this host's 127.0.0.0/8 come in by the bridge, for ports that are published to the loopback.

    The rules (`rules`, chain "first") must stand before: they keep everybody else's packets to it out. Raises
    KernelError.
    """
    name = f"ipv4/conf/{network.bridge}/route_localnet"
    if read(name) != "1":
        write(name, "1")


def read(name: str) -> str:
    """The setting, "" where there is none."""
    try:
        with open(f"{NET}/{name}", "rb", buffering=0) as file:
            return file.read(64).decode().strip()
    except OSError:
        return ""


def write(name: str, wanted: str) -> None:
    """Raises KernelError, with the remedy."""
    try:
        descriptor = os.open(f"{NET}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, wanted.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        setting = "net." + name.replace("/", ".")
        remedy = ""
        if error.errno in (EROFS, EACCES):
            remedy = f"set it on this host: sysctl -w {setting}={wanted}"
        elif error.errno == ENOENT:
            remedy = "this kernel does not have it"
        raise KernelError("set", error.errno or 0, setting, remedy=remedy) from error
