"""A file descriptor with an owner, and what is to be heard from several."""

from __future__ import annotations

import os

from lamina.linux.descriptors import POLLIN, poll

INFINITE = float("inf")


class Fd(int):
    """An open descriptor that closes itself at the end of a `with`, at `close()`, or when nobody holds it any more.

    It is an `int`, so it works wherever a descriptor does (`dir_fd=`, `os.read`). Hand it over with `steal()`.
    """

    _owned: bool = True

    def close(self) -> None:
        """Close the descriptor; a second call, or a call after `steal()`, does nothing."""
        if self._owned:
            self._owned = False
            os.close(self)

    def steal(self) -> int:
        """The plain number, which the caller now owns: this object no longer closes it."""
        if not self._owned:
            raise ValueError(f"descriptor {int(self)} is closed or was handed over already")
        self._owned = False
        return int(self)

    def disown(self) -> None:
        """Somebody else has closed it, and the number may be another file's by now: this object never closes it."""
        self._owned = False

    def __enter__(self) -> Fd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        try:
            self.close()
        except (
            OSError,
            AttributeError,
            TypeError,
        ):  # already closed by number, or the interpreter is leaving
            pass

    def __repr__(self) -> str:
        return f"Fd({int(self)}{'' if self._owned else ', not owned'})"


def ready(seconds: float | None, *descriptors: int) -> list[int]:
    """Which of the descriptors can be read, or have ended. Not by select(2), which knows no numbers from 1024 on."""
    milliseconds = -1 if seconds is None or seconds == INFINITE else max(0, int(seconds * 1000 + 0.999))
    return [number for number, _ in poll([(int(fd), POLLIN) for fd in descriptors], milliseconds)]
