"""SCMP_ACT_NOTIFY: the descriptor on which a filter asks, handed on to whoever answers.

https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#the-container-process-state, seccomp_unotify(2)
"""

from __future__ import annotations

import json
import os
import socket

from lamina.errors import InvalidInput, KernelError
from lamina.linux.fd import Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.runtime.bundle import Bundle

NOTIFY = "SCMP_ACT_NOTIFY"
SECONDS = 10  # an agent that does not take a message of a kilobyte in that time is as good as none


def check_listener(seccomp: dict[str, Any]) -> None:
    """Raise InvalidInput for a `linux.seccomp` whose listener could not be handed over, or that contradicts itself."""
    path, rules = seccomp.get("listenerPath"), seccomp.get("syscalls") or []
    if seccomp.get("listenerMetadata") and not path:
        raise InvalidInput(
            "read seccomp profile: listenerMetadata without listenerPath", remedy="give both or none"
        )
    if seccomp.get("defaultAction") == NOTIFY:
        raise InvalidInput(
            f"read seccomp profile: {NOTIFY} cannot be the default action: nobody could hand the listener over"
        )
    asking = [name for rule in rules if rule.get("action") == NOTIFY for name in rule.get("names") or []]
    if not asking:
        return
    if not path:
        raise InvalidInput(
            f"read seccomp profile: {NOTIFY} needs a listenerPath, the socket of whoever answers"
        )
    if "sendmsg" in asking:
        raise InvalidInput(
            f"read seccomp profile: sendmsg cannot be {NOTIFY}: the listener is handed over by it",
            remedy="permit sendmsg, and ask about socket or connect",
        )


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
            socket.send_fds(agent, [text], [int(listener)])
        except OSError as error:
            raise KernelError(
                "hand on the seccomp listener", error.errno or 110, path,
                hint="nobody takes it", remedy="start the agent that listens there first",
            ) from error  # fmt: skip
