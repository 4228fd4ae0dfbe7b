"""What went wrong, where callers look for it: a line in the log, and one on standard error."""

from __future__ import annotations

import os
import sys
import time

from lamina.argv import quick
from lamina.document import encode
from lamina.errors import CommandNotFound, LaminaError
from lamina.runtime_cli.options import GLOBAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FAILED = 1
# as runc: whoever reads the status of `exec` must be able to tell ours from the command's
STATUS = {"exec": 255}


def report(error: BaseException, argv: list[str]) -> int:
    """Say what *error* means; the exit status."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else FAILED
    values, verb = _global(argv)
    if isinstance(error, KeyboardInterrupt):
        return 130
    if values.get("debug"):
        import traceback

        traceback.print_exception(error)
    log(values, "error", text_of(error), errors_too=True)
    return STATUS.get(verb, FAILED)


def text_of(error: BaseException) -> str:
    """The message, in the words that engines look for."""
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    if isinstance(error, CommandNotFound):
        # podman and Docker turn this into 127
        return f"{error.message}: executable file not found in $PATH{notes}"
    if isinstance(error, LaminaError):
        return f"{error}{notes}"
    if isinstance(error, OSError) and error.errno is not None:
        place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
        return f"{place}{os.strerror(error.errno)}{notes}"
    return f"internal error: {type(error).__name__}: {error}{notes} (a bug in Lamina: repeat with --debug)"


def warn(args: Any, text: str) -> None:
    """Something worth knowing that stops nothing."""
    log(vars(args), "warning", text)


def log(values: dict[str, Any], level: str, text: str, *, errors_too: bool = False) -> None:
    """Append a line to `--log`, in its format, and print errors on standard error as well."""
    form = values.get("log_format") or "text"
    path = values.get("log")
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if form == "json":
        line = encode({"level": level, "msg": text, "time": now}) + "\n"
    else:
        line = f'time="{now}" level={level} msg={encode(text)}\n'
    written = False
    if path:
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY
            descriptor = os.open(path, flags, 0o644)
            try:
                os.write(descriptor, line.encode())
                written = True
            finally:
                os.close(descriptor)
        except OSError as error:
            _say(f"lamina-runtime: write {path}: {os.strerror(error.errno or 0)}\n")
    if errors_too or not written:
        _say(line if form == "json" and not path else f"lamina-runtime: {text}\n")


def _say(line: str) -> None:
    try:
        sys.stdout.flush()
        os.write(2, line.encode("utf-8", "surrogateescape"))
    except (OSError, ValueError):
        pass


def _global(argv: list[str]) -> tuple[dict[str, Any], str]:
    before = quick.options(GLOBAL.options, argv, interspersed=False)
    if before is None:
        return {}, ""
    return before[0], before[1][0] if before[1] else ""
