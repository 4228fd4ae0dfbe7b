"""The life of an OCI container: created, running, paused, stopped, and every step between, without a daemon.

    from lamina.runtime.container import Joining, Wishes, create, delete, execute, start

    box = create(b"/run/boxes", "box", Wishes(bundle=b"/srv/box", streams=(null, log, log)))
    start(box)
    execute(box, {"args": ["date"], "cwd": "/"}, Joining(streams=(null, out, out))).wait()
    delete(box, force=True)

`lamina-runtime` is these functions as a command. For a program that makes many containers they save what a command
costs each time: an interpreter, its imports, and reading what is kept. They change nothing about the program that calls
them, which may have threads. The first process is its child: `run` waits for it, who creates and starts has to
(waitid(2)).

    directory   what is kept of a container, and which state follows from it
    recipe      what making a process comes to, kept; compiling: made
    birth       how a process that outlives us is made, and what it says meanwhile
    creation    from a bundle to a container that waits for its start
    begin       start it
    further     a further process in one, whoever keeps its record
    join        a further process in it
    ending      signals, and the end
    whole       all of it, by somebody who stays

https://github.com/opencontainers/runtime-spec/blob/main/runtime.md
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.runtime.container.begin import start
    from lamina.runtime.container.creation import Wishes, create
    from lamina.runtime.container.directory import Container
    from lamina.runtime.container.ending import delete, kill
    from lamina.runtime.container.further import Joined, Joining
    from lamina.runtime.container.join import execute
    from lamina.runtime.container.whole import run

__all__ = [
    "Container",
    "Joined",
    "Joining",
    "Wishes",
    "create",
    "delete",
    "execute",
    "kill",
    "run",
    "start",
]

_WHERE = {
    "Container": "directory",
    "Joined": "further",
    "Joining": "further",
    "Wishes": "creation",
    "create": "creation",
    "delete": "ending",
    "execute": "join",
    "kill": "ending",
    "run": "whole",
    "start": "begin",
}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import sys

    module = f"{__name__}.{_WHERE[name]}"
    __import__(module)
    found: object = getattr(sys.modules[module], name)
    globals()[name] = found
    return found
