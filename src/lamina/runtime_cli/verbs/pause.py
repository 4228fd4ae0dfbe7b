"""`lamina-runtime pause`: stop every process of a container where it is."""

from __future__ import annotations

from lamina.argv.declare import Arguments, Verb
from lamina.errors import Conflict, Unsupported
from lamina.runtime.container import groups
from lamina.runtime.container.directory import CREATED, RUNNING
from lamina.runtime_cli.asked import container
from lamina.runtime_cli.options import HELP, ID

VERB = Verb("pause", (HELP,), (ID,))


def do(args: Arguments) -> int:
    """Freeze it; 0."""
    found = container(args)
    record = found.record()
    status = found.status(record)
    if status not in (CREATED, RUNNING):
        raise Conflict(f"pause container {found.id}: it is {status}, neither running nor created")
    cgroup = groups.of(record)
    if cgroup is None:
        raise Unsupported(f"pause container {found.id}: it has no control groups")
    cgroup.freeze()
    return 0
