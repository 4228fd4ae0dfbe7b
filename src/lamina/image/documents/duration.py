"""A duration as Go writes it, and so whoever writes Dockerfiles and docker's options."""

from __future__ import annotations

__all__ = ["duration"]

_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}


def duration(text: str) -> int | None:
    """Nanoseconds of a duration as Go writes it (`1h30m`, `1.5s`), None if it is none, or negative."""
    text = text.strip()
    if text == "0":
        return 0
    total, left = 0, text
    while left:
        digits = left[: len(left) - len(left.lstrip("0123456789."))]
        left = left[len(digits) :]
        unit = left[: len(left) - len(left.lstrip("nuµμmsh"))]
        while unit and unit not in _UNITS:  # `1m2s` has no unit "ms"
            unit = unit[:-1]
        left = left[len(unit) :]
        whole, _, part = digits.partition(".")
        if not unit or not (whole or part) or "." in part or len(digits) > 20:
            return None
        total += int(whole or "0") * _UNITS[unit] + int(part or "0") * _UNITS[unit] // 10 ** len(part or "0")
    return total if text else None
