"""`lamina volume ls`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb
from lamina.cli.options.records import filter_option, format_option, is_true, labelled, matches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.engine.storage import VolumeUse


VERB = Verb(
    name="volume ls",
    options=(
        Option("quiet", "q", help="Names only"),
        filter_option("name", "label", "dangling"),
        format_option("{{.Name}}"),
    ),
    examples="lamina volume ls\nlamina volume ls --filter dangling=true -q",
)
HEADINGS = {"Driver": "DRIVER", "Name": "VOLUME NAME", "Users": "USED BY", "Created": "CREATED"}


def do(args: Arguments) -> int:
    """List them by name."""
    from functools import partial

    from lamina.cli import output
    from lamina.engine import Engine

    volumes = Engine(args.root).storage.volumes()
    found = [one for one in volumes if matches(args.filter, partial(_passes, one))]
    if args.quiet:
        output.text("".join(f"{one.volume.name}\n" for one in found))
    else:
        output.records([record(one) for one in found], args.format, HEADINGS)
    return 0


def record(use: VolumeUse) -> dict[str, Any]:
    """A volume in docker's words, and the containers that mount it."""
    import time

    from lamina.cli.when import ago

    return {
        "Driver": "local",
        "Name": use.volume.name,
        "Scope": "local",
        "Mountpoint": use.volume.path,
        "Labels": ",".join(f"{key}={value}" for key, value in use.volume.labels.items()),
        "Users": ", ".join(use.users),
        "Created": ago(use.volume.created / 1e9, time.time()),
    }


def _passes(use: VolumeUse, key: str, value: str) -> bool:
    if key == "name":
        return value in use.volume.name
    if key == "dangling":
        return (not use.users) == is_true(value)
    return labelled(use.volume.labels, value)
