"""A command line that makes no sense."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lamina.errors import InvalidInput

if TYPE_CHECKING:
    from lamina.argv.declare import Verb


class UsageError(InvalidInput):
    """A command line that does not parse."""


def only_one(verb: Verb, wishes: Sequence[str]) -> None:
    """Raises UsageError if more than one of *wishes* was typed: options that exclude each other."""
    if len(wishes) > 1:
        raise UsageError(
            f"{verb.name}: {' and '.join(wishes)} contradict each other",
            remedy=f"give one of them; 'lamina {verb.name} --help' shows what is possible",
        )
