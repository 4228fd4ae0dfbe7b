"""`lamina create`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Verb
from lamina.cli.options.run import ARGUMENTS, MORE, OPTIONS

VERB = Verb(
    name="create",
    options=tuple(option for option in OPTIONS if option.name not in ("detach", "attach")),
    arguments=ARGUMENTS,
    interspersed=False,
    more=MORE,
    details="The container's id is printed. 'lamina start' starts it, as often as one likes.",
    examples="""
lamina create --name web -v data:/srv registry.example/web:1
lamina start web
""",
)


def do(args: Arguments) -> int:
    """Make it, and print its id."""
    from lamina.cli import output
    from lamina.cli.detached import made

    output.line(made(args, stdin_once=args.interactive).id)
    return 0
