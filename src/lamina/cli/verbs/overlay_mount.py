"""`lamina overlay mount`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb
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
    """Mount the stack. As with mount(8), a word before the directory is only a name for the table of mounts."""
    from lamina.engine.stacks import mount
    from lamina.errors import InvalidInput

    if len(args.words) > 2:
        raise InvalidInput(
            "overlay mount: more than one DIRECTORY",
            remedy="usage: lamina overlay mount -o OPTION,... DIRECTORY",
        )
    source = args.words[0] if len(args.words) == 2 else "overlay"
    mount(args.options, args.words[-1], source)
    return 0
