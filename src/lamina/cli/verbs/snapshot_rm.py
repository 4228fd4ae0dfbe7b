"""`lamina snapshot rm`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb

VERB = Verb(
    name="snapshot rm",
    arguments=(Argument("name", "CONTAINER", complete="container"), Argument("snapshots", "SNAPSHOT", "+")),
    details="""
The container stays as it is, and so do the states that came from those which are removed. What nothing refers to any
more goes with the next 'lamina gc'.""",
    examples="lamina snapshot rm brave_otter before-the-upgrade",
)


def do(args: Arguments) -> int:
    """Remove each; one that cannot be removed does not keep the others."""
    from lamina.cli import output
    from lamina.cli.each import each
    from lamina.engine import Engine

    box = Engine(args.root).container(args.name)

    def remove(name: str) -> None:
        box.find_snapshot(name).remove()
        output.line(name)

    return each(args.snapshots, remove)
