"""`lamina overlay umount`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb

VERB = Verb(
    name="overlay umount",
    options=(Option("lazy", "l", "", "Detach now, and let go when nobody uses it any more"),),
    arguments=(Argument("directories", "DIRECTORY", "+", complete="directory"),),
    examples="lamina overlay umount merged",
)


def do(args: Arguments) -> int:
    """Unmount each directory."""
    from lamina.cli.each import each
    from lamina.engine.stacks import umount

    return each(args.directories, lambda directory: umount(directory, lazy=args.lazy))
