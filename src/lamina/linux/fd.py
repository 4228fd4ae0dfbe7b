"""A file descriptor with an owner, and what is to be heard from several."""

from __future__ import annotations

import os

from lamina.linux.descriptors import POLLIN, poll

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

INFINITE = float("inf")


class Fd(int):
    """An open descriptor that closes itself at the end of a `with`, at `close()`, or when nobody holds it any more.

    It is an `int`, so it works wherever a descriptor does (`dir_fd=`, `os.read`). Hand it over with `steal()`.
    """

    _owned: bool = True

    @property
    def is_open(self) -> bool:
        """Whether it is still this object's."""
        return self._owned

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


# in the place of a descriptor that is closed, or that there never was
CLOSED = Fd(-1)
CLOSED.disown()


def owned(call: Callable[..., int], *args: object) -> Fd:
    """The descriptor that *call* gives, as an Fd, whatever happens in that moment.

    A handler of a signal that raises, as Ctrl-C's does, runs between two instructions of the interpreter: in
    `Fd(os.open(...))` between the two calls, and then nobody closes what was opened. Within `map` there is no such
    place.
    """
    return next(map(Fd, map(call, *zip(args))))


def pipe() -> tuple[Fd, Fd]:
    """The reader and the writer of a new pipe, close-on-exec, as `owned` has them."""
    reader, writer = next(
        map(list, map(map, (Fd,), map(os.pipe2, (os.O_CLOEXEC,))))
    )  # list(map(Fd, os.pipe2()))
    return reader, writer


def ready(seconds: float | None, *descriptors: int) -> list[int]:
    """Which of the descriptors can be read, or have ended. Not by select(2), which knows no numbers from 1024 on."""
    milliseconds = -1 if seconds is None or seconds == INFINITE else max(0, int(seconds * 1000 + 0.999))
    return [number for number, _ in poll([(int(fd), POLLIN) for fd in descriptors], milliseconds)]
