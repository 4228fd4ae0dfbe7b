"""`lamina pin`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb

VERB = Verb(
    name="pin",
    arguments=(Argument("names", "IMAGE", "+", complete="image"),),
    details="A pinned image is neither evicted to keep the store below its limit nor pruned. 'rmi' still removes it.",
    examples="lamina pin debian:12",
)


def do(args: Arguments) -> int:
    """Pin each."""
    return pinning(args, True)


def pinning(args: Arguments, pinned: bool) -> int:
    """Pin each, or take the pin away, and print its id."""
    from lamina.cli import output
    from lamina.cli.each import each
    from lamina.engine import Engine

    storage = Engine(args.root).storage
    return each(args.names, lambda name: output.line(f"sha256:{storage.pin(name, pinned)}"))
