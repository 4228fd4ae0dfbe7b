"""The steps in which a new process hands something to its parent, or waits for it (lamina/runtime/waits.py)."""

from __future__ import annotations

from lamina.linux.constants import F_DUPFD_CLOEXEC, MSG_NOSIGNAL, SCM_RIGHTS, SOL_SOCKET
from lamina.linux.program import Out, Reg, Step, Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def descriptor_message(*numbers: int, what: bytes = b"F") -> Struct:
    """A struct msghdr of the byte *what* and some descriptors, whose numbers must be known (sendmsg(2), cmsg(3))."""
    byte = Struct("iovec", "PQ", (what, 1))
    count = len(numbers)
    rights = Struct(
        "cmsghdr", f"Qii{'I' * (count + count % 2)}",
        (16 + 4 * count, SOL_SOCKET, SCM_RIGHTS, *numbers, *([0] * (count % 2))),
    )  # fmt: skip
    return Struct("msghdr", "PIPQPQi", (0, 0, byte, 1, rights, rights.size(), 0))


def lend_steps(channel: int | Reg, lent: Sequence[Reg], what: bytes, note: str) -> list[Step]:
    """Hand the descriptors *lent* to the parent and wait for its word. A message must say numbers: meanwhile they are
    0 and 1, and what these were before they are again.
    """
    numbers = range(len(lent))
    kept = [Reg(f"kept{number}") for number in numbers]
    return [
        *[
            Step("fcntl", number, F_DUPFD_CLOEXEC, 3, save=save)
            for number, save in zip(numbers, kept, strict=True)
        ],
        *[Step("dup3", register, number, 0) for number, register in zip(numbers, lent, strict=True)],
        hand_over_step(channel, *numbers, what=what, note=note),
        Step("read", channel, Out(8), 1, want=1, note="wait until it is done"),
        *[Step("dup3", save, number, 0) for number, save in zip(numbers, kept, strict=True)],
        *[Step("close", save) for save in kept],
    ]


def hand_over_step(channel: int | Reg, *numbers: int, what: bytes = b"F", note: str = "") -> Step:
    """Send the descriptors *numbers* to the parent; the byte *what* says why, where not the order does."""
    message = descriptor_message(*numbers, what=what)
    return Step("sendmsg", channel, message, MSG_NOSIGNAL, want=1, note=note)
