"""`lamina network reload`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Verb

VERB = Verb(
    name="network reload",
    details="""
Makes the rules of all networks anew: after 'nft flush ruleset', or a firewall that began again. The next start of a
container does the same where they are missing. Bridges that somebody removed come back, with the links of containers.
""",
    examples="nft flush ruleset && lamina network reload",
)


def do(args: Arguments) -> int:
    """Make them."""
    from lamina.engine import Engine

    Engine(args.root).networks.reload()
    return 0
