"""Durations as people say them. Lists are full of them, so nothing is imported for it."""

from __future__ import annotations

_UNITS = (("year", 31_536_000), ("month", 2_592_000), ("week", 604_800), ("day", 86_400), ("hour", 3600))


def lasting(seconds: float) -> str:
    """A duration in one unit, as docker says it: "5 seconds", "About a minute", "2 hours", "3 weeks"."""
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return "1 second" if int(seconds) == 1 else f"{int(seconds)} seconds"
    if seconds < 120:
        return "About a minute"
    if seconds < 3600:
        return f"{int(seconds // 60)} minutes"
    if seconds < 7200:
        return "About an hour"
    for name, size in _UNITS:
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {name}s"
    return f"{int(seconds // 3600)} hours"


def ago(moment: float, now: float) -> str:
    """How long before *now* it was; both in seconds since 1970."""
    return lasting(max(0.0, now - moment)) + " ago"


def go(nanoseconds: int) -> str:
    """As Go prints a duration: `0s`, `500ms`, `1.5s`, `1m30s`, `2h0m0s`."""
    sign, rest = "-" if nanoseconds < 0 else "", abs(nanoseconds)
    if not rest:
        return "0s"
    for unit, size in (("ns", 1), ("µs", 1000), ("ms", 10**6)):
        if rest < size * 1000:
            return f"{sign}{_decimal(rest, size)}{unit}"
    minutes, seconds = divmod(rest, 60 * 10**9)
    text = f"{_decimal(seconds, 10**9)}s"
    if minutes >= 60:
        return f"{sign}{minutes // 60}h{minutes % 60}m{text}"
    return f"{sign}{minutes}m{text}" if minutes else sign + text


def _decimal(number: int, unit: int) -> str:
    whole, part = divmod(number, unit)
    digits = f"{part:0{len(str(unit)) - 1}}".rstrip("0") if part else ""
    return f"{whole}.{digits}" if digits else str(whole)
