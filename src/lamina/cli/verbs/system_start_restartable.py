"""`lamina system start-restartable`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Verb

VERB = Verb(
    name="system start-restartable",
    details="""
After a boot: what was made with --restart always, also when it was stopped; unless-stopped, if nobody had stopped it;
on-failure, if it had not ended well. What was never started is not started, what runs is left alone.

'lamina generate systemd --restartable' prints a unit that does this at every boot.
""",
    examples="lamina system start-restartable\nlamina generate systemd --restartable",
)


def do(args: Arguments) -> int:
    """Start each, and print its name; 1 if one could not be started."""
    from lamina.cli.each import told
    from lamina.engine import Engine

    return told(Engine(args.root).start_restartable())
