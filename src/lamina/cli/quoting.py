"""Names as they can be read, and pasted into a shell: nothing that a terminal would obey is ever printed."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

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


_GO = {
    '"': '\\"',
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}


def quote(name: bytes | str) -> str:
    """*name* as a shell word: bare where that is safe, else `'in quotes'`, else `$'with \\n escapes'`.

    Letters of any script stay as they are; control characters, invisible or direction-changing ones and bytes that
    are not UTF-8 are escaped.
    """
    text = name if isinstance(name, str) else os.fsdecode(name)
    if text.isalnum():  # most words are
        return text
    if text and all(c in _PLAIN or (c.isalnum() and ord(c) > 127) for c in text) and text[0] not in "~=":
        return text
    if all(c.isprintable() for c in text) and "'" not in text:
        return f"'{text}'"
    return "$'" + "".join(_ESCAPES.get(c) or (c if c.isprintable() else _escape(c)) for c in text) + "'"


def _escape(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def text_of_go(text: str) -> str:
    """*text* as Go writes one in quotes (strconv.Quote), which is how docker's lists have a command."""
    if text.isprintable() and '"' not in text and "\\" not in text:  # most are
        return f'"{text}"'
    return '"' + "".join(_GO.get(c) or (c if c.isprintable() else _letter_of_go(c)) for c in text) + '"'


def _letter_of_go(character: str) -> str:
    code = ord(character)
    if code < 0x80 or 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code & 0xFF:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def join(words: Sequence[str]) -> str:
    """A command as it could be typed."""
    return " ".join([quote(word) for word in words])


def harmless(line: str) -> str:
    """*line* with control characters made visible: a file's content must not move the cursor or set the title."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() or c == "\t" else _visible(c) for c in line)


def _visible(character: str) -> str:
    code = ord(character)
    if code < 32 or code == 127:
        return f"^{chr(code ^ 64)}"
    return f"\\x{code & 0xFF:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
