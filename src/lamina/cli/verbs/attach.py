"""`lamina attach`"""

from __future__ import annotations

import os

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
    from lamina.errors import InvalidInput

    asked = wanted(stdin=not args.no_stdin, keys=args.detach_keys, proxy=args.sig_proxy)
    container = Engine(args.root).container(args.name)
    if not args.no_stdin and not os.isatty(0) and container.is_alive:
        config = container.inspect()["Config"]
        if (
            config["Tty"] and config["OpenStdin"]
        ):  # what is read here would be typed there: docker refuses it as well
            raise InvalidInput(
                f"attach container {args.name}: it has a terminal, and standard input here is none",
                remedy="say --no-stdin, or run it on a terminal",
            )
    return status_of(container.attach(asked))
