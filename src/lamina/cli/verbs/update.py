"""`lamina update`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.options.run import RESTARTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    name="update",
    options=(
        Option("memory", "m", "SIZE", "The most memory: 512m; 0: no limit"),
        Option("memory-swap", "", "SIZE", "The most memory and swap together; -1: any swap"),
        Option("cpus", "", "NUMBER", "How many processors: 1.5; 0: no limit"),
        Option("cpu-shares", "c", "NUMBER", "Its weight among others"),
        Option("memory-reservation", "", "SIZE", "What it is left with when memory is short; 0: nothing"),
        Option("cpu-period", "", "MICROSECONDS", "The period of --cpu-quota"),
        Option("cpu-quota", "", "MICROSECONDS", "Processor time in each period; 0: no limit"),
        Option("cpuset-cpus", "", "LIST", "The processors it runs on: 0-2,4"),
        Option("cpuset-mems", "", "LIST", "The memory nodes it uses"),
        Option("blkio-weight", "", "NUMBER", "Its weight on disks: 10 to 1000"),
        Option("pids-limit", "", "NUMBER", "The most processes and threads; 0: no limit"),
        Option(
            "restart",
            "",
            "POLICY",
            "When it ends: no, on-failure[:TIMES], always or unless-stopped",
            complete=RESTARTS,
        ),
    ),
    arguments=(Argument("names", "NAME", "+", complete="container"),),
    details="""The limits of a container that runs change at once, and those of its later starts with them.""",
    examples="""
lamina update --memory 512m --cpus 1.5 web
lamina update --restart unless-stopped web db
""",
)


def do(args: Arguments) -> int:
    """Change each; one that cannot be changed does not keep the others."""
    from lamina.cli import output
    from lamina.cli.asked import warn
    from lamina.cli.each import each
    from lamina.cli.usage import UsageError
    from lamina.engine import Engine
    from lamina.engine.updating import check

    engine = Engine(args.root)
    keys = [option.key for option in VERB.options]
    given: Any = {key: getattr(args, key) for key in keys if getattr(args, key) is not None}
    if not given:
        raise UsageError("update: nothing to change", remedy="'lamina update --help' shows what can be")
    check(given)  # what cannot be meant is nobody's fault among *names*

    def act(name: str) -> None:
        for warning in engine.container(name).update(**given):
            warn(warning)
        output.line(name)

    return each(args.names, act)
