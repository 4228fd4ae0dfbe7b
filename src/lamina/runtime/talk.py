"""What a new process and its maker say to each other (plan/created.py), and which descriptor is what there.

Apart from the compiler, for a start by a plan that is kept needs no more than this.
"""

from __future__ import annotations

from lamina.values import value

# what the new process says: see plan/created.py
PID, HOOKS, TERMINAL, READY = b"P", b"H", b"F", b"R"
# what it is told
HOOKS_RUN, CREATED, START = b"h", b"g", b"s"
# a step that failed: its index and errno, of four bytes each
FAILURE = 8


def failure(said: bytes) -> tuple[int, int]:
    """The index and the errno of what was said about a step that failed."""
    index, errno = memoryview(said[:FAILURE]).cast("i")
    return index, errno


@value
class Numbers:
    """Which descriptor is what in the new process: the container's own come first, `preserved` of them above 2."""

    preserved: int = 0

    @property
    def channel(self) -> int:
        """The socket to its maker; after the start, where a failure is reported."""
        return 3 + self.preserved

    @property
    def program(self) -> int:
        """The plan; closed when it is in memory, so then the lowest free number."""
        return self.channel + 1

    @property
    def launcher(self) -> int:
        """The program of runtime/init."""
        return self.channel + 2

    @property
    def socket(self) -> int:
        """Where the message comes in that starts the container."""
        return self.channel + 3

    @property
    def more(self) -> int:
        """The first of whatever else is passed."""
        return self.channel + 4


@value
class Manner:
    """How a container is made besides what its specification says: options of `create`.

    `owned` are the standard streams that are to belong to the process's user, so that it can open them by name.
    """

    owned: tuple[int, ...] = ()
    hooks: bool = False
    init: bool = False
