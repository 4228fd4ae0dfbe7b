"""Command lines as tables: what a verb accepts is declared once, and read without the price of a framework."""

from __future__ import annotations

import os
import sys


def open_standard_streams() -> None:
    """What both faces begin with. A caller may have closed 0, 1 or 2 (`>&-`): what is opened next must not be taken for
    standard output.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
