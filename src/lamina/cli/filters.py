"""`--filter KEY=VALUE`: its keys are those of the verb, and one that is none is an error that names the nearest.

Of several filters, values of one key are alternatives and keys must all hold, but every `label` must hold (as docker).
"""

from __future__ import annotations

from lamina.argv.declare import Option
from lamina.cli.convert import moment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    Check = Callable[[str], object]
    Checks = Mapping[str, Check]

FILTER_HELP = "Only those; keys: "
TRUE = ("true", "1", "t")
FALSE = ("false", "0", "f")
ALL_HOLD = ("label", "label!")
_LAST_PORT, _PROTOCOLS = 65535, ("tcp", "udp", "sctp")


def reader(checks: Checks) -> Callable[[str], tuple[str, str]]:
    """A converter for the option: key and value. *checks* has the keys, and raises ValueError for what is no value."""

    def read(text: str) -> tuple[str, str]:
        key, equals, value = text.partition("=")
        if key not in checks:
            raise ValueError(_unknown(key, [*checks]))
        if not equals:
            raise ValueError(f"not KEY=VALUE: {key}=...")
        checks[key](value)
        return key, value

    return read


def filter_option(checks: Checks, short: str = "") -> Option:
    """`--filter`, with the keys of *checks*; see `reader`."""
    said = FILTER_HELP + ", ".join(checks)
    keys = "|".join(f"{key}=" for key in checks)
    return Option("filter", short, "KEY=VALUE", said, multiple=True, convert=reader(checks), complete=keys)


def anything(value: str) -> None:
    """Any value."""


def _unknown(key: str, keys: Sequence[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(key, keys, n=1, cutoff=0.5)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"there is no filter {key!r}; {meant}there is {', '.join(keys)}"


def truth(value: str) -> bool:
    """What Go reads as a boolean. Raises ValueError."""
    if value.lower() in TRUE:
        return True
    if value.lower() in FALSE:
        return False
    raise ValueError(f"{value!r} is neither true nor false")


def number(value: str) -> int:
    """A whole number. Raises ValueError."""
    if not (value.isascii() and value.isdecimal()):
        raise ValueError(f"{value!r} is no number")
    return int(value)


def port_range(value: str) -> tuple[range, str]:
    """PORT[/PROTOCOL] or FIRST-LAST[/PROTOCOL], as docker has it: the ports, and "tcp" where none is said.

    Raises ValueError.
    """
    said, slash, protocol = value.partition("/")
    first, dash, last = said.partition("-")
    found = range(number(first), number(last if dash else first) + 1)
    if not found or not found[0] or found[-1] > _LAST_PORT or (slash and protocol not in _PROTOCOLS):
        raise ValueError(f"{value!r} is no port or range of ports, such as 80, 53/udp or 8000-8010/tcp")
    return found, protocol or "tcp"


def choice(*words: str) -> Check:
    """A check for one of *words*."""

    def check(value: str) -> None:
        if value not in words:
            raise ValueError(f"{value!r} is none of {', '.join(words)}")

    return check


# what a prune takes: see engine.pruning.Chosen
PRUNED: Checks = {"until": moment, "label": anything, "label!": anything}


def chosen(filters: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """*filters* of a prune in the engine's words: until, labels, without_labels."""
    moments = [moment(value) for key, value in filters if key == "until"]
    return {
        "until": min(moments, default=None),
        "labels": [value for key, value in filters if key == "label"],
        "without_labels": [value for key, value in filters if key == "label!"],
    }


def with_filters(what: str, filters: Sequence[tuple[str, str]]) -> str:
    """*what* is to be removed, and how it was chosen, for the question that is asked before."""
    return what + (" with " + ", ".join("=".join(one) for one in filters) if filters else "")


def labelled(labels: Mapping[str, str], wanted: str) -> bool:
    """Whether there is the label KEY, or KEY=VALUE."""
    from lamina.engine.pruning import has_label

    return has_label(labels, wanted)


def passes(filters: Sequence[tuple[str, str]], holds: Callable[[str, str], bool]) -> bool:
    """Whether something for which single filters hold as *holds* says passes all of *filters*."""
    for key in {key for key, _ in filters}:
        found = [holds(key, value) for other, value in filters if other == key]
        if not (all(found) if key in ALL_HOLD else any(found)):
            return False
    return True
