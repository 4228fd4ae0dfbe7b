"""`lamina inspect`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.options import format_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.engine import Engine

VERB = Verb(
    name="inspect",
    options=(
        format_option("{{.State.Status}}", "json", "f"),
        Option(
            "size", "s", help="Of containers also SizeRw, what was written, and SizeRootFs, with the image"
        ),
        Option(
            "type",
            "",
            "KIND",
            "container, image, network, volume or snapshot: which of several with the same name",
            choices=("container", "image", "network", "volume", "snapshot"),
            default="",
        ),
    ),
    arguments=(Argument("names", "NAME", "+", complete="anything"),),
    details="""
A name that a container has means the container, else it is looked for among images, networks and volumes. A snapshot is
CONTAINER@SNAPSHOT, or its whole id.""",
    examples="""
lamina inspect brave_otter
lamina inspect -f '{{.State.ExitCode}}' brave_otter
lamina inspect debian:12
lamina inspect -f '{{.Parent}}' brave_otter@step-17
""",
)


def do(args: Arguments) -> int:
    """Print a JSON list with a document for each of what there is, or lines by template."""
    from lamina.cli.inspecting import of_container, show
    from lamina.engine import Engine
    from lamina.engine.listing import LookedUp

    engine = Engine(args.root)
    containers = LookedUp(engine.store)

    def look(name: str) -> dict[str, Any]:
        from lamina.errors import InvalidInput, InvalidReference, NotFound

        if args.type == "image":
            return engine.inspect_image(name)
        if args.type == "network":
            return _network(engine, name)
        if args.type == "volume":
            return engine.volume(name).attrs
        if args.type == "snapshot" or ("@" in name and not args.type):
            try:
                return _snapshot(engine, name)
            except NotFound:
                if args.type or "@sha256:" not in name:
                    raise
        try:
            container = containers.container(name)
            return of_container(engine, container, args.size)
        except NotFound as missing:
            if args.type == "container":
                raise
            for other, no_such in (
                (engine.inspect_image, (NotFound, InvalidReference)),
                (lambda name: _network(engine, name), (NotFound, InvalidInput)),
                (lambda name: engine.volume(name).attrs, (NotFound, InvalidInput)),
                (lambda name: _snapshot(engine, name), (NotFound, InvalidInput)),
            ):
                try:
                    return other(name)
                except no_such:
                    continue
            raise NotFound(
                f"inspect {name}: no such container, image, network or volume",
                remedy="'lamina ps -a', 'lamina images', 'lamina network ls' and 'lamina volume ls' list what there is",
            ) from missing

    return show(args.names, look, args.format)


def _network(engine: Engine, name: str) -> dict[str, Any]:
    from lamina.cli.predefined import document, named

    predefined = named(name)
    return engine.networks.get(name).attrs if predefined is None else document(predefined)


def _snapshot(engine: Engine, name: str) -> dict[str, Any]:
    from lamina.engine import Container
    from lamina.engine.state_names import find_state
    from lamina.errors import NotFound

    found = find_state(engine.store, name)
    if isinstance(found, Container):
        raise NotFound(f"inspect {name}: that is a container", remedy="a snapshot is CONTAINER@SNAPSHOT")
    return found.inspect()
