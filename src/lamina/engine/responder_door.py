"""What the half of who answers for names that has no rights says to the one that has (`responder_monitor`), and hears.

Nobody waits for an answer: it is handed to whoever asked, when it comes, by its number; and who gets none in time is
told so, he alone. Of each container one question at a time is on its way, so that one whose answers take long is in
nobody's way but his own.
"""

from __future__ import annotations

from _socket import MSG_DONTWAIT
from select import POLLIN, poll
from time import monotonic

from lamina.document import decode, encode
from lamina.errors import InvalidInput
from lamina.network.responder import MOST_ASKED, MOST_ASKED_BY_ONE, has_room
from lamina.network.subnet import text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable
    from typing import Any

    Answer = dict[str, Any]

MOST = 1024  # addresses of one answer
_LONGEST = 1 << 18
_LONGEST_TEXT = 1 << 14
_LONGEST_WAIT = 3.0  # seconds that a container waits for the rules; the usual client asks again after 5
_LAST_WAIT = 5.0  # seconds that is waited for the last words to be heard
_NOBODY = ""  # asks for all of them


class Door:
    """This half's end of the socket."""

    def __init__(self, channel: socket) -> None:
        self.channel = channel
        self.is_broken = False  # the other half is gone
        self._number = 0
        self._waiting: dict[int, _Waiting] = {}  # by number, in the order in which they came
        self._on_its_way: dict[str, int] = {}  # of each who asks

    def fileno(self) -> int:
        """Readable when there is an answer, and when the other half is gone."""
        return self.channel.fileno()

    def learn(
        self, owner: str, name: str, found: list[tuple[int, bytes]], then: Callable[[bool, float], None]
    ) -> None:
        """Ask whether the container *owner* may be told that these addresses, each for some seconds, are *name*'s: the
        rules let it reach them now, if it may. *then* is called with that, and with the seconds of
        processor time that it took.
        """
        if len(found) > MOST:
            then(False, 0.0)
            return
        told = [[seconds, text_of(address)] for seconds, address in found]
        self._ask(
            owner,
            {"learn": [owner, name, told]},
            lambda answer: then(bool(answer.get("may")), float(answer.get("took") or 0.0)),
            _LONGEST_WAIT,
        )

    def servers(self, then: Callable[[tuple[tuple[str, int], ...] | None], None], patience: float) -> None:
        """Ask for this host's own name servers, as they are now: None where nobody says so in time."""

        def said(answer: Answer) -> None:
            found = answer.get("servers")
            then(None if found is None else tuple((str(host), int(port)) for host, port in found))

        self._ask(_NOBODY, {"servers": True}, said, patience)

    @property
    def is_asked_for_servers(self) -> bool:
        """Whether such a question is still on its way."""
        return _NOBODY in self._on_its_way

    def fail(self, text: str) -> None:
        """Have it written down what went wrong."""
        self._say_last({"failed": text[:_LONGEST_TEXT]})

    def leave(self) -> None:
        """Have the file that this half holds removed."""
        self._say_last({"leaves": True})

    # -- on its way

    @property
    def deadline(self) -> float:
        """When the next one has waited long enough."""
        return min((one.deadline for one in self._waiting.values()), default=float("inf"))

    def expire(self) -> None:
        """Tell those who have waited long enough."""
        now = monotonic()
        for one in [one for one in self._waiting.values() if one.deadline <= now]:
            one.give_way()

    def read(self, _: int = 0) -> None:
        """Hand on what has been answered."""
        while not self.is_broken:
            try:
                number, answer = self._heard()
            except BlockingIOError:
                break
            except (OSError, InvalidInput):  # it is gone, which is an answer of no bytes
                self.is_broken = True
                break
            if (one := self._waiting.pop(number, None)) is not None:
                one.then(answer)
        self._send()

    def _heard(self) -> tuple[int, Answer]:
        """The next answer, with its number. Raises OSError, InvalidInput."""
        answer = decode(self.channel.recv(_LONGEST, MSG_DONTWAIT), "answer")
        number = int(answer.get("number") or 0)
        self._on_its_way = {who: on for who, on in self._on_its_way.items() if on != number}
        return number, answer

    def _ask(
        self, source: str, asked: dict[str, Any], then: Callable[[Answer], None], patience: float
    ) -> None:
        if self.is_broken or not has_room(self._waiting, source, MOST_ASKED, MOST_ASKED_BY_ONE):
            then({})
            return
        self._number += 1
        message = encode({**asked, "number": self._number}).encode()
        self._waiting[self._number] = _Waiting(
            self._waiting, self._number, source, message, then, monotonic() + patience
        )
        self._send()

    def _send(self) -> None:
        for number, one in self._waiting.items():
            if one.source in self._on_its_way:  # also one that nobody waits for any more
                continue
            try:
                self.channel.send(one.message, MSG_DONTWAIT)
            except BlockingIOError:  # the next answer makes room
                return
            except OSError:
                self.is_broken = True
                return
            self._on_its_way[one.source] = number

    def _say_last(self, asked: dict[str, Any]) -> None:
        """Say something, and wait until it is heard: this process may end with it. Nobody gets an answer meanwhile."""
        self._number += 1
        until = monotonic() + _LAST_WAIT
        waiting = poll()
        waiting.register(self.fileno(), POLLIN)
        try:
            self.channel.send(encode({**asked, "number": self._number}).encode(), MSG_DONTWAIT)
            while (left := until - monotonic()) > 0 and waiting.poll(int(left * 1000) + 1):
                if self._heard()[0] == self._number:
                    return
        except BlockingIOError:  # the other half is stopped
            pass
        except (OSError, InvalidInput):
            self.is_broken = True


class _Waiting:
    """One that waits for an answer."""

    def __init__(
        self,
        among: dict[int, _Waiting],
        number: int,
        source: str,
        message: bytes,
        then: Callable[[Answer], None],
        deadline: float,
    ) -> None:
        self.among, self.number, self.source, self.message = among, number, source, message
        self.then, self.deadline = then, deadline

    def give_way(self) -> None:
        """Wait no more: that is a no."""
        if self.among.pop(self.number, None) is not None:
            self.then({})
