"""The steps in which a new process hands something to its parent, or waits for it (lamina/runtime/waits.py)."""

from __future__ import annotations

from lamina.linux.constants import MSG_NOSIGNAL, SCM_RIGHTS, SOL_SOCKET
from lamina.linux.program import Out, Reg, Step, Struct


def descriptor_message(*numbers: int, what: bytes = b"F") -> Struct:
    """A struct msghdr of the byte *what* and some descriptors, whose numbers must be known (sendmsg(2), cmsg(3))."""
    byte = Struct("iovec", "PQ", (what, 1))
    count = len(numbers)
    rights = Struct(
        "cmsghdr", f"Qii{'I' * (count + count % 2)}",
        (16 + 4 * count, SOL_SOCKET, SCM_RIGHTS, *numbers, *([0] * (count % 2))),
    )  # fmt: skip
    return Struct("msghdr", "PIPQPQi", (0, 0, byte, 1, rights, rights.size(), 0))


def hand_over_step(channel: int | Reg, *numbers: int, what: bytes = b"F", note: str = "") -> Step:
    """Send the descriptors *numbers* to the parent; the byte *what* says why, where not the order does."""
    message = descriptor_message(*numbers, what=what)
    return Step("sendmsg", channel, message, MSG_NOSIGNAL, want=1, note=note)


def await_step(channel: int | Reg, note: str) -> Step:
    """Wait for the parent's word."""
    return Step("read", channel, Out(8), 1, want=1, note=note)
