"""Of verbs that make a state of a container that runs: what is done about those of its processes that write."""

from __future__ import annotations

from lamina.argv.declare import Option

# None where it is not given: a snapshot never changes, and verbs that take one as well refuse it there
CONSISTENCY = Option(
    "consistency",
    metavar="HOW",
    choices=("auto", "refuse", "copy", "wait"),
    help="What is done about processes that write: auto (default), refuse, copy, or wait",
)

# of those that put a running container back, or forward: what a process has open cannot be copied there
WITHOUT_COPY = Option(
    "consistency",
    metavar="HOW",
    choices=("auto", "refuse", "wait"),
    default="auto",
    help="What is done about processes that write: auto (default) and refuse name them, wait waits for them",
)
