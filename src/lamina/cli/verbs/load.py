"""`lamina load`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.options.layers import LAYER_LIMIT

VERB = Verb(
    name="load",
    options=(
        Option("input", "i", "FILE", "Read this file, or OCI layout directory, instead of standard input",
               complete="file"),
        Option("platform", "", "OS/ARCH", "Of an image for several kinds of machine, this one"),
        LAYER_LIMIT,
        Option("quiet", "q", help="Say nothing about progress"),
    ),
    arguments=(Argument("file", "FILE", "?", complete="file"),),
    details="""
Takes what 'docker save', 'podman save' and 'lamina save' write, old forms and new ones, OCI layouts as archives or as
directories; compressed with gzip, zstd, bzip2 or xz, or not at all.
""",
    examples="lamina load -i images.tar\ncurl -s https://example.org/image.tar.gz | lamina load",
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def do(args: Arguments) -> int:
    """Load every image of the archive."""
    import os

    from lamina.cli import output
    from lamina.cli.ending import CleanEnd
    from lamina.cli.options.layers import layer_limits
    from lamina.cli.transfers import Transfer
    from lamina.engine import Engine
    from lamina.errors import InvalidInput

    source = args.input or args.file
    if source is None and os.isatty(0):
        raise InvalidInput("load: standard input is a terminal", remedy="name a file with -i, or pipe one in")
    engine = Engine(args.root, store_limit=args.store_limit)
    names: dict[str, list[str]] = {}
    with CleanEnd("load", engine), Transfer(quiet=args.quiet, verb="Load") as transfer:

        def told(kind: str, **facts: Any) -> None:
            if kind == "loaded":
                names.setdefault(facts["image"], []).append(facts["reference"])
            else:
                transfer.event(kind, **facts)

        loaded = engine.load(
            0 if source is None else source,
            platform=args.platform,
            limits=layer_limits(args.layer_limit),
            on_event=told,
        )
    for image in loaded:
        for name in names.get(image.id, ()):
            output.line(f"Loaded image: {name}")
        if image.id not in names:
            output.line(f"Loaded image ID: sha256:{image.id}")
    return 0
