"""`lamina gc`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb
from lamina.cli.options import OUTPUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    name="gc",
    options=(
        Option("explain", help="Say why everything else stays"),
        Option("dry-run", "n", help="Remove nothing, say what would go"),
        OUTPUT,
    ),
    details="""Layers and compressed blobs go when no image, no container and nobody at work refers to them. It is safe
    at any time: nothing waits for it, and what somebody is about to use stays.""",
    examples="lamina gc\nlamina gc --dry-run --explain",
)


def do(args: Arguments) -> int:
    """Collect, and keep the store below its limit if it has one."""
    from lamina.cli import output
    from lamina.cli.sizes import human
    from lamina.engine import Engine

    engine = Engine(args.root, store_limit=args.store_limit)
    done = engine.storage.collect(explain=args.explain, dry=args.dry_run)
    evicted = None
    if engine.store.limit is not None and not args.dry_run:
        evicted = engine.storage.keep_below(engine.store.limit)
    if args.format == "json":
        output.json_document({**vars(done), "kept": list(map(vars, done.kept)), "evicted": evicted})
        return 0
    for kind, found in (("layer", done.layers), ("blob", done.blobs)):
        for one in found:
            output.line(f"{'would remove' if args.dry_run else 'removed'} {kind} {short(one)}")
    for gone in evicted.images if evicted else ():
        output.line(f"evicted image {gone.id[:12]} {' '.join(gone.names)}".rstrip())
    if args.explain:
        output.columns(
            ["KIND", "ID", "SIZE", "KEPT BECAUSE"],
            [[one.kind, short(one.id), human(one.size), "; ".join(one.because)] for one in done.kept],
        )
    freed = done.freed + (evicted.freed if evicted else 0)
    output.line(f"Total reclaimed space: {human(freed)}")
    return 0


def short(what: Any) -> str:
    """An id as people read it: 12 digits, after the algorithm of a digest."""
    text = str(what)
    algorithm, colon, digits = text.rpartition(":")
    return f"{algorithm}{colon}{digits[:12]}"
