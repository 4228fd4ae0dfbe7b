"""Docker's notation for what can be asked of a container, read into the kernel's units (see `options.Options`)."""

from __future__ import annotations

import os

from lamina.engine.options import CONTAINER, DURABILITIES, ON_FAILURE, OWNER, PERIOD, RESTARTS
from lamina.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

# Docker's: less than this and the container cannot even start
SMALLEST_MEMORY = 6 << 20
LARGEST_NUMBER = (1 << 63) - 1
LONGEST_HOSTNAME = 64  # the kernel's HOST_NAME_MAX
LONGEST_WAIT = 10**9  # seconds
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}


def text_of(given: Any, what: str) -> str:
    """*given* (str, bytes or path) as a str without NUL."""
    if isinstance(given, (str, bytes, os.PathLike)):
        text = os.fsdecode(given)
        if "\0" not in text:
            return text
    raise InvalidInput(f"run: {what} {given!r}: not a text without NUL bytes")


def read_memory(given: str | int | None) -> int | None:
    """`--memory`: bytes, or a number with k, m, g, t or p (also kb, kib), a power of 1024. 0 means no limit."""
    if given is None:
        return None
    number = given if isinstance(given, int) and not isinstance(given, bool) else size_of(given)
    if number is None or not 0 <= number <= LARGEST_NUMBER:
        raise InvalidInput(
            f"run: memory {given}: not a size", remedy="a number of bytes, or one with k, m or g: 512m"
        )
    if 0 < number < SMALLEST_MEMORY:
        raise InvalidInput(f"run: memory {given}: the least is 6m")
    return number or None


def size_of(given: Any) -> int | None:
    """The bytes that a size such as `512m` or `1.5GiB` means; None if it is none."""
    text = str(given).strip().lower()
    digits = text.rstrip("bikmgtp ")
    unit = text[len(digits) :].strip()
    unit = unit.removesuffix("b").removesuffix("i") if unit not in ("i", "ib") else "?"
    if unit not in _UNITS or not digits or digits.count(".") > 1:
        return None
    whole, _, part = digits.partition(".")
    if not is_number(whole) or (part and not is_number(part)) or digits.endswith("."):
        return None
    scaled: int = (int(whole + part) << _UNITS[unit]) // 10 ** len(part)
    return scaled


def read_cpus(given: str | float | None) -> int | None:
    """`--cpus`: how many processors, as microseconds of each PERIOD. 0 means no limit."""
    if given is None:
        return None
    text = str(given).strip()
    whole, _, part = text.partition(".")
    if not is_number(whole or "0") or not is_number(part or "0") or text in ("", ".") or len(part) > 9:
        raise InvalidInput(f"run: cpus {given}: not a number of processors", remedy="such as 2 or 0.5")
    quota = int((whole or "0") + part.ljust(9, "0")[:9]) * PERIOD // 10**9
    if not int((whole or "0") + (part or "0")):
        return None
    here = os.cpu_count() or 1
    if quota < PERIOD // 100 or quota > here * PERIOD:
        raise InvalidInput(f"run: cpus {given}: from 0.01 to {here}, as many as there are here")
    return quota


def read_pids_limit(given: str | int | None) -> int | None:
    """`--pids-limit`: how many processes and threads; 0 and -1 mean no limit."""
    if given is None:
        return None
    text = str(given).strip()
    if text != "-1" and not is_number(text):
        raise InvalidInput(f"run: pids limit {given}: not a number")
    number = int(text)
    if number > 1 << 22:  # the kernel's PID_MAX_LIMIT
        raise InvalidInput(f"run: pids limit {given}: more than the kernel can number ({1 << 22})")
    return number if number > 0 else None


