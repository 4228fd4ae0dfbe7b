"""`lamina pull`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.options import TLS_VERIFY
from lamina.cli.options.layers import LAYER_LIMIT

VERB = Verb(
    name="pull",
    options=(
        Option("platform", "", "OS/ARCH", "The image for another kind of machine: linux/arm64"),
        Option("all-tags", "a", help="Every tag of the repository"),
        Option("keep-blobs", help="Keep the compressed layers as well: a push is then exact, to the byte"),
        TLS_VERIFY,
        LAYER_LIMIT,
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
    from lamina.cli.ending import CleanEnd
    from lamina.cli.options.layers import layer_limits
    from lamina.cli.transfers import Transfer
    from lamina.engine import Engine

    engine = Engine(args.root, store_limit=args.store_limit)
    with CleanEnd("pull", engine), Transfer(quiet=args.quiet, stream=1) as transfer:
        words = {
            "platform": args.platform,
            "keep_blobs": args.keep_blobs,
            "tls_verify": args.tls_verify != "false",
            "limits": layer_limits(args.layer_limit),
            "on_event": transfer.event,
        }
        names = engine.pull_all(args.name, **words) if args.all_tags else [engine.pull(args.name, **words)]
    for name in names:
        output.line(name)
    return 0
