"""Times in logs that are lines of text: RFC 3339 with nanoseconds, UTC."""

from __future__ import annotations

import re
import time

LONGEST_LINE = 16 << 10
_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII)


def moment(time_ns: int, *, fixed: bool = False) -> bytes:
    """Nanoseconds since 1970 as text; without *fixed* as Go's RFC3339Nano, without zeros at the end."""
    seconds, rest = divmod(time_ns, 10**9)
    fraction = f"{rest:09d}"
    if not fixed:
        fraction = fraction.rstrip("0")
    head = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{head}.{fraction}Z".encode() if fraction else f"{head}Z".encode()


def time_of(text: str) -> int:
    """The same the other way round, with any offset. Raises ValueError."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"not a time: {text[:40]!r}")
    import calendar

    *numbers, fraction, offset = found.groups()
    seconds = calendar.timegm((*map(int, numbers), 0, 0, 0))
    if offset != "Z":
        away = int(offset[1:3]) * 3600 + int(offset[4:6]) * 60
        seconds -= away if offset[0] == "+" else -away
    return seconds * 10**9 + int((fraction or "").ljust(9, "0"))
