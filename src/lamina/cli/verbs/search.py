"""`lamina search`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb

VERB = Verb(
    name="search",
    arguments=(Argument("term", "TERM"),),
    details="Registries have no common way to be searched; most hosts have a web page for it.",
)


def do(args: Arguments) -> int:
    """Say that it cannot be done, and what can."""
    from lamina.errors import Unsupported

    raise Unsupported(
        f"search {args.term}: registries have no common way to be searched",
        remedy="search on the registry's web page; 'lamina pull NAME' fetches by name",
    )
