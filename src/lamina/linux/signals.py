"""Signals by their names, as signal(7) has them for x86-64 and arm64."""

from __future__ import annotations

from lamina.errors import InvalidInput

_WORDS = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG "
    "XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
)
NAMES = tuple(_WORDS.split())
OTHERS = {"IOT": 6, "CLD": 17, "POLL": 29, "RTMIN": 34, "RTMAX": 64}
LAST = 64


def signal_number(text: str, verb: str = "kill") -> int:
    """`9`, `KILL`, `SIGKILL`, `sigkill`, `RTMIN+3`; 0 only asks whether somebody is there.

    Raises InvalidInput, in whose message *verb* is what was to be done.
    """
    if text.isascii() and text.isdigit():
        if len(text) > 2 or int(text) > LAST:
            raise InvalidInput(f"{verb}: there is no signal {text}")
        return int(text)
    name = text.upper().removeprefix("SIG")
    base, plus, more = name.partition("+")
    if (
        plus
        and base == "RTMIN"
        and more.isascii()
        and more.isdigit()
        and len(more) < 3
        and 34 + int(more) <= LAST
    ):
        return 34 + int(more)
    if name in OTHERS:
        return OTHERS[name]
    if name not in NAMES:
        raise InvalidInput(f"{verb}: there is no signal {text!r}", remedy="see signal(7)")
    return NAMES.index(name) + 1


def signal_name(number: int) -> str:
    """`SIGTERM`; of a real-time signal `SIGRTMIN+3`."""
    if 0 < number <= len(NAMES):
        return f"SIG{NAMES[number - 1]}"
    rank = number - OTHERS["RTMIN"]
    return f"SIGRTMIN+{rank}" if rank > 0 else "SIGRTMIN" if rank == 0 else str(number)
