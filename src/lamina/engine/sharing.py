"""Namespaces of running containers, for others that are to share them."""

from __future__ import annotations

import os
from errno import ENOENT, ESRCH
from typing import TYPE_CHECKING

from lamina.errors import Conflict
from lamina.linux.fd import Fd, ready
from lamina.linux.process import pidfd_open
from lamina.runtime.identity import same_process
from lamina.store import containers

if TYPE_CHECKING:
    from lamina.engine.further import Further
    from lamina.engine.translate import Spec
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
        except OSError as error:
            if error.errno not in (ENOENT, ESRCH):
                raise
    raise Conflict(f"run: {kind} container:{reference}: it does not run", remedy="start it first")


def join_network(store: Store, spec: Spec, network: str) -> tuple[Fd, ...]:
    """Have the container of *spec* join a network namespace: that of `container:NAME`, or at the path of `ns:PATH`. The
    descriptor that *spec* names now. Raises NotFound, Conflict, InvalidInput, KernelError.
    """
    word, _, which = network.partition(":")
    fd = namespace_of(store, which, "net") if word == "container" else _network_at(which)
    for entry in spec["linux"]["namespaces"]:
        if entry["type"] == "network":
            entry["path"] = f"/proc/self/fd/{int(fd)}"
    return (fd,)


def _network_at(path: str) -> Fd:
    from lamina.errors import InvalidInput, KernelError
    from lamina.linux.constants import CLONE_NEWNET
    from lamina.linux.namespaces import ns_type

    try:
        fd = Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        raise KernelError("open network namespace", error.errno or 0, path) from error
    try:
        if ns_type(fd) == CLONE_NEWNET:
            return fd
    except OSError:
        pass
    fd.close()
    raise InvalidInput(
        f"run: network ns:{path}: it is no network namespace", remedy="such as /run/netns/NAME"
    )
