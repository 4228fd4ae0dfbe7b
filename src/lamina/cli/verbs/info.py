"""`lamina info`"""

from __future__ import annotations

from lamina.cli.declare import Arguments, Verb
from lamina.cli.options.general import OUTPUT

VERB = Verb(
    name="info",
    options=(OUTPUT,),
    details="Every question Lamina asks about the host, with the answer: since which kernel, or why not.",
)


def do(args: Arguments) -> int:
    """Show the probe's answers."""
    raise NotImplementedError
