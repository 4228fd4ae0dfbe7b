"""One call of a plugin of CNI: a program that is told by its environment and standard input (SPEC, sections 2, 3)."""

from __future__ import annotations

import os

from lamina.document import decode, encode
from lamina.engine.cni_lists import CHECKED, PREFIX
from lamina.errors import KernelError, LaminaError, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

DEVICE = "eth0"
PATIENCE = 60.0  # seconds for one plugin: some ask a DHCP server
ADD, DEL, CHECK, STATUS = "ADD", "DEL", "CHECK", "STATUS"
_LARGEST = 1 << 20
_SIGKILL = 9
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def program(kept: Mapping[str, Any], kind: str) -> str:
    """The path of the plugin *kind*, in the directories of what was *kept*. Raises NotFound."""
    for directory in kept["path"]:
        if os.access(path := f"{directory}/{kind}", os.X_OK):
            return path
    raise NotFound(
        f"network {PREFIX}{kept['config']['name']}: its plugin {kind} is not in {', '.join(kept['path'])}",
        remedy="install the package containernetworking-plugins, or set CNI_PATH",
    )


def call(
    held: int,
    kept: Mapping[str, Any],
    plugin: Mapping[str, Any],
    command: str,
    owner: str,
    netns: str,
    previous: dict[str, Any] | None,
) -> dict[str, Any] | None:
    """What it answers. Raises LaminaError with its words, NotFound, KernelError."""
    import subprocess

    config, kind = kept["config"], str(plugin["type"])
    given = {key: said for key, said in plugin.items() if key != "capabilities"}
    given.update(cniVersion=config["cniVersion"], name=config["name"])
    able = plugin.get("capabilities") or {}
    if asked := {key: said for key, said in kept["asked"].items() if able.get(key)}:
        given["runtimeConfig"] = asked
    if previous is not None and (command != DEL or config["cniVersion"] >= CHECKED):
        given["prevResult"] = previous
    environment = {"PATH": _PATH, "CNI_COMMAND": command, "CNI_PATH": ":".join(kept["path"])}
    if command != STATUS:
        environment.update(CNI_CONTAINERID=owner, CNI_NETNS=netns, CNI_IFNAME=DEVICE, CNI_ARGS="")
    what = f"network {PREFIX}{config['name']}: plugin {kind}: {command}"
    try:
        status, out, err = _execute(program(kept, kind), encode(given).encode(), environment, held)
    except subprocess.TimeoutExpired:
        raise LaminaError(f"{what}: not done within {PATIENCE:g} s, and killed") from None
    except OSError as error:
        if isinstance(error, LaminaError):
            raise
        raise KernelError("execute", error.errno or 0, kind) from error
    if status:
        raise LaminaError(f"{what}: {_words(out, err) or _ended(status)}")
    if command != ADD:
        return None
    return decode(out[:_LARGEST], f"the answer of the plugin {kind}")


def _execute(program: str, told: bytes, environment: dict[str, str], held: int) -> tuple[int, bytes, bytes]:
    """(status, what it said, its errors). In a session of its own: a Ctrl-C meant for us is not for it, and with it go
    those whom it has begun (IPAM) where it is not done in time.
    """
    from subprocess import PIPE, Popen

    how: Any = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE, "env": environment, "cwd": "/"}
    with Popen([program], start_new_session=True, pass_fds=(held,), **how) as process:
        try:
            out, err = process.communicate(told, PATIENCE)
        except BaseException:
            if process.returncode is None:  # not waited for so far: the number is still its own
                os.killpg(process.pid, _SIGKILL)
            raise
    return process.returncode, out, err


def _words(out: bytes, err: bytes) -> str:
    """What it says went wrong (SPEC, Error)."""
    try:
        said = decode(out, "error")
        words = [str(said[key]) for key in ("msg", "details") if said.get(key)]
        if words:
            return f"{'; '.join(words)} (code {said.get('code')})"
    except LaminaError:
        pass
    return err.decode(errors="replace").strip()[-500:] or out.decode(errors="replace").strip()[-500:]


def _ended(status: int) -> str:
    return f"it ended with {status}" if status > 0 else f"it was ended by signal {-status}"
