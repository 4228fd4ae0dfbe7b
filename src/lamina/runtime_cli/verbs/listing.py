"""`lamina-runtime list`: the containers of a root."""

from __future__ import annotations

import sys

from lamina.argv.declare import Arguments, Option, Verb
from lamina.document import encode
from lamina.errors import LaminaError, NotFound
from lamina.runtime.container.directory import containers
from lamina.runtime_cli.asked import root, warner
from lamina.runtime_cli.options import HELP
from lamina.runtime_cli.verbs.state import document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    "list",
    (
        Option(
            "format", "f", "FORMAT", "table (default) or json", choices=("table", "json"), default="table"
        ),
        Option("quiet", "q", help="Ids only"),
        HELP,
    ),
)
COLUMNS = ("id", "pid", "status", "bundle", "created", "owner")


def do(args: Arguments) -> int:
    """Print them; 0."""
    if args.quiet:
        sys.stdout.write("".join(f"{found.id}\n" for found in containers(root(args))))
        return 0
    found: list[dict[str, Any]] = []
    for container in containers(root(args)):
        try:
            found.append(document(container))
        except (NotFound, FileNotFoundError):
            continue  # deleted between two looks
        except LaminaError as error:
            warner(args)(f"container {container.id} is not listed: {error}")
    if args.format == "json":
        sys.stdout.write(encode(found) + "\n" if found else "null\n")
        return 0
    rows = [[key.upper() for key in COLUMNS], *[[str(one[key]) for key in COLUMNS] for one in found]]
    widths = [max(len(row[at]) for row in rows) + 3 for at in range(len(COLUMNS))]
    for row in rows:
        sys.stdout.write("".join(map(str.ljust, row, widths)).rstrip() + "\n")
    return 0
