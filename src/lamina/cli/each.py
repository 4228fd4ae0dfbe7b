"""One verb over several names: a failure is said and does not keep the others from their turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lamina.cli.report import say
from lamina.errors import LaminaError


def each(names: Iterable[str], act: Callable[[str], None]) -> int:
    """Do *act* on every name; 0, or 1 if any failed (as docker does)."""
    status = 0
    for name in names:
        try:
            act(name)
        except LaminaError as error:
            say(error.message, error.remedy)
            status = 1
    return status


def told(outcomes: Iterable[tuple[str, LaminaError | None]]) -> int:
    """Print the names of those where it went well, and say why it did not with the others; 0, or 1 if any failed."""
    from lamina.cli import output

    status = 0
    for name, failure in outcomes:
        if failure is None:
            output.line(name)
        else:
            say(failure.message, failure.remedy)
            status = 1
    return status
