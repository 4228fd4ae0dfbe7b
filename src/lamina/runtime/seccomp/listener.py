"""SCMP_ACT_NOTIFY: the descriptor on which a filter asks, handed on to whoever answers.

https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#the-container-process-state, seccomp_unotify(2)
"""

from __future__ import annotations

import json
import os
import socket

from lamina.errors import KernelError
from lamina.linux.fd import Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.runtime.bundle import Bundle

SECONDS = 10  # an agent that does not take a message of a kilobyte in that time is as good as none


def process_state(
    seccomp: dict[str, Any], pid: int, bundle: Bundle, status: str = "creating"
) -> dict[str, Any]:
    """The container process state that goes along with the listener."""
    spec = bundle.spec
    version = spec.get("ociVersion") or "1.2.0"
    state: dict[str, Any] = {
        "ociVersion": version,
        "id": bundle.identity.decode(errors="replace"),
        "status": status,
        "pid": pid,
        "bundle": os.fsdecode(bundle.directory),
    }
    if spec.get("annotations"):
        state["annotations"] = spec["annotations"]
    document: dict[str, Any] = {"ociVersion": version, "fds": ["seccompFd"], "pid": pid, "state": state}
    if seccomp.get("listenerMetadata"):
        document["metadata"] = seccomp["listenerMetadata"]
    return document


def hand_on(
    listener: Fd, seccomp: dict[str, Any], pid: int, bundle: Bundle, *, status: str = "creating"
) -> None:
    """Send the descriptor and the state to the socket at `listenerPath`. Raises KernelError if nobody takes it."""
    path = str(seccomp["listenerPath"])
    text = json.dumps(process_state(seccomp, pid, bundle, status)).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
        agent.settimeout(SECONDS)
        try:
            agent.connect(os.fsencode(path))
            sent = socket.send_fds(agent, [text], [int(listener)])
            agent.sendall(text[sent:])  # a socket has room for so much; annotations may be long
        except OSError as error:
            raise KernelError(
                "hand on the seccomp listener", error.errno or 110, path,
                hint="nobody takes it", remedy="start the agent that listens there first",
            ) from error  # fmt: skip
