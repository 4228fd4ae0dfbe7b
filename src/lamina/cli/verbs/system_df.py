"""`lamina system df`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb
from lamina.cli.options import format_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    name="system df",
    options=(
        Option("verbose", "v", help="Every image, layer, container and volume"),
        Option("fast", help="Do not measure containers and volumes, which reads all of their directories"),
        format_option("{{.Type}} {{.Size}}"),
    ),
    details="""SHARED is in layers that other images have as well, UNIQUE would go with the image. RECLAIMABLE is what
    would go if everything went that no container uses; pinned images stay. Blobs are the compressed layers, manifests
    and configs that are kept to push an image again.""",
    examples="lamina system df\nlamina system df -v\nlamina system df --format json",
)


def do(args: Arguments) -> int:
    """Show it."""
    from lamina.cli import output
    from lamina.cli.usage import only_one
    from lamina.engine import Engine

    only_one(VERB, ["--verbose", "--format"] if args.verbose and args.format not in ("table", "json") else [])
    found = Engine(args.root).storage.usage(walk=not args.fast)
    if args.format == "json":
        output.json_document(found)
        return 0
    if args.format != "table":
        output.templated(args.format, _records(found))
        return 0
    _totals(found)
    if args.verbose:
        _details(found)
    return 0


# in docker's words, but for the inodes
HEADINGS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Inodes": "INODES",
    "Reclaimable": "RECLAIMABLE",
    "ReclaimableInodes": "INODES",
}


def _totals(found: Any) -> None:
    from lamina.cli import output

    output.records(_records(found), "table", HEADINGS)


def _records(found: Any) -> list[dict[str, Any]]:
    from lamina.cli.sizes import human

    records = []
    for line in found.totals:
        share = f" ({100 * line.reclaimable.bytes // line.amount.bytes}%)" if line.amount.bytes else ""
        records.append(
            {
                "Type": line.kind,
                "TotalCount": str(line.count),
                "Active": str(line.active),
                "Size": human(line.amount.bytes),
                "Inodes": f"{line.amount.inodes:,}",
                "Reclaimable": human(line.reclaimable.bytes) + share,
                "ReclaimableInodes": f"{line.reclaimable.inodes:,}",
            }
        )
    return records


def _details(found: Any) -> None:
    from lamina.cli import output

    output.line("\nImages")
    _images(found)
    output.line("\nLayers")
    _layers(found)
    for heading, places in (("Containers", found.containers), ("Volumes", found.volumes)):
        output.line(f"\n{heading}")
        _places(places)


def _images(found: Any) -> None:
    import time

    from lamina.cli import output
    from lamina.cli.durations import ago
    from lamina.cli.sizes import human

    now = time.time()
    output.columns(
        ["IMAGE ID", "NAMES", "SHARED", "UNIQUE", "BLOBS", "CONTAINERS", "LAST USED", "PINNED"],
        [
            [
                image.id[:12],
                ", ".join(image.names) or "<none>",
                human(image.shared.bytes),
                human(image.unique.bytes),
                human(image.blobs.bytes),
                str(len(image.containers)),
                ago(image.last_used / 1e9, now),
                "yes" if image.pinned else "",
            ]
            for image in found.images
        ],
    )


def _layers(found: Any) -> None:
    from lamina.cli import output
    from lamina.cli.sizes import human

    names = {image.id: (image.names or (image.id[:12],))[0] for image in found.images}
    output.columns(
        ["LAYER", "SIZE", "INODES", "RECLAIMABLE", "IMAGES", "CONTAINERS"],
        [
            [
                layer.id[:12],
                human(layer.amount.bytes),
                f"{layer.amount.inodes:,}",
                "yes" if layer.reclaimable else "",
                ", ".join(names.get(image, image[:12]) for image in layer.images),
                ", ".join(layer.containers),
            ]
            for layer in found.layers
        ],
    )


def _places(places: Any) -> None:
    from lamina.cli import output
    from lamina.cli.sizes import human

    output.columns(
        ["NAME", "SIZE", "INODES", "RECLAIMABLE", "USED BY"],
        [
            [
                place.name,
                human(place.amount.bytes),
                f"{place.amount.inodes:,}",
                "yes" if place.reclaimable else "",
                ", ".join(place.users),
            ]
            for place in places
        ],
    )
