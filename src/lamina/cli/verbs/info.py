"""`lamina info`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Verb
from lamina.cli.options import OUTPUT

VERB = Verb(
    name="info",
    options=(OUTPUT,),
    details="Every question Lamina asks about the host, with the answer: since which kernel, or why not.",
    examples="lamina info --format json | jq '.host.overlay'",
)


def do(args: Arguments) -> int:
    """Show the probe's answers."""
    from lamina.cli import output
    from lamina.cli.verbs.version import versions
    from lamina.engine.info import facts, store_path

    found = facts()
    if args.format == "json":
        host: dict[str, dict[str, object]] = {}
        for fact in found:
            answer = {"question": fact.question, "supported": fact.good, "answer": fact.answer}
            host.setdefault(fact.area, {})[fact.name] = answer
        output.json_document({"versions": versions(), "store": store_path(args.root), "host": host})
        return 0
    from lamina.cli.answers import show

    show(versions(), store_path(args.root), found)
    return 0
