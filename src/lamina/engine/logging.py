"""Which log a container has: written by whoever looks after it, read by anybody."""

from __future__ import annotations

import os

from lamina.errors import NotFound, Unsupported
from lamina.supervisor.logs import LOCAL, NONE, PASSTHROUGH, check_log, open_log, path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from lamina.engine.options import Options
    from lamina.store.containers import Home
    from lamina.supervisor.logs import Writer
    from lamina.supervisor.logs.following import Log

    Asked = tuple[str, tuple[tuple[str, str], ...]]


__all__ = [
    "LOCAL",
    "NONE",
    "PASSTHROUGH",
    "driver_of",
    "log_of",
    "path_of",
    "read_log_options",
    "record_of",
    "writer",
]


def read_log_options(driver: Any, options: Any) -> Asked:
    """`--log-driver` and `--log-opt` (texts NAME=VALUE, or a mapping), checked. Raises InvalidInput."""
    from lamina.engine.notation import listed, text_of

    if hasattr(options, "items"):
        pairs = {
            text_of(key, "log option"): text_of(str(given), "log option") for key, given in options.items()
        }
    else:
        pairs = dict(
            text_of(entry, "log option").partition("=")[::2] for entry in listed(options, "log options")
        )
    name = LOCAL if driver is None else text_of(driver, "log driver")
    check_log(name, pairs)
    return name, tuple(pairs.items())


def writer(directory: bytes, identity: str, options: Options, env: Sequence[str]) -> Writer | None:
    """What writes the log of a container with these *options* and variables; None: none is kept. Raises OSError."""
    driver, given = options.log or (LOCAL, ())
    labels = dict(options.labels)
    variables = dict(entry.partition("=")[::2] for entry in env)
    return open_log(directory, driver, dict(given), identity=identity, labels=labels, env=variables)


def log_of(home: Home, asked: dict[str, Any]) -> Log:
    """The log of the container whose record is *asked*. Raises Unsupported where it keeps none, NotFound."""
    from lamina.supervisor.logs.following import Log

    driver = driver_of(asked)
    if driver in (NONE, PASSTHROUGH):
        raise Unsupported(
            f"read the log of container {home.shown}: its log driver is {driver}, which keeps nothing",
            remedy="make it with another --log-driver",
        )
    log = Log(home.path, driver, home.id)
    started = os.path.lexists(home.path + b"/state.json")
    kept = not asked.get("rm") or asked.get("detached") or asked.get("log")
    if started and kept and not log.exists():
        raise NotFound(f"read the log of container {home.shown}: it was removed from {os.fsdecode(log.path)}")
    return log


def driver_of(asked: dict[str, Any]) -> str:
    """The name of the driver of the container whose record is *asked*."""
    return str((asked.get("log") or {}).get("driver") or LOCAL)


def record_of(options: Options) -> dict[str, Any]:
    """What a record says of the log of a container with these *options*."""
    driver, given = options.log or (LOCAL, ())
    return {"driver": driver, "options": dict(given)}
