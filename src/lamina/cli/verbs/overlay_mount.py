"""`lamina overlay mount`"""

from __future__ import annotations

from lamina.cli.declare import Argument, Arguments, Verb
from lamina.cli.options.overlay import EXPLAINED, STACK, TYPE

VERB = Verb(
    name="overlay mount",
    options=(STACK, TYPE),
    arguments=(Argument("words", "[overlay] DIRECTORY", "+", complete="directory"),),
    details=EXPLAINED,
    examples="""
lamina overlay mount -o lowerdir=A:B,upperdir=C,workdir=worker merged
lamina overlay mount -t overlay overlay -o lowerdir=/base -o ro /mnt
""",
)


def do(args: Arguments) -> int:
    """Mount the stack."""
    raise NotImplementedError
