"""Detach keys: what is typed to leave a container's terminal to itself, in docker's notation.

A comma separates keys; each is one character, or `ctrl-` with a letter or one of @ [ \\ ] ^ _ (docker attach(1)).
"""

from __future__ import annotations

from lamina.errors import InvalidInput

DEFAULT = "ctrl-p,ctrl-q"
_PREFIX = "ctrl-"
_CONTROLS = {chr(ord("a") + number): number + 1 for number in range(26)}
_CONTROLS |= {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def read_keys(text: str | None) -> bytes:
    """The bytes that the keys of *text* are (None: DEFAULT); none at all for an empty text. Raises InvalidInput."""
    text = DEFAULT if text is None else text
    return bytes(map(_key, text.split(","))) if text else b""


def _key(word: str) -> int:
    if len(word) == 1 and word.isascii():
        return ord(word)
    name = word[len(_PREFIX) :].lower()
    if word.lower().startswith(_PREFIX) and name in _CONTROLS:
        return _CONTROLS[name]
    raise InvalidInput(
        f"detach keys: {word!r} is no key",
        remedy=f"characters and ctrl-LETTER, separated by commas, as in {DEFAULT}",
    )


class Keys:
    """Looks for the sequence in what is typed. Its beginning is held back until it is clear that it is not meant."""

    def __init__(self, sequence: bytes) -> None:
        self.sequence = sequence
        self.pressed = False
        self._held = b""

    def pass_on(self, data: bytes) -> bytes:
        """What of *data*, and of what was held back before, is for the container; `pressed` when the keys were typed,
        and then nothing of what follows them.
        """
        if not self.sequence or self.pressed:
            return data
        data = self._held + data
        at = data.find(self.sequence)
        if at >= 0:
            self.pressed, self._held = True, b""
            return data[:at]
        longest = min(len(data), len(self.sequence) - 1)
        held = next(n for n in range(longest, -1, -1) if data.endswith(self.sequence[:n]))
        self._held = data[len(data) - held :]
        return data[: len(data) - held]

    def rest(self) -> bytes:
        """What was held back, at the end of input."""
        held, self._held = self._held, b""
        return held
