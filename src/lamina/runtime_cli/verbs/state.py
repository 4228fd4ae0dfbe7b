"""`lamina-runtime state`: the state as the specification has it, and what runc adds."""

from __future__ import annotations

import sys
import time

from lamina.argv.declare import Arguments, Verb
from lamina.document import encode
from lamina.runtime.container.directory import STOPPED, Container, state_document
from lamina.runtime_cli.asked import container
from lamina.runtime_cli.options import HELP, ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb("state", (HELP,), (ID,))


def do(args: Arguments) -> int:
    """Print it; 0."""
    sys.stdout.write(encode(document(container(args))) + "\n")
    return 0


def document(found: Container) -> dict[str, Any]:
    """What `state` prints and `list` lists of a container."""
    record = found.record()
    status = found.status(record)
    shown = state_document(found, record, status)
    shown.setdefault("pid", 0 if status == STOPPED else shown.get("pid", 0))
    shown["rootfs"] = record.get("rootfs", "")
    shown["created"] = stamp(int(record.get("created") or 0))
    shown["owner"] = _owner(int(record.get("uid") or 0))
    return shown


def stamp(moment: int) -> str:
    """Nanoseconds since 1970 as RFC 3339."""
    seconds, rest = divmod(moment, 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"


def _owner(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
