"""`lamina-runtime resume`: let the processes of a paused container go on."""

from __future__ import annotations

from lamina.argv.declare import Arguments, Verb
from lamina.errors import Conflict, Unsupported
from lamina.runtime.container import groups
from lamina.runtime.container.directory import PAUSED
from lamina.runtime_cli.asked import container
from lamina.runtime_cli.options import HELP, ID

VERB = Verb("resume", (HELP,), (ID,))


def do(args: Arguments) -> int:
    """Thaw it; 0."""
    found = container(args)
    record = found.record()
    status = found.status(record)
    if status != PAUSED:
        raise Conflict(f"resume container {found.id}: it is {status}, not paused")
    cgroup = groups.of(record)
    if cgroup is None:
        raise Unsupported(f"resume container {found.id}: it has no control groups")
    cgroup.thaw()
    return 0
