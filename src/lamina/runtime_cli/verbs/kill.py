"""`lamina-runtime kill`: a signal to a container."""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.errors import InvalidInput
from lamina.runtime.container.ending import kill
from lamina.runtime_cli.asked import container
from lamina.runtime_cli.options import HELP, ID

VERB = Verb(
    "kill",
    (Option("all", "a", help="To every process of it, not only the first"), HELP),
    (ID, Argument("signal", "SIGNAL", "?")),
)
# signal(7), x86-64 and arm64
_WORDS = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG "
    "XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
)
NAMES = tuple(_WORDS.split())
OTHERS = {"IOT": 6, "CLD": 17, "POLL": 29, "RTMIN": 34, "RTMAX": 64}
LAST = 64


def do(args: Arguments) -> int:
    """Send it; 0."""
    kill(container(args), signal_number(args.signal or "TERM"), everybody=args.all)
    return 0


def signal_number(text: str) -> int:
    """`9`, `KILL`, `SIGKILL`, `sigkill`, `RTMIN+3`; 0 only asks whether somebody is there. Raises InvalidInput."""
    if text.isascii() and text.isdigit():
        if len(text) > 2 or int(text) > LAST:
            raise InvalidInput(f"kill: there is no signal {text}")
        return int(text)
    name = text.upper().removeprefix("SIG")
    base, plus, more = name.partition("+")
    if plus and base == "RTMIN" and more.isascii() and more.isdigit() and 34 + int(more) <= LAST:
        return 34 + int(more)
    if name in OTHERS:
        return OTHERS[name]
    if name not in NAMES:
        raise InvalidInput(f"kill: there is no signal {text!r}", remedy="see signal(7)")
    return NAMES.index(name) + 1
