"""The command of the specification as execve(2) takes it: the part of a start that differs from one to the next."""

from __future__ import annotations

from lamina.errors import InvalidInput
from lamina.runtime.init import EXEC_NAME, INIT_NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def command_strings(process: dict[str, Any]) -> tuple[list[bytes], list[bytes]]:
    """argv and envp of the specification's `process`: of a variable that is given twice the last value, for most
    programs take the first one that they find. Raises InvalidInput for none, and for a NUL byte in them.
    """
    args = [str(a).encode("utf-8", "surrogateescape") for a in process.get("args") or []]
    if not args or not args[0]:
        raise InvalidInput("start: no command is given", remedy="name one behind the image")
    environment = [str(e).encode("utf-8", "surrogateescape") for e in process.get("env") or []]
    if any(b"\0" in text for text in (*args, *environment)):
        raise InvalidInput("start: a NUL byte cannot be part of an argument or of the environment")
    variables = {entry[: entry.find(b"=") + 1] or entry: entry for entry in environment}
    return args, environment if len(variables) == len(environment) else list(variables.values())


def launcher_strings(process: dict[str, Any], *, init: bool = False) -> dict[str, list[bytes]]:
    """What fills the holes of a plan whose command is executed by the launcher: its argv, of which the command's is
    all but the first, and envp. With *init* it stays as process 1.
    """
    argv, envp = command_strings(process)
    return {"argv": [INIT_NAME if init else EXEC_NAME, *argv], "envp": envp}
