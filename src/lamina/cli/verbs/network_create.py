"""`lamina network create`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.convert import pair

VERB = Verb(
    name="network create",
    options=(
        Option("subnet", "", "SUBNET", "Such as 10.1.0.0/24; one of IPv6 besides", multiple=True),
        Option("gateway", "", "ADDRESS", "This host's address in it (default: the first one)", multiple=True),
        Option(
            "ip-range", "", "SUBNET", "Containers get their addresses from this part of it", multiple=True
        ),
        Option("ipv4", help="IPv4 (default; =false: with --ipv6, no other addresses)", default=True),
        Option("ipv6", help="IPv6 besides, with a subnet that is made up unless one is named"),
        Option("internal", help="It leads nowhere else"),
        Option(
            "driver",
            "d",
            "DRIVER",
            "bridge (default), or macvlan: on the wire of a link of this host",
            choices=("bridge", "macvlan"),
            default="bridge",
        ),
        Option("opt", "o", "KEY=VALUE", "mtu, bridge, masquerade, dns, parent", multiple=True, convert=pair),
        Option("label", metavar="KEY=VALUE", help="A label", multiple=True, convert=pair),
    ),
    arguments=(Argument("name", "NAME"),),
    details="""
Containers of a network reach each other, and the world under this host's address. Nobody reaches into it but by
published ports. Its bridge is made with its first container.
""",
    examples="""
lamina network create back
lamina network create --internal --subnet 10.1.0.0/24 --ipv6 inner
lamina network create --ipv4=false --ipv6 six
lamina network create -d macvlan -o parent=eth0 --subnet 192.168.1.0/24 --ip-range 192.168.1.192/27 wire
lamina run -d --network back redis
""",
)


def do(args: Arguments) -> int:
    """Make it and print its id."""
    from lamina.cli import output
    from lamina.engine import Engine

    made = Engine(args.root).networks.create(
        args.name,
        subnets=args.subnet,
        gateways=args.gateway,
        ranges=args.ip_range,
        ipv4=args.ipv4,
        ipv6=args.ipv6,
        internal=args.internal,
        labels=dict(args.label),
        options=dict(args.opt),
        driver=args.driver,
    )
    output.line(made.id)
    return 0
