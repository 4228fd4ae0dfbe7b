"""Go's path.Match, as docker's filters use it: `*` and `?` do not go over a slash."""

from __future__ import annotations

import re


def matches(text: str, pattern: str) -> bool:
    """Whether *text* is what *pattern* says: `*`, `?`, `[a-z]`, `[^a-z]`; a backslash takes the next as it is."""
    expression, at = "", 0
    while at < len(pattern):
        letter = pattern[at]
        if letter == "*":
            expression += "[^/]*"
        elif letter == "?":
            expression += "[^/]"
        elif letter == "[" and (end := pattern.find("]", at + 2)) > 0:
            inside = pattern[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            expression += f"[{inside}]"
            at = end
        elif letter == "\\" and at + 1 < len(pattern):
            at += 1
            expression += re.escape(pattern[at])
        else:
            expression += re.escape(letter)
        at += 1
    try:
        return re.fullmatch(expression, text) is not None
    except re.error:
        return False
