"""`lamina commit`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.options.layers import CHANGE, LAYER_LIMIT
from lamina.cli.options.states import CONSISTENCY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.engine import Engine
    from lamina.engine.images import Image

VERB = Verb(
    name="commit",
    options=(
        Option("author", "a", "WHO", "Who made it: 'Ada Lovelace <ada@example.org>'"),
        CHANGE,
        Option("message", "m", "TEXT", "What the history says of it"),
        Option(
            "pause", "p", help="Let nothing of it run meanwhile (default; =false: let it go on)", default=True
        ),
        Option("now", "", help="Make its digests at once, not when it is pushed or saved"),
        CONSISTENCY,
        LAYER_LIMIT,
        Option("iidfile", "", "FILE", "Write the image's id to this file", complete="file"),
    ),
    arguments=(
        Argument("name", "CONTAINER[@SNAPSHOT]", complete="container@"),
        Argument("image", "NAME[:TAG]", "?"),
    ),
    details="""
Makes an image of what a container over an image wrote, on top of that image, and of the variables, the user, the
directory, the labels and the command that it was given. What is in its volumes is not part of it. No file is copied:
what it wrote becomes a layer where it is, and goes on being what the container stands on. When the image is pushed or
saved its layers get their digests, and the image the id that it has everywhere; the one before leads to it.""",
    examples="""
lamina commit brave_otter mine:1
lamina commit -m 'with git' -c 'CMD ["git", "status"]' brave_otter mine:git
lamina commit brave_otter@before mine:before
""",
)


def do(args: Arguments) -> int:
    """Commit, and print the image's id."""
    from lamina.cli import output
    from lamina.cli.ending import CleanEnd
    from lamina.engine import Engine

    engine = Engine(args.root, store_limit=args.store_limit)
    with CleanEnd("commit", engine):
        image = _committed(engine, args)
    if args.iidfile is not None:
        _note(args.iidfile, f"sha256:{image.id}")
    output.line(f"sha256:{image.id}")
    return 0


def _committed(engine: Engine, args: Arguments) -> Image:
    from lamina.cli.asked import warn
    from lamina.cli.options.layers import layer_limits
    from lamina.engine.snapshots import Snapshot
    from lamina.engine.state_names import find_state
    from lamina.errors import InvalidInput

    found = find_state(engine.store, args.name)
    said = {
        "author": args.author or "",
        "changes": args.change,
        "message": args.message or "",
        "now": args.now,
    }
    if not isinstance(found, Snapshot):
        limits = layer_limits(args.layer_limit)
        consistency = args.consistency or "auto"
        return found.commit(
            args.image, pause=args.pause, limits=limits, consistency=consistency, on_warning=warn, **said
        )
    if args.layer_limit or args.consistency or not args.pause:
        raise InvalidInput(
            f"commit snapshot {found.short_id}: it never changes, and is not copied",
            remedy="leave out --pause, --consistency and --layer-limit",
        )
    return found.to_image(args.image, **said)


def _note(path: str, identity: str) -> None:
    from lamina.errors import KernelError

    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(identity)
    except OSError as error:
        raise KernelError("write", error.errno or 0, path) from error
