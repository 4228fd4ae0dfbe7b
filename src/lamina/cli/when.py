"""Moments as people say them, and the times people type. (`durations`: how long something lasts, or is ago.)"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from time import time

_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h|d)", re.ASCII)
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_UNIX = re.compile(r"-?\d+(\.\d*)?", re.ASCII)
_MOST = 2**63 / 1e9  # seconds, as many as Go's durations have


def timestamp(moment: float) -> str:
    """Seconds since 1970 as RFC 3339 in UTC, with microseconds."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def seconds(moment: float) -> str:
    """Seconds since 1970 as RFC 3339 in UTC, whole ones."""
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}"


def local(moment: float) -> str:
    """Seconds since 1970 as docker's lists have it, in the user's time zone: `2026-11-27 06:40:15 +0000 UTC`."""
    return f"{datetime.fromtimestamp(moment, UTC).astimezone():%Y-%m-%d %H:%M:%S %z %Z}"


def nanoseconds(moment_ns: int) -> str:
    """Nanoseconds since 1970 as RFC 3339 in UTC with nine digits, as docker says it."""
    seconds, rest = divmod(moment_ns, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def moment(text: str) -> float:
    """A point in time as docker's --since takes it: `10m`, `1h30m` (before now), a Unix time, or RFC 3339.

    Returns seconds since 1970. Raises ValueError with the reason.
    """
    if text and not _DURATION.sub("", text):
        before = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text))
        if before < _MOST:
            return time() - before
    elif _UNIX.fullmatch(text):
        if abs(found := float(text)) < _MOST:
            return found
    else:
        try:
            return datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError):
            pass
    raise ValueError("not a time such as 10m, 2024-05-01T12:00:00 or 1714564800")
