"""Every write that apply and undo make, to the host and to the journal: one method a system call, one seam before each.

Tests subclass `Hands` and override `before`, to raise ENOSPC at the n-th write or to die there. Reading is not here.
"""

from __future__ import annotations

import os


class Hands:
    """Plain calls with the names of `os`; each says first what it is about to do."""

    def before(self, call: str, subject: bytes) -> None:
        """Called before every write, with its name, and at the named points between ("apply:planned")."""
