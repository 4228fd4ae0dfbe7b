"""`lamina network disconnect`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb

VERB = Verb(
    name="network disconnect",
    options=(
        Option("force", "f", help="Also where its ports are published; one that is not in it is no error"),
    ),
    arguments=(
        Argument("network", "NETWORK", complete="network"),
        Argument("container", "CONTAINER", complete="container"),
    ),
    details="""
At once where it runs, with all its connections there; and whenever it is started again. In a network in which its ports
are published a container that runs stays, unless --force takes it out: they are published in another of its networks
then, or in the next one that it is connected to.
""",
    examples="lamina network disconnect back web",
)


def do(args: Arguments) -> int:
    """Disconnect it."""
    from lamina.engine import Engine
    from lamina.errors import Conflict

    network = Engine(args.root).networks.get(args.network)
    try:
        network.disconnect(args.container, force=args.force)
    except Conflict as error:
        if not args.force or "is not in network" not in error.message:
            raise
    return 0
