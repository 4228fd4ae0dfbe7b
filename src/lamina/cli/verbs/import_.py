"""`lamina import`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.options.layers import CHANGE, LAYER_LIMIT

MESSAGE = Option("message", "m", "TEXT", "What the history says of it")
PLATFORM = Option("platform", "", "OS/ARCH", "What it is for, if not this kind of machine")

VERB = Verb(
    name="import",
    options=(CHANGE, MESSAGE, PLATFORM, LAYER_LIMIT, Option("quiet", "q", help="Say nothing about progress")),
    arguments=(Argument("file", "FILE|-", complete="file"), Argument("name", "NAME[:TAG]", "?")),
    details="Makes an image of one layer from a tar archive of a root file system, compressed or not.",
    examples="""
lamina import rootfs.tar.gz tool:1 -c 'CMD ["/bin/sh"]' -c 'ENV A=1'
mmdebstrap --variant=minbase bookworm - | lamina import - debian:12
""",
)


def do(args: Arguments) -> int:
    """Import, and print the image's id."""
    from lamina.cli import output
    from lamina.cli.ending import CleanEnd
    from lamina.cli.options.layers import layer_limits
    from lamina.cli.quoting import quote
    from lamina.cli.transfers import Transfer
    from lamina.cli.usage import UsageError
    from lamina.engine import Engine

    if args.file.partition("://")[0] in ("http", "https"):
        raise UsageError(
            f"import {args.file}: nothing is fetched here",
            remedy=f"curl -fsSL {quote(args.file)} | lamina import - NAME",
        )
    engine = Engine(args.root, store_limit=args.store_limit)
    with CleanEnd("import", engine), Transfer(quiet=args.quiet, verb="Import") as transfer:
        image = engine.import_(
            0 if args.file == "-" else args.file, args.name, changes=args.change, message=args.message or "",
            platform=args.platform, limits=layer_limits(args.layer_limit), on_event=transfer.event,
        )  # fmt: skip
    output.line(f"sha256:{image.id}")
    return 0
