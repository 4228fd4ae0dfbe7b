"""When an image was made, as its config says."""

from __future__ import annotations

from datetime import datetime

__all__ = ["nanoseconds"]

_LAST = 253_370_764_800  # 9999-01-01T00:00:00Z: what is later cannot be written in every zone, nor as a rounded float


def nanoseconds(text: str | None) -> int:
    """A time as configs have it (RFC 3339) in nanoseconds since 1970; 0 for none, for what is none, for one before
    1970, and for one that no calendar has room for: nothing that is shown of an image may fail for it.
    """
    if not text:
        return 0
    body, zone = (text[:-1], "+00:00") if text.endswith(("Z", "z")) else (text, "")
    whole, dot, part = body.partition(".")
    digits = part[: len(part) - len(part.lstrip("0123456789"))] if dot else ""
    rest = part[len(digits) :]
    try:
        moment = datetime.fromisoformat(whole + rest + zone)
        if moment.tzinfo is None:
            return 0
        seconds = int(moment.timestamp())
    except (ValueError, OverflowError):
        return 0
    return seconds * 10**9 + int(digits[:9].ljust(9, "0")) if 0 <= seconds < _LAST else 0
