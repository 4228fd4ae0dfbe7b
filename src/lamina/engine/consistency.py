"""What is done about processes that hold on to the old root of a container that runs (docs/time-travel.md)."""

from __future__ import annotations

from lamina.errors import InvalidInput

AUTO, REFUSE, COPY, WAIT = "auto", "refuse", "copy", "wait"
CONSISTENCIES = (AUTO, REFUSE, COPY, WAIT)


def check_consistency(consistency: str, *, copies: bool = True) -> str:
    """*consistency*, if it is one; *copies*: the verb can copy what was written. Raises InvalidInput."""
    known = [one for one in CONSISTENCIES if copies or one != COPY]
    if consistency not in known:
        raise InvalidInput(
            f"consistency {consistency[:80]!r}: there is no such", remedy=f"one of {', '.join(known)}"
        )
    return consistency
