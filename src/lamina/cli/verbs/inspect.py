"""`lamina inspect`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb


def _format(text: str) -> str:
    from lamina.cli.template import check

    return check(text)


VERB = Verb(
    name="inspect",
    options=(
        Option("format", "f", "FORMAT", "json or '{{.State.Status}}'", convert=_format, default="json"),
    ),
    arguments=(Argument("names", "NAME", "+", complete="container"),),
    examples="lamina inspect brave_otter\nlamina inspect -f '{{.State.ExitCode}}' brave_otter",
)


def do(args: Arguments) -> int:
    """Print a JSON list with a document for each container, or a line for each by template."""
    from lamina.cli import output
    from lamina.cli.each import each
    from lamina.engine import Engine

    engine = Engine(args.root)
    found: list[dict[str, object]] = []
    status = each(args.names, lambda name: found.append(engine.container(name).inspect()))
    if args.format in ("json", "table"):
        output.json_document(found)
    else:
        output.templated(args.format, found)
    return status
