"""`lamina history`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.engine.images import Step


def _format(text: str) -> str:
    from lamina.cli.template import check

    return check(text)


VERB = Verb(
    name="history",
    options=(
        Option("human", "H", help="Sizes and times for people (they are, unless --raw)"),
        Option("raw", help="Sizes in bytes, times in full"),
        Option("quiet", "q", help="Ids only"),
        Option("no-trunc", help="Ids and commands in full"),
        Option(
            "format",
            metavar="FORMAT",
            convert=_format,
            default="table",
            help="table, json or '{{.CreatedBy}}'",
        ),
    ),
    arguments=(Argument("name", "IMAGE", complete="image"),),
    examples="lamina history debian:12",
)

HEADINGS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}
SHORT = 45


def do(args: Arguments) -> int:
    """Show how the image came about, the youngest step first."""
    from lamina.cli import output
    from lamina.engine import Engine

    records = [_record(step, args) for step in Engine(args.root).history(args.name)]
    if args.quiet:
        output.text("".join(f"{one['ID']}\n" for one in records))
    elif args.format == "table":
        shown = {**HEADINGS, "CreatedAt": "CREATED"} if args.raw else HEADINGS
        keys = [key for key in shown if not (args.raw and key == "CreatedSince")]
        keys.sort(key=["ID", "CreatedSince", "CreatedAt", "CreatedBy", "Size", "Comment"].index)
        output.columns([shown[key] for key in keys], [[one[key] for key in keys] for one in records])
    elif args.format == "json":
        for one in records:
            output.json_line(one)
    else:
        output.templated(args.format, records)
    return 0


def _record(step: Step, args: Arguments) -> dict[str, Any]:
    import time

    from lamina.cli.quoting import harmless
    from lamina.cli.sizes import human
    from lamina.cli.when import ago, timestamp

    by = harmless(step.created_by.replace("\t", " "))
    if not args.no_trunc and len(by) > SHORT:
        by = by[: SHORT - 1] + "…"
    identity = step.id if args.no_trunc else step.id[:12]
    return {
        "ID": (f"sha256:{identity}" if args.no_trunc else identity) if step.id else "<missing>",
        "CreatedSince": ago(step.created, time.time()) if step.created else "N/A",
        "CreatedAt": timestamp(step.created),
        "CreatedBy": by,
        "Size": str(step.size) if args.raw else human(step.size),
        "Comment": harmless(step.comment),
    }
