"""`lamina try`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.options.run import NETWORKS

VERB = Verb(
    name="try",
    options=(
        Option("yes", "y", "", "Apply without asking, if the command succeeds", "Afterwards"),
        Option("no", "n", "", "Discard without asking", "Afterwards"),
        Option("keep", "k", "", "Keep it without asking, for diff, apply and rm", "Afterwards"),
        Option("name", "", "NAME", "Call the container this", "Container"),
        Option(
            "network",
            "",
            "none|host",
            "host (default): this system's; none: only the loopback device",
            "Container",
            choices=NETWORKS,
            default="host",
        ),
    ),
    arguments=(Argument("words", "COMMAND", "*"),),
    interspersed=False,
    details="""
The command sees this system's files, and may change or delete any of them: what it writes goes to a layer above.
Then its changes are shown, deletions first, and you decide. Files are virtual, other things are not: the network
(unless --network none), devices, the clock, and what other programs do meanwhile.

Without a COMMAND it is a shell, on a terminal. The exit status is the command's. Without a terminal to ask on, and with
none of -y, -n and -k, the changes are kept.
""",
    examples="""
lamina try apt-get install ./hello.deb
lamina try -n rm -rf /usr
lamina try --network none make install
""",
)


def do(args: Arguments) -> int:
    """Run, show, ask, act."""
    from lamina.cli.trial import Trial, on_terminal
    from lamina.cli.usage import only_one
    from lamina.errors import InvalidInput

    wishes = [f"--{wish}" for wish in ("yes", "no", "keep") if getattr(args, wish)]
    only_one(VERB, wishes)
    if not args.words and not on_terminal():
        raise InvalidInput(
            "try: COMMAND is missing",
            remedy="without a terminal there is no shell either; 'lamina try --help' shows what is possible",
        )
    return Trial(args.root, args.name, args.network, wishes[0].lstrip("-") if wishes else "").run(args.words)
