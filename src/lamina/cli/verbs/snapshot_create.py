"""`lamina snapshot create`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.options.states import CONSISTENCY

VERB = Verb(
    name="snapshot create",
    options=(
        Option("message", "m", "TEXT", "What is said of it"),
        Option("volumes", "", "", "Copy what is in its volumes as well"),
        CONSISTENCY,
    ),
    arguments=(Argument("name", "CONTAINER", complete="container"), Argument("snapshot", "NAME", "?")),
    details="""
Freezes what a container wrote, in the same time however much that is: no file is copied. The state can be gone back to
('lamina rewind'), whatever happens in the container after it. Volumes and binds are no part of it; with --volumes its
volumes are, but not binds: they are copied, which takes time and room for what is in them.

Of a container that runs, its processes go on over the new state. Those that hold files of it open for writing are the
exception: with refuse they are named and nothing is done, with copy the files are copied, with wait they are waited
for. docs/time-travel.md says what is promised in each case.""",
    examples="""
lamina snapshot create brave_otter before-the-upgrade
lamina snapshot create -m 'all tests pass' brave_otter
""",
)


def do(args: Arguments) -> int:
    """Make it, and print its id."""
    from lamina.cli import output
    from lamina.cli.asked import warn
    from lamina.engine import Engine

    box = Engine(args.root).container(args.name)
    consistency = args.consistency or "auto"
    made = box.snapshot(
        args.snapshot,
        message=args.message or "",
        consistency=consistency,
        volumes=args.volumes,
        on_warning=warn,
    )
    output.line(made.id)
    return 0
