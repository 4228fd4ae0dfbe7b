"""`lamina healthcheck run`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb

VERB = Verb(
    name="healthcheck run",
    arguments=(Argument("name", "NAME", complete="running"),),
    details="""Beside the checks that are done in time. The result counts like one of theirs: 'lamina inspect' shows it.

    The exit status is 0 if the check succeeded, 1 if it failed, 125 if it could not be done: the container does not
    run, is paused, or has no health check.""",
    examples="""
lamina healthcheck run web
lamina inspect -f '{{.State.Health.Status}}' web
""",
)


def do(args: Arguments) -> int:
    """Check it now; what it comes to where it failed."""
    from lamina.cli import output
    from lamina.engine import Engine

    done = Engine(args.root).container(args.name).check_health()
    if done.status == 0:
        return 0
    output.line(done.health)
    return 1
