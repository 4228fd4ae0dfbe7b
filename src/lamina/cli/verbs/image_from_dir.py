"""`lamina image from-dir`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb
from lamina.cli.options.layers import CHANGE, LAYER_LIMIT
from lamina.cli.verbs.import_ import MESSAGE, PLATFORM

VERB = Verb(
    name="image from-dir",
    options=(CHANGE, MESSAGE, PLATFORM, LAYER_LIMIT),
    arguments=(Argument("directory", "DIRECTORY", complete="directory"), Argument("name", "NAME[:TAG]", "?")),
    details="Makes an image of one layer from a directory that holds a root file system. It is copied.",
    examples="lamina image from-dir ./rootfs tool:1 -c 'ENTRYPOINT [\"/tool\"]'",
)


def do(args: Arguments) -> int:
    """Make the image, and print its id."""
    from lamina.cli import output
    from lamina.cli.ending import CleanEnd
    from lamina.cli.options.layers import layer_limits
    from lamina.engine import Engine

    engine = Engine(args.root, store_limit=args.store_limit)
    with CleanEnd("image from-dir", engine):
        image = engine.from_directory(
            args.directory,
            args.name,
            changes=args.change,
            message=args.message or "",
            platform=args.platform,
            limits=layer_limits(args.layer_limit),
        )
    output.line(f"sha256:{image.id}")
    return 0
