"""`lamina volume inspect`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb
from lamina.cli.options import format_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.engine.storage import VolumeUse


VERB = Verb(
    name="volume inspect",
    options=(format_option("{{.Mountpoint}}", "json", "f"),),
    arguments=(Argument("names", "VOLUME", "+", complete="volume"),),
    examples="lamina volume inspect -f '{{.Mountpoint}}' data",
)


def do(args: Arguments) -> int:
    """Print a JSON list with a document for each volume, or a line for each by template."""
    from lamina.cli.inspecting import show
    from lamina.engine import Engine

    storage = Engine(args.root).storage
    return show(args.names, lambda name: document(storage.volume(name)), args.format)


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
