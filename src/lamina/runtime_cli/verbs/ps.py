"""`lamina-runtime ps`: the processes of a container, as the host sees them."""

from __future__ import annotations

import sys

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.document import encode
from lamina.errors import InvalidInput, KernelError, NotFound
from lamina.runtime.container import groups
from lamina.runtime.container.directory import STOPPED
from lamina.runtime_cli.asked import container
from lamina.runtime_cli.options import HELP, ID

VERB = Verb(
    "ps",
    (
        Option(
            "format", "f", "FORMAT", "table (default) or json", choices=("table", "json"), default="table"
        ),
        HELP,
    ),
    (ID, Argument("words", "PS-OPTION", "*")),
    interspersed=False,
)


def do(args: Arguments) -> int:
    """Print them: ids as JSON, or what the host's ps(1) says of them; 0."""
    found = container(args)
    record = found.record()
    cgroup = groups.of(record)
    pids = sorted(cgroup.processes()) if cgroup is not None else []
    if not pids and found.status(record) != STOPPED:
        from lamina.runtime.container.members import members

        first = int(record["pid"])
        pids = members(first) if cgroup is None else [first]
    if args.format == "json":
        if args.words:
            raise InvalidInput(
                f"list processes as JSON: {args.words[0]} is for ps(1), which is not asked",
                remedy="leave it out, or --format json",
            )
        sys.stdout.write(encode(pids) + "\n")
        return 0
    import subprocess

    words = list(args.words) or ["-ef"]
    try:
        # the host's own program, on the host's own procfs: nothing of the container is executed or read
        done = subprocess.run(["ps", *words], capture_output=True, check=False)
    except FileNotFoundError:
        raise NotFound("list processes: this host has no ps", remedy="use --format json") from None
    if done.returncode:
        raise KernelError(f"ps {' '.join(words)}", 22, hint=done.stderr.decode(errors="replace").strip())
    lines = done.stdout.decode(errors="replace").splitlines()
    heading = lines[0].split() if lines else []
    if "PID" not in heading:
        raise NotFound(f"ps {' '.join(words)}: its output has no column PID")
    column = heading.index("PID")
    own = {str(pid) for pid in pids}
    for line in lines:
        fields = line.split()
        if line is lines[0] or (len(fields) > column and fields[column] in own):
            sys.stdout.write(line + "\n")
    return 0
