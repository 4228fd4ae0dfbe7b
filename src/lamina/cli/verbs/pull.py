"""`lamina pull`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb

VERB = Verb(
    name="pull",
    options=(
        Option("platform", "", "OS/ARCH", "The image for another kind of machine: linux/arm64"),
        Option("quiet", "q", help="Print the name alone"),
    ),
    arguments=(Argument("name", "NAME[:TAG|@DIGEST]"),),
    details="""
Names are read as docker reads them: without a registry it is docker.io, without a tag it is latest. Layers that are
here already are not fetched again, downloads that broke off are resumed.
""",
    examples="lamina pull debian:12\nlamina pull --platform linux/arm64 registry.example:5000/team/tool",
)


def do(args: Arguments) -> int:
    """Pull and unpack."""
    from lamina.cli import output
    from lamina.cli.transfers import Transfer
    from lamina.engine import Engine

    with Transfer(quiet=args.quiet, stream=1) as transfer:
        name = Engine(args.root, store_limit=args.store_limit).pull(
            args.name, platform=args.platform, on_event=transfer.event
        )
    output.line(name)
    return 0
