"""`lamina attach`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.options.attached import DETACH_KEYS, SIG_PROXY

VERB = Verb(
    name="attach",
    options=(DETACH_KEYS, Option("no-stdin", "", "", "Let it read nothing from here"), SIG_PROXY),
    arguments=(Argument("name", "NAME", complete="running"),),
    details="""
What the container writes from now on is shown here, and what is typed here it reads, if it was made with -i. 'lamina
logs' shows what it wrote before.

The exit status is the container's when it ends meanwhile.
""",
    examples="lamina attach brave_otter",
)


def do(args: Arguments) -> int:
    """Stay with it; its exit status, 0 when it goes on without us."""
    from lamina.cli.attached import status_of, wanted
    from lamina.engine import Engine

    asked = wanted(stdin=not args.no_stdin, keys=args.detach_keys, proxy=args.sig_proxy)
    return status_of(Engine(args.root).container(args.name).attach(asked))
