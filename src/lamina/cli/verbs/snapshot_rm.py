"""`lamina snapshot rm`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb

VERB = Verb(
    name="snapshot rm",
    arguments=(
        Argument("name", "CONTAINER", complete="container"),
        Argument("snapshots", "SNAPSHOT", "+", complete="snapshot"),
    ),
    details="""
The container stays as it is, and so do the snapshots that came from those which are removed. Layers that nothing else
refers to go as well.""",
    examples="lamina snapshot rm brave_otter before-the-upgrade",
)


def do(args: Arguments) -> int:
    """Remove each; one that cannot be removed does not keep the others."""
    from lamina.cli import output
    from lamina.cli.each import each
    from lamina.engine import Engine

    engine = Engine(args.root)
    box = engine.container(args.name)

    def remove(name: str) -> None:
        box.find_snapshot(name).remove()
        output.line(name)

    status = each(args.snapshots, remove)
    engine.storage.collect()
    return status