def read_env(given: Any, environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """`-e NAME=VALUE`, or `-e NAME` for the caller's value: nothing where the caller has none."""
    items: list[tuple[str, str | None]] = []
    if hasattr(given, "items"):
        items = [(text_of(k, "environment variable"), v) for k, v in given.items()]
    else:
        for entry in listed(given, "env"):
            name, equals, text = text_of(entry, "environment variable").partition("=")
            items.append((name, text if equals else None))
    found = []
    for name, own in items:
        if not name or "=" in name:
            typed = name if own is None else f"{name}={own}"
            raise InvalidInput(
                f"run: environment variable {typed!r}: not a name", remedy="NAME=VALUE, or NAME"
            )
        content = environ.get(name) if own is None else text_of(own, f"environment variable {name}")
        if content is not None:
            found.append((name, content))
    return tuple(found)


def listed(given: Any, what: str) -> list[Any]:
    """*given* as a list; None is an empty one. Raises InvalidInput for a text, or what is no list."""
    if given is None:
        return []
    if hasattr(given, "keys"):  # its values would be dropped: docker-py's {source: {"bind": target}}, say
        raise InvalidInput(
            f"run: {what} {given!r}: a mapping, not a list",
            remedy="a list of what stands behind the option on the command line",
        )
    if isinstance(given, (str, bytes)) or not hasattr(given, "__iter__"):
        raise InvalidInput(f"run: {what} {given!r}: not a list")
    return list(given)


def _hostname(given: Any) -> str | None:
    text = "" if given is None else text_of(given, "hostname")
    if not text:
        return None
    allowed = all(c.isascii() and (c.isalnum() or c in "-._") for c in text)
    if not allowed or len(text) > LONGEST_HOSTNAME or text[0] in "-.":
        raise InvalidInput(
            f"run: hostname {text!r}: not a host name",
            remedy=f"letters, digits, '-' and '.', at most {LONGEST_HOSTNAME}",
        )
    return text


def _workdir(given: Any) -> str | None:
    text = "" if given is None else text_of(given, "working directory")
    if not text:
        return None
    if not text.startswith("/"):
        raise InvalidInput(f"run: working directory {text!r}: not an absolute path")
    return "/" + os.path.normpath(text).lstrip("/")


def _user(given: Any) -> str | None:
    if given is None or given == "":
        return None
    if isinstance(given, bool) or not isinstance(given, (str, int)):
        raise InvalidInput(f"run: user {given!r}: not a name or number")
    return text_of(str(given), "user")


def _entrypoint(given: Any) -> tuple[str, ...] | None:
    if given is None:
        return None
    if isinstance(given, (str, bytes, os.PathLike)):
        text = text_of(given, "entrypoint")
        return (text,) if text else ()
    return tuple(text_of(word, "entrypoint") for word in listed(given, "entrypoint"))


def _labels(given: Any) -> tuple[tuple[str, str], ...]:
    if given is None:
        return ()
    if hasattr(given, "items"):
        items = list(given.items())
    else:
        items = [text_of(entry, "label").partition("=")[::2] for entry in listed(given, "labels")]
    found = {}
    for name, text in items:
        if not name:
            raise InvalidInput(f"run: label {name}={text}: it has no name")
        found[text_of(name, "label")] = text_of(text, "label")
    return tuple(found.items())


def _name(given: Any) -> str | None:
    from lamina.store.names import check_name

    return None if given is None else check_name(text_of(given, "container name"))


def is_number(text: str) -> bool:
    """Whether *text* is digits, and not more of them than any number here has: int() refuses thousands."""
    return text.isascii() and text.isdigit() and len(text) < 25


def _platform(given: Any) -> str | None:
    """Checked by whoever chooses the image."""
    return None if given in (None, "") else text_of(given, "platform")


def read_restart(given: Any) -> tuple[str, int]:
    """`--restart no|always|unless-stopped|on-failure[:TIMES]`."""
    policy, colon, times = ("no" if given in (None, "") else text_of(given, "restart policy")).partition(":")
    if policy not in RESTARTS:
        raise InvalidInput(f"run: restart policy {given}: not one of {', '.join(RESTARTS)}")
    if colon and policy != ON_FAILURE:
        raise InvalidInput(f"run: restart policy {given}: only {ON_FAILURE} takes a number of times")
    if colon and not is_number(times):
        raise InvalidInput(
            f"run: restart policy {given}: {times!r} is not a number of times", remedy=f"{ON_FAILURE}:5"
        )
    return policy, int(times or 0)


def _stop_signal(given: Any) -> int | None:
    from lamina.linux.signals import signal_number

    if given in (None, ""):
        return None
    number = signal_number(str(given), "run: stop signal")
    if not number:
        raise InvalidInput("run: stop signal 0: it stops nobody")
    return number


def _stop_timeout(given: Any) -> int | None:
    if given in (None, ""):
        return None
    text = str(given).strip()
    if (text != "-1" and not is_number(text)) or int(text) > LONGEST_WAIT:
        raise InvalidInput(
            f"run: stop timeout {given}: not a number of seconds", remedy="-1 waits without end"
        )
    return int(text)


def _timeout(given: Any) -> float | None:
    if given in (None, ""):
        return None
    try:
        seconds = float(given)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds <= LONGEST_WAIT:
        raise InvalidInput(f"run: timeout {given}: not a number of seconds")
    return seconds or None


def _lifetime(given: Any) -> str:
    if given not in (CONTAINER, OWNER):
        raise InvalidInput(f"run: lifetime {given}: not one of {CONTAINER}, {OWNER}")
    return str(given)


def _layer_limits(given: Any) -> tuple[tuple[str, int | str], ...]:
    """Each limit has to be one, whether something is pulled or not."""
    if given is None:
        return ()
    if not hasattr(given, "items"):
        raise InvalidInput(f"run: layer_limits {given!r}: no limits by name")
    from lamina.image.tar.limits import given as read

    found = tuple((text_of(name, "layer_limits"), str(number)) for name, number in given.items())
    read(wanted=dict(found))
    return found


def _durability(given: Any) -> str:
    if given not in DURABILITIES:
        raise InvalidInput(
            f"run: durability {given}: not one of {', '.join(DURABILITIES)}",
            remedy="none never waits for the disk, and loses what a crash of the machine takes",
        )
    return str(given)


READERS: dict[str, Callable[[Any], Any]] = {
    "name": _name,
    "hostname": _hostname,
    "workdir": _workdir,
    "user": _user,
    "memory": read_memory,
    "pids_limit": read_pids_limit,
    "entrypoint": _entrypoint,
    "labels": _labels,
    "platform": _platform,
    "restart": read_restart,
    "stop_signal": _stop_signal,
    "stop_timeout": _stop_timeout,
    "durability": _durability,
    "timeout": _timeout,
    "lifetime": _lifetime,
    "layer_limits": _layer_limits,
}
