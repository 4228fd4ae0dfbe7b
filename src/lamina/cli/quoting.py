"""Names as they can be read, and pasted into a shell: nothing that a terminal would obey is ever printed."""

from __future__ import annotations

import os

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-~^")
_ESCAPES = {
    "\n": "\\n",
    "\t": "\\t",
    "\r": "\\r",
    "\033": "\\e",
    "\a": "\\a",
    "\b": "\\b",
    "'": "\\'",
    "\\": "\\\\",
}


def quote(name: bytes | str) -> str:
    """*name* as a shell word: bare where that is safe, else `'in quotes'`, else `$'with \\n escapes'`.

    Letters of any script stay as they are; control characters, invisible or direction-changing ones and bytes that
    are not UTF-8 are escaped.
    """
    text = os.fsdecode(name)
    if text and all(c in _PLAIN or (c.isalnum() and ord(c) > 127) for c in text) and text[0] not in "~=":
        return text
    if all(c.isprintable() for c in text) and "'" not in text:
        return f"'{text}'"
    return "$'" + "".join(_ESCAPES.get(c) or (c if c.isprintable() else _escape(c)) for c in text) + "'"


def _escape(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def join(words: list[str] | tuple[str, ...]) -> str:
    """A command as it could be typed."""
    return " ".join(quote(word) for word in words)
