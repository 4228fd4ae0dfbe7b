"""`lamina search`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.filters import filter_option, number, truth
from lamina.cli.options import TLS_VERIFY, format_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.cli.filters import Checks
    from lamina.engine.pulling import Repository


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= 100:
        raise ValueError("not a number from 1 to 100")
    return int(text)


FILTERS: Checks = {"is-official": truth, "is-automated": truth, "stars": number}
TAG_HEADINGS = {"Name": "NAME", "Tag": "TAG"}
HEADINGS = {"Name": "NAME", "Description": "DESCRIPTION", "StarCount": "STARS", "IsOfficial": "OFFICIAL"}
WIDEST = 45  # columns of a description, as docker has it

VERB = Verb(
    name="search",
    options=(
        Option("limit", "", "NUMBER", "At most so many (1 to 100)", convert=_limit, default=25),
        filter_option(FILTERS, "f"),
        format_option("{{.Name}}"),
        Option("no-trunc", help="Descriptions in full"),
        Option("list-tags", help="The tags of the repository that is named, instead"),
        TLS_VERIFY,
    ),
    arguments=(Argument("term", "[REGISTRY/]TERM"),),
    details="""
Docker Hub, unless a registry is named before the first slash. One that has no search is asked for the list of its
repositories, of which those with TERM in their name are shown; 'REGISTRY/' alone shows all. With --list-tags TERM is
the name of a repository, as of an image.
""",
    examples="""
lamina search debian --filter is-official=true
lamina search localhost:5000/ --format '{{.Name}}'
lamina search --list-tags --limit 100 debian
""",
)  # fmt: skip


def do(args: Arguments) -> int:
    """Search, and list what was found, the registry's best first."""
    from lamina.cli import output
    from lamina.cli.filters import passes
    from lamina.engine import Engine

    if args.list_tags:
        return _list_tags(args)
    found = Engine(args.root).search(args.term, limit=args.limit, tls_verify=args.tls_verify != "false")
    records = [
        record(one, full=args.no_trunc)
        for one in found
        if passes(args.filter, lambda key, value, one=one: _holds(one, key, value))  # type: ignore[misc]
    ]
    output.records(records, args.format, HEADINGS)
    return 0


def _list_tags(args: Arguments) -> int:
    from lamina.cli import output
    from lamina.cli.quoting import harmless
    from lamina.engine import Engine
    from lamina.errors import InvalidInput

    if args.filter:
        raise InvalidInput("search: --list-tags with --filter: tags have none of what is filtered by")
    found = Engine(args.root).tags(args.term, tls_verify=args.tls_verify != "false")
    records = [{"Name": args.term, "Tag": harmless(tag)} for tag in found[: args.limit]]
    output.records(records, args.format, TAG_HEADINGS)
    return 0


def record(found: Repository, *, full: bool = False) -> dict[str, Any]:
    """A repository in docker's words, all values text as docker has them. What a registry says commands no terminal."""
    from lamina.cli.quoting import harmless

    description = harmless(found.description)
    if not full and len(description) > WIDEST:
        description = description[: WIDEST - 1] + "…"
    return {
        "Name": harmless(found.name),
        "Index": found.index,
        "Description": description,
        "StarCount": str(found.stars),
        "IsOfficial": "[OK]" if found.official else "",
        "IsAutomated": "[OK]" if found.automated else "",
    }


def _holds(found: Repository, key: str, value: str) -> bool:
    if key == "stars":
        return found.stars >= number(value)
    return truth(value) == (found.official if key == "is-official" else found.automated)
