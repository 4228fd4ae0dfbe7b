"""`lamina push`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.options import TLS_VERIFY

VERB = Verb(
    name="push",
    options=(
        Option("all-tags", "a", help="Every tag of the repository that is here"),
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
        words = {"tls_verify": args.tls_verify != "false", "on_event": transfer.event}
        pushed = (
            engine.push_all(args.name, **words) if args.all_tags else [("", engine.push(args.name, **words))]
        )
    for name, digest in pushed:
        said = f"{name}: digest: {digest}" if name else f"digest: {digest}"
        output.line(digest if args.quiet else said)
    return 0
