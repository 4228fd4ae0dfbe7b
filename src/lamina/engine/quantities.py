"""Numbers as people read them."""

from __future__ import annotations


def plural(number: int, one: str, many: str) -> str:
    """`1 entry`, `1,234 entries`."""
    return f"{number:,} {one if number == 1 else many}"


def size(number: int) -> str:
    """`284 B`, `1.2 kB`, `3.4 GB`: powers of 1000, as ls --si."""
    amount, unit = float(number), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 999.95:
            break
        amount, unit = amount / 1000, larger
    return f"{number} B" if unit == "B" else f"{amount:.1f} {unit}"
