"""`lamina system stop-restartable`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Verb

VERB = Verb(
    name="system stop-restartable",
    details="""
Stops, all at once and each with its own stop signal and grace, the containers that have a restart policy. Unlike
'lamina stop' it does not count as somebody's wish: 'lamina system start-restartable' starts them again. The unit that
'lamina generate systemd --restartable' prints does this when the machine is shut down.
""",
    examples="lamina system stop-restartable",
)


def do(args: Arguments) -> int:
    """Stop each, and print its name; 1 if one could not be stopped."""
    from lamina.cli.each import told
    from lamina.engine import Engine

    return told(Engine(args.root).stop_restartable())
