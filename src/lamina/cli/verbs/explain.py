"""`lamina explain`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.options import OUTPUT
from lamina.cli.options.changes import STATE

VERB = Verb(
    name="explain",
    options=(
        OUTPUT,
        Option("html", "", "FILE", "Draw it on a page by itself (-: standard output)", complete="file"),
        Option("svg", "", "FILE", "Draw it, as a picture (-: standard output)", complete="file"),
        Option("no-sum", "", help="Of a directory only what it is itself, without looking at what is in it"),
        Option("no-trunc", "", help="Commands in full"),
    ),
    arguments=(STATE, Argument("path", "PATH")),
    details="""
Every layer's answer for PATH in a container, a snapshot (CONTAINER@SNAPSHOT) or an image, the top one first: what it
has there, what that hides, which step or instruction of a Dockerfile made the layer, and when; and how many bytes the
first write would copy. Of a directory, also what each layer has in it. PATH is taken from the root of the state.""",
    examples="""
lamina explain brave_otter /etc/hosts
lamina explain brave_otter@step-16 /usr/lib
lamina explain --html usr.html debian:12 /usr
""",
)  # fmt: skip


def do(args: Arguments) -> int:
    """Show each layer's answer from top to bottom, which wins, and which step made it."""
    from lamina.cli import output
    from lamina.cli.usage import only_one
    from lamina.engine import Engine
    from lamina.engine.state_names import find_anything

    drawn = [f"--{name}" for name in ("html", "svg") if getattr(args, name) is not None]
    only_one(VERB, [*drawn, *(["--format json"] if args.format == "json" else [])])
    found = find_anything(Engine(args.root).store, args.name).explain(args.path, add_up=not args.no_sum)
    if drawn:
        from lamina.cli.drawn import write

        file, text = (args.html, found.html) if args.html is not None else (args.svg, found.svg)
        write(file, text())
    elif args.format == "json":
        output.json_document(found.as_dict())
    else:
        from lamina.cli.explaining import show_provenance

        show_provenance(found, whole=args.no_trunc)
    return 0
