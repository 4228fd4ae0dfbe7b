"""`lamina history`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.options import format_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.engine.images import Step


VERB = Verb(
    name="history",
    options=(
        Option("human", "H", default=True, help="Sizes and times for people (the default)"),
        Option("raw", help="Sizes in bytes, times in full: --human=false"),
        Option("quiet", "q", help="Ids only"),
        Option("no-trunc", help="Ids and commands in full"),
        format_option("{{.CreatedBy}}"),
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
RAW_HEADINGS = {
    "ID": "IMAGE",
    "CreatedAt": "CREATED",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}
SHORT = 45


def do(args: Arguments) -> int:
    """Show how the image came about, the youngest step first."""
    from lamina.cli import output
    from lamina.engine import Engine

    raw = args.raw or not args.human
    records = [_record(step, raw, args.no_trunc) for step in Engine(args.root).history(args.name)]
    if args.quiet:
        output.text("".join(f"{one['ID']}\n" for one in records))
    else:
        output.records(records, args.format, RAW_HEADINGS if raw else HEADINGS)
    return 0


def _record(step: Step, raw: bool, full: bool) -> dict[str, Any]:
    import time

    from lamina.cli.durations import ago
    from lamina.cli.quoting import harmless
    from lamina.cli.sizes import human
    from lamina.cli.when import seconds

    by = harmless(step.created_by.replace("\t", " "))
    if not full and len(by) > SHORT:
        by = by[: SHORT - 1] + "…"
    identity = step.id if full else step.id[:12]
    return {
        "ID": (f"sha256:{identity}" if full else identity) if step.id else "<missing>",
        "CreatedSince": ago(step.created, time.time()) if step.created else "N/A",
        "CreatedAt": seconds(step.created),
        "CreatedBy": by,
        "Size": str(step.size) if raw else human(step.size),
        "Comment": harmless(step.comment),
    }
