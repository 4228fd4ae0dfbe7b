"""Namespaces of running containers, for others that are to share them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lamina.errors import Conflict
from lamina.linux.fd import Fd, ready
from lamina.linux.process import pidfd_open
from lamina.runtime.identity import same_process
from lamina.store import containers

if TYPE_CHECKING:
    from lamina.engine.further import Further
    from lamina.store.root import Store


def namespaces(store: Store, further: Further) -> dict[str, Fd]:
    """By kind, the namespaces of other containers that are asked for, open. Raises NotFound, Conflict."""
    found = {}
    for kind in ("pid",):
        word, _, reference = getattr(further, kind).partition(":")
        if word == "container":
            found[kind] = namespace_of(store, reference, kind)
    return found


def namespace_of(store: Store, reference: str, kind: str) -> Fd:
    """The namespace *kind* of the container's first process, and of no other process that has its number now.

    Raises NotFound, Conflict when it does not run.
    """
    home = containers.find(store, reference)
    state = home.read("state")
    if state is not None:
        pid = int(state["pid"])
        try:
            with pidfd_open(pid) as pidfd:
                fd = Fd(os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC))
                if same_process(pid, state) and not ready(0, pidfd):  # looked at after it was opened
                    return fd
                fd.close()
        except (FileNotFoundError, ProcessLookupError):
            pass
    raise Conflict(f"run: {kind} container:{reference}: it does not run", remedy="start it first")
