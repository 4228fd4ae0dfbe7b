"""`lamina try`"""

from __future__ import annotations

from lamina.cli.declare import Argument, Arguments, Option, Verb

VERB = Verb(
    name="try",
    options=(
        Option("yes", "y", help="Apply without asking", group="Afterwards"),
        Option("no", "n", help="Discard without asking", group="Afterwards"),
        Option("keep", "k", help="Keep it without asking, for diff, apply and rm", group="Afterwards"),
        Option("name", metavar="NAME", help="Call the container this", group="Container"),
        Option(
            "network",
            metavar="none|host",
            choices=("none", "host"),
            default="host",
            help="host (default): this system's; none: only the loopback device",
            group="Container",
        ),
    ),
    arguments=(Argument("words", "COMMAND", "+"),),
    interspersed=False,
    usage_status=125,
    details="""
The command sees this system's files, and may change or delete any of them: what it writes goes to a layer above.
Then its changes are shown, deletions first, and you decide. Files are virtual, other things are not: the network
(unless --network none), devices, the clock, and what other programs do meanwhile.

The exit status is the command's. Without a terminal to ask on, and with none of -y, -n and -k, the changes are kept.
""",
    examples="""
lamina try apt-get install ./hello.deb
lamina try -n rm -rf /usr
lamina try --network none make install
""",
)


def do(args: Arguments) -> int:
    """Run, show, ask, act."""
    raise NotImplementedError
