"""Paths as they are typed, from the directory somebody is in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

_SPECIAL = re.compile(r"([*?\[\\])")


def absolute(patterns: Iterable[str]) -> list[str]:
    """Each pattern from the root: a relative one is taken from the working directory, whose own name is no pattern."""
    here = _SPECIAL.sub(r"\\\1", os.getcwd())
    return [one if one.startswith("/") else os.path.normpath(os.path.join(here, one)) for one in patterns]
