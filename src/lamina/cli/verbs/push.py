"""`lamina push`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.options import TLS_VERIFY

VERB = Verb(
    name="push",
    options=(
        TLS_VERIFY,
        Option("quiet", "q", help="Print the digest alone"),
    ),
    arguments=(Argument("name", "NAME[:TAG]", complete="image"),),
    details="The name says where to. Layers that are there already are not sent again.",
    examples="lamina tag tool registry.example:5000/team/tool:1\nlamina push registry.example:5000/team/tool:1",
)


def do(args: Arguments) -> int:
    """Push."""
    from lamina.cli import output
    from lamina.cli.ending import CleanEnd
    from lamina.cli.transfers import Transfer
    from lamina.engine import Engine

    engine = Engine(args.root)
    with CleanEnd("push", engine), Transfer(quiet=args.quiet, stream=1, verb="Push") as transfer:
        digest = engine.push(args.name, tls_verify=args.tls_verify != "false", on_event=transfer.event)
    output.line(digest if args.quiet else f"digest: {digest}")
    return 0
