"""What a container wrote, on disk: the drivers of docker's `--log-driver`, each with its own files.

    local         log                 frames (frames.py); the default
    json-file     <id>-json.log       docker's lines of JSON (json_lines.py)
    k8s-file      ctr.log             lines as the kubelet reads them (cri.py)
    none                              nothing is kept
    passthrough                       nothing is kept, and the container has the caller's streams themselves

With `max-size` a file that would become larger is called `.1`, the one before `.2`, and `max-file` of them are kept,
the one that is written to included; a single one is begun anew (rotation.py). `following` reads them, while they are
written to, rotated, cut or removed.
"""

from __future__ import annotations

from lamina.errors import InvalidInput
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    class Writer(Protocol):
        """Takes what a container writes. A disk that is full ends the log, never the container: see `error`.

        `rest` says whether everything is written down, so that another one can go on with the file.
        """

        @property
        def error(self) -> OSError | None: ...
        def write(self, stream: bytes, data: bytes) -> None: ...
        def rest(self) -> bool: ...
        def close(self) -> None: ...


LOCAL, JSON_FILE, K8S_FILE, NONE, PASSTHROUGH = "local", "json-file", "k8s-file", "none", "passthrough"
DRIVERS = (LOCAL, JSON_FILE, K8S_FILE, NONE, PASSTHROUGH)
_SIZES = ("max-size", "max-file")
OPTIONS = {
    LOCAL: _SIZES,
    JSON_FILE: (*_SIZES, "labels", "env"),
    K8S_FILE: _SIZES,
    NONE: (),
    PASSTHROUGH: (),
}
_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}  # docker's here are decimal
LEAST, MOST_FILES = 1024, 1000
LONGEST_NUMBER = 40  # of a size; int() refuses thousands of digits


@value
class LogEntry:
    """A piece of output: `stream` is "stdout" or "stderr", `time_ns` counts from 1970, `attributes` are those that the
    driver noted with it.
    """

    stream: str
    time_ns: int
    data: bytes
    attributes: tuple[tuple[str, str], ...] = ()


def check_log(driver: str, options: Mapping[str, str]) -> None:
    """Raises InvalidInput for a driver that is none, and for options that it has not or that cannot be meant."""
    if driver not in DRIVERS:
        raise InvalidInput(f"log driver {driver}: there is none of that name", remedy=", ".join(DRIVERS))
    for name, text in options.items():
        if name not in OPTIONS[driver]:
            raise InvalidInput(
                f"log option {name}: the driver {driver} has none of that name",
                remedy=f"it has {', '.join(OPTIONS[driver]) or 'none'}",
            )
        if name == "max-size":
            size_of(text)
        elif name == "max-file":
            files_of(text)


def size_of(text: str) -> int:
    """The bytes that `max-size` means: a number, or one with k, m or g. Raises InvalidInput."""
    digits = text.strip().lower().removesuffix("b")
    unit = digits[-1:] if digits[-1:] in "kmgt" else ""
    number = digits.removesuffix(unit).strip()
    whole, _, part = number.partition(".")
    if len(number) > LONGEST_NUMBER or not (
        whole.isascii() and whole.isdigit() and ((part.isascii() and part.isdigit()) or "." not in number)
    ):
        raise InvalidInput(f"log option max-size {text!r}: not a size", remedy="such as 10m")
    size: int = int(whole + part) * _UNITS[unit] // 10 ** len(part)
    if not LEAST <= size < 1 << 62:
        raise InvalidInput(f"log option max-size {text!r}: the least is {LEAST} bytes")
    return size


def files_of(text: str) -> int:
    """How many files `max-file` means. Raises InvalidInput."""
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= MOST_FILES):
        raise InvalidInput(f"log option max-file {text!r}: not a number from 1 to {MOST_FILES}")
    return int(text)


def open_log(
    directory: bytes,
    driver: str,
    options: Mapping[str, str],
    *,
    identity: str = "",
    labels: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
) -> Writer | None:
    """What writes the log of the container *identity* in its *directory*; None where none is kept. Raises OSError.

    Its *labels* and *env* are for drivers that note some of them.
    """
    if driver in (NONE, PASSTHROUGH):
        return None
    path = path_of(directory, driver, identity)
    if driver == LOCAL:
        from lamina.supervisor.logs.frames import LogWriter

        return LogWriter(path, *_limits(options))
    if driver == JSON_FILE:
        from lamina.supervisor.logs.json_lines import JsonWriter, attributes_of

        return JsonWriter(path, *_limits(options), attributes_of(options, labels or {}, env or {}))
    from lamina.supervisor.logs.cri import CriWriter

    return CriWriter(path, *_limits(options))


def _limits(options: Mapping[str, str]) -> tuple[int, int]:
    """The size of a file, 0 for any, and how many there are."""
    size = size_of(options["max-size"]) if "max-size" in options else 0
    return size, files_of(options["max-file"]) if "max-file" in options else 1


def path_of(directory: bytes, driver: str, identity: str) -> bytes:
    """The file to which *driver* writes."""
    name = {LOCAL: b"log", JSON_FILE: identity.encode() + b"-json.log", K8S_FILE: b"ctr.log"}[driver]
    return directory + b"/" + name
