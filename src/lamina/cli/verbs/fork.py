"""`lamina fork`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.convert import whole_number
from lamina.cli.options import format_option
from lamina.cli.options.states import CONSISTENCY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.engine import Container
    from lamina.engine.forked_options import ForkOptions

CHANGED = "What is not as in the parent"
# options that are handed on where they are given, by their keys in ForkOptions
_GIVEN = {
    "hostname": "hostname", "env": "env", "label": "labels", "network": "network", "publish": "publish",
    "memory": "memory", "cpus": "cpus", "restart": "restart", "lifetime": "lifetime", "timeout": "timeout",
}  # fmt: skip

VERB = Verb(
    name="fork",
    options=(
        Option("number", "n", "NUMBER", "How many (default: 1)", convert=whole_number, default=1),
        Option("start", "", "", "Start them as well"),
        Option("command", "c", "COMMAND", "Run this, words as in a shell, not what the parent runs", CHANGED),
        Option("rm", "", "", "Remove each when its command ends", CHANGED),
        Option("hostname", "h", "NAME", "The host name inside (else each has its own)", CHANGED),
        Option("label", "l", "KEY=VALUE", "Note something; may be repeated", CHANGED, multiple=True),
        Option("env", "e", "KEY=VALUE", "Set a variable; KEY alone takes it from here", CHANGED, multiple=True),
        Option("network", "", "NETWORK", "Another; may be repeated", CHANGED, multiple=True, complete="network"),
        Option(
            "publish", "p", "[[IP:]HOSTPORT:]PORT", "Let a port of the host lead to one of it", CHANGED, multiple=True
        ),
        Option("memory", "m", "SIZE", "At most this much memory: 512m, 2g", CHANGED),
        Option("cpus", "", "NUMBER", "At most this much processor time: 0.5, 2", CHANGED),
        Option("restart", "", "POLICY", "When it ends: no, on-failure[:TIMES], always or unless-stopped", CHANGED),
        Option("timeout", "", "SECONDS", "Kill it after so long", CHANGED),
        Option(
            "lifetime", "", "WHOSE", "container, or owner: remove it when the process that calls this ends", CHANGED,
            choices=("container", "owner"),
        ),
        CONSISTENCY,
        Option("cidfile", "", "FILE", "Write the ids to a new file", complete="file"),
        format_option("{{.Name}}"),
    ),
    arguments=(
        Argument("state", "CONTAINER[@SNAPSHOT]", complete="container@"),
        Argument("name", "NAME", "?"),
    ),
    details="""
Makes containers that begin with the files of a snapshot, or of a container as it is now, which goes on if it runs. No
file is copied. They are asked to be what their parent was asked to be, with names, host names, addresses and ids of
their own; NAME is given numbers where there are several. A port of this host that the parent has by number stays the
parent's; what is published at any free port is so again. Volumes with a name, and directories of this host, are shared
with the parent; volumes without one begin anew. The ids are printed, one a line.""",
    examples="""
lamina fork box try-1
lamina fork -n 16 --start box@step-17 attempt
""",
)  # fmt: skip


# of a fork, for `--format`
FIELDS = ("Id", "Name", "Names", "Image", "State", "Parent", "Snapshot", "Ports")


def do(args: Arguments) -> int:
    """Make them, and print their ids."""
    import os
    import shlex

    from lamina.cli import output
    from lamina.cli.asked import IdFile, warn
    from lamina.engine import Container, Engine
    from lamina.engine.state_names import find_state
    from lamina.errors import InvalidInput

    if args.format not in ("table", "json"):  # while nothing is made yet
        from lamina.cli.template import Template

        Template(args.format).render(dict.fromkeys(FIELDS, ""))
    engine = Engine(args.root)
    asked: dict[str, Any] = {"name": args.name, "start": args.start, "on_warning": warn, **options(args)}
    if args.command is not None:
        asked["command"] = shlex.split(args.command)
    if args.lifetime is not None:
        asked["owner"] = os.getppid()
    if args.consistency is not None:
        asked["consistency"] = args.consistency
    state: Any = find_state(engine.store, args.state)
    if args.consistency is not None and not isinstance(state, Container):
        raise InvalidInput(
            f"fork snapshot {state.short_id}: it never changes: --consistency is about a container that runs",
            remedy="leave out --consistency",
        )
    note = IdFile(args.cidfile)
    try:
        made = state.fork(args.number, **asked)
        note.write("\n".join(one.id for one in made))
    except BaseException:
        note.close(engine)
        raise
    if args.format == "table":
        output.text("".join(f"{one.id}\n" for one in made))
    else:
        output.records([record(one) for one in made], args.format, {})
    return 0


def options(args: Arguments) -> ForkOptions:
    """What was typed of the options that are asked anew."""
    found: Any = {
        key: given for name, key in _GIVEN.items() if (given := getattr(args, name)) not in (None, ())
    }
    if args.rm:
        found["rm"] = True
    return found  # type: ignore[no-any-return]


def record(container: Container) -> dict[str, Any]:
    """The FIELDS of a fork."""
    forked = container.record.get("forked") or {}
    who = (container.id, container.name, container.name, container.image, container.state)
    whence = (forked.get("container", ""), forked.get("snapshot", ""))
    return dict(zip(FIELDS, (*who, *whence, container.ports), strict=True))
