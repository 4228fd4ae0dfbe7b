"""Sizes as docker shows them: three digits and powers of 1000."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def human(number: float) -> str:
    """`0B`, `7.33MB`, `124MB`, `1.02GB` (docker/go-units, HumanSizeWithPrecision with 3)."""
    amount, unit = float(number), 0
    while amount >= 1000 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.3g}{_UNITS[unit]}" if amount < 999.5 else f"{amount:.0f}{_UNITS[unit]}"
