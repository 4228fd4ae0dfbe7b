"""`lamina rmi`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb

VERB = Verb(
    name="rmi",
    options=(
        Option(
            "force", "f", help="Also if containers that have ended are over it; what is not there is no error"
        ),
        Option("no-prune", help="Keep the layers, for 'lamina gc' to remove"),
    ),
    arguments=(Argument("names", "IMAGE", "+", complete="image"),),
    details="""
A name is taken away; with its last name the image goes. Layers that nothing else needs go with it.
""",
    examples="lamina rmi debian:12\nlamina rmi $(lamina images -q --filter dangling=true)",
)


def do(args: Arguments) -> int:
    """Remove each; one that cannot be removed does not keep the others."""
    from lamina.cli import output
    from lamina.cli.each import each
    from lamina.engine import Engine
    from lamina.errors import NotFound

    engine = Engine(args.root)

    def remove(name: str) -> None:
        try:
            done = engine.remove_image(name, force=args.force, prune=not args.no_prune)
        except NotFound:
            if not args.force:
                raise
            return
        output.text("".join(f"{word}: {what}\n" for word, what in done))

    return each(args.names, remove)
