"""`lamina run`: the hot path. Nothing is imported here that a start does not need."""

from __future__ import annotations

from lamina.cli.declare import Arguments, Verb
from lamina.cli.options.run import ARGUMENTS, OPTIONS

VERB = Verb(
    name="run",
    options=OPTIONS,
    arguments=ARGUMENTS,
    interspersed=False,
    usage_status=125,
)


def do(args: Arguments) -> int:
    raise NotImplementedError
