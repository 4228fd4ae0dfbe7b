"""`lamina squash`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.engine.squashing import Squash

VERB = Verb(
    name="squash",
    options=(
        Option(
            "from",
            "",
            "SNAPSHOT|IMAGE",
            "Only what a container froze after this one of its snapshots; or what an image has above this one",
        ),
        Option("quiet", "q", help="Print ids only"),
    ),
    arguments=(
        Argument("state", "CONTAINER|CONTAINER@SNAPSHOT|IMAGE", complete="state"),
        Argument("image", "NAME[:TAG]", "?"),
    ),
    details="""
Makes one layer of those that a container froze, or of which one of its snapshots consists; the layers of the image stay
as they are. It reads the same. In the background that is done anyhow, before the number of layers matters.

Other snapshots keep the layers that they refer to: room is only won where these are removed (snapshot rm, snapshot
prune). Of a container that runs, what is mounted stays until the next snapshot.

Of an image another one is made, NAME, in which all layers are one, or those above the image that --from names; its id
is printed. The files, the config and the steps of the history are the same.""",
    examples="""
lamina squash brave_otter
lamina squash --from before-the-upgrade brave_otter
lamina squash --from debian:12 mine:1 mine:squashed""",
)


def do(args: Arguments) -> int:
    """Squash, and say what came of it."""
    from lamina.cli import output
    from lamina.cli.report import say
    from lamina.cli.usage import UsageError
    from lamina.engine import Container, Engine, Image
    from lamina.engine.snapshots import Snapshot
    from lamina.engine.state_names import find_anything

    state = find_anything(Engine(args.root, store_limit=args.store_limit).store, args.state)
    since = vars(args)["from"]
    if isinstance(state, Image):
        output.line(f"sha256:{state.squash(args.image, since=since).id}")
        return 0
    if args.image is not None:
        raise UsageError(
            "a name is for an image that is squashed", remedy="'lamina commit' makes an image of a state"
        )
    if isinstance(state, Container):
        done = state.squash(since)
    elif since is not None:
        raise UsageError(
            "--from is about a container or an image, not a snapshot", remedy="name the container"
        )
    else:
        assert isinstance(state, Snapshot)
        done = state.squash()
    if not done:
        say("there is nothing that could become one layer")
    for one in done:
        output.line(one.id if args.quiet else _said(one))
    return 0


def _said(one: Squash) -> str:
    import os

    from lamina.cli.quoting import quote
    from lamina.cli.sizes import human

    what = f"{len(one.layers)} layers are one now, {one.id[:12]} ({human(one.size)}, {one.inodes:,} files)"
    return f"{quote(os.fsdecode(one.at))}: {what}"
