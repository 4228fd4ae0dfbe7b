"""`lamina squash`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb

VERB = Verb(
    name="squash",
    options=(
        Option("from", "", "SNAPSHOT", "Only what a container froze after this one of its snapshots"),
        Option("quiet", "q", help="Print ids of layers only"),
    ),
    arguments=(Argument("state", "CONTAINER|CONTAINER@SNAPSHOT", complete="container"),),
    details="""
Makes one layer of those that a container froze, or of which one of its snapshots consists; the layers of the image stay
as they are. It reads the same. In the background that is done anyhow, before the number of layers matters.

Other snapshots keep the layers that they refer to: room is only won where these are removed (snapshot rm, snapshot
prune). Of a container that runs, what is mounted stays until the next snapshot.""",
    examples="lamina squash brave_otter\nlamina squash --from before-the-upgrade brave_otter",
)


def do(args: Arguments) -> int:
    """Squash, and say what came of it."""
    import os

    from lamina.cli import output
    from lamina.cli.quoting import quote
    from lamina.cli.report import say
    from lamina.cli.sizes import human
    from lamina.cli.usage import UsageError
    from lamina.engine import Container, Engine
    from lamina.engine.state_names import find_state

    state = find_state(Engine(args.root).store, args.state)
    since = vars(args)["from"]
    if isinstance(state, Container):
        done = state.squash(since)
    elif since is not None:
        raise UsageError(
            "--from is about a container, not a snapshot", remedy="leave it out, or name the container"
        )
    else:
        done = state.squash()
    if not done:
        say("there is nothing that could become one layer")
    for one in done:
        if args.quiet:
            output.line(one.id)
            continue
        output.line(
            f"{quote(os.fsdecode(one.at))}: {len(one.layers)} layers are one now, {one.id[:12]} "
            f"({human(one.size)}, {one.inodes:,} files)"
        )
    return 0
