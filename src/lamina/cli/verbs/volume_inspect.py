"""`lamina volume inspect`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.engine.storage import VolumeUse


def _format(text: str) -> str:
    from lamina.cli.template import check

    return check(text)


VERB = Verb(
    name="volume inspect",
    options=(Option("format", "f", "FORMAT", "json or '{{.Mountpoint}}'", convert=_format, default="json"),),
    arguments=(Argument("names", "VOLUME", "+", complete="volume"),),
    examples="lamina volume inspect -f '{{.Mountpoint}}' data",
)


def do(args: Arguments) -> int:
    """Print a JSON list with a document for each volume, or a line for each by template."""
    from lamina.cli import output
    from lamina.cli.each import each
    from lamina.engine import Engine

    storage = Engine(args.root).storage
    found: list[dict[str, Any]] = []
    status = each(args.names, lambda name: found.append(document(storage.volume(name))))
    if args.format in ("json", "table"):
        output.json_document(found)
    else:
        output.templated(args.format, found)
    return status


def document(use: VolumeUse) -> dict[str, Any]:
    """A volume in docker's words, and the containers that mount it."""
    from lamina.cli.when import timestamp

    return {
        "Name": use.volume.name,
        "Driver": "local",
        "Scope": "local",
        "Mountpoint": use.volume.path,
        "CreatedAt": timestamp(use.volume.created / 1e9),
        "Labels": use.volume.labels,
        "Anonymous": use.volume.anonymous,
        "Options": None,
        "Containers": list(use.users),
    }
