"""`lamina save`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb

FORMS = ("docker-archive", "oci-archive", "oci-dir")

VERB = Verb(
    name="save",
    options=(
        Option("output", "o", "FILE", "Write to this file (oci-dir: a directory) instead of standard output",
               complete="file"),
        Option("format", "", "FORM", "docker-archive (default; an OCI layout as well), oci-archive, oci-dir",
               choices=FORMS, default=FORMS[0]),
        Option("quiet", "q", help="Say nothing about progress"),
    ),
    arguments=(Argument("names", "IMAGE", "+", complete="image"),),
    details="One archive may hold several images; layers that they share are in it once.",
    examples="lamina save -o images.tar debian:12 tool:1\nlamina save debian:12 | zstd >debian.tar.zst",
)  # fmt: skip


def do(args: Arguments) -> int:
    """Write the archive; a file appears when it is whole."""
    import os

    from lamina.cli.ending import CleanEnd
    from lamina.cli.transfers import Transfer
    from lamina.engine import Engine
    from lamina.errors import InvalidInput

    if args.output is None and (os.isatty(1) or args.format == "oci-dir"):
        what = "a directory has to be named" if args.format == "oci-dir" else "standard output is a terminal"
        raise InvalidInput(f"save: {what}", remedy="name it with -o, or pipe the archive somewhere")
    engine = Engine(args.root)
    with CleanEnd("save", engine), Transfer(quiet=args.quiet, verb="Save") as transfer:
        engine.save(
            args.names, 1 if args.output is None else args.output, form=args.format, on_event=transfer.event
        )
    return 0
