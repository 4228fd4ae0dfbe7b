"""`lamina network connect`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb

VERB = Verb(
    name="network connect",
    options=(
        Option("ip", "", "ADDRESS", "Its IPv4 address there"),
        Option("ip6", "", "ADDRESS", "Its IPv6 address there"),
        Option("mac-address", "", "ADDRESS", "The link-layer address of its device there"),
        Option("alias", "", "NAME", "A further name of it there", multiple=True),
    ),
    arguments=(
        Argument("network", "NETWORK", complete="network"),
        Argument("container", "CONTAINER", complete="container"),
    ),
    details="""
At once where it runs: it gets another device (eth1, eth2, ...), without a restart; and whenever it is started again.
""",
    examples="""
lamina network connect back web
lamina network connect --alias db --ip 10.79.0.5 back postgres
""",
)


def do(args: Arguments) -> int:
    """Connect it."""
    from lamina.engine import Engine

    Engine(args.root).networks.get(args.network).connect(
        args.container, ip=args.ip, ip6=args.ip6, mac_address=args.mac_address, aliases=args.alias
    )
    return 0
