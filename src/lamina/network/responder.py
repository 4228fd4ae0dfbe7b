"""Answers what the containers of a network ask for names: those of the network itself, the rest by asking this host's
servers. One thread, a few descriptors, and no more of anything than the limits below.

It is given a socket for datagrams and one that listens, both bound to the network's bridge: nobody but its containers
can send anything there. Who is no container of the network gets no answer.
"""

from __future__ import annotations

import os
from _socket import (
    AF_INET,
    AF_INET6,
    SO_ERROR,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
)
from errno import EINPROGRESS, EMFILE, ENFILE, ENOBUFS, ENOMEM
from select import POLLERR, POLLHUP, POLLIN, POLLOUT, poll
from time import monotonic

from lamina.errors import InvalidInput
from lamina.network import dns, names
from lamina.network.shares import Shares
from lamina.network.subnet import packed
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Protocol

    from lamina.network.dns import Query

    Where = tuple[str, int]
    Learn = Callable[["Query", list[tuple[int, bytes]], bool, Callable[[bool, float], None]], None]

    class Waiting(Protocol):
        """What there are only so many of: it is somebody's, and gives way."""

        source: str

        def give_way(self) -> None:
            """Be no more."""


PORT = 53
SECONDS = 5  # how long an answer of ours holds: containers come and go
MOST_ASKED, MOST_ASKED_BY_ONE = 256, 64  # questions that wait for an answer from elsewhere
MOST_STREAMS, MOST_STREAMS_OF_ONE = 64, 8
_LONGEST_QUESTION = 4096
_PATIENCE = 2.0  # seconds for a server; then the next one is asked
_ROUNDS = 2  # through the servers
_QUIET = 10.0  # seconds after which a connection is closed that says nothing
_DEAF = 0.25  # seconds for which nobody is connected where there are no descriptors left
_AT_ONCE = 64  # datagrams read before others have their turn


@value
class Client:
    """A container that asks. `networks` are the directories of names (`names`) of all networks that it is in;
    `owner_at` gives the name of who has an address of them, "" for nobody, None for addresses of others. `servers` are
    asked for the rest, or those that `now` hands to whoever it is called with, at once or later; with none it is
    refused, and where `may` says no of a name. `learn` is told the addresses of an answer (and whether it is the
    network's own) before the client is, and says whether it may be told, and how many seconds of processor time that
    has cost: where it may not the client is told that it failed.
    """

    networks: tuple[bytes, ...]
    owner_at: Callable[[bytes], str | None]
    servers: tuple[Where, ...]
    may: Callable[[str], bool] | None = None
    learn: Learn | None = None
    now: Callable[[Callable[[tuple[Where, ...]], None]], None] | None = None


class Responder:
    """Serves until `leave` says so. *known* gives the client of an address, None for a stranger."""

    def __init__(
        self,
        datagrams: Any,
        listener: Any,
        known: Callable[[str], Client | None],
        others: Sequence[tuple[int, Callable[[int], None]]] = (),
    ) -> None:
        """*others* are descriptors, and what is to be called when there is something to read."""
        self._datagrams, self._listener, self._known = datagrams, listener, known
        self._poll = poll()
        self._ready: dict[int, Callable[[int], object]] = {}
        self._asked: dict[int, _Asked] = {}
        self._streams: dict[int, _Stream] = {}
        self._turn = 0
        self._shares = Shares()
        self._deaf_until = 0.0
        for one, read in ((datagrams, self._read_datagrams), (listener, self._accept)):
            one.setblocking(False)
            self._watch(one.fileno(), POLLIN, read)
        for fd, call in others:
            self._watch(fd, POLLIN, call)

    def step(self, patience: float) -> None:
        """Do what there is to do, waiting at most *patience* seconds for it."""
        now = monotonic()
        waiting: tuple[_Asked | _Stream, ...] = (*self._asked.values(), *self._streams.values())
        deadlines = [one.deadline for one in waiting]
        if self._deaf_until:
            deadlines.append(self._deaf_until)
        left = max(0.0, min([patience, *(deadline - now for deadline in deadlines)]))
        for fd, events in self._poll.poll(int(left * 1000) + 1):
            if (ready := self._ready.get(fd)) is not None:
                ready(events)
        now = monotonic()
        if self._deaf_until and self._deaf_until <= now:
            self._deaf_until = 0.0
            self._watch(self._listener.fileno(), POLLIN, self._accept)
        for asked in [one for one in self._asked.values() if one.deadline <= now]:
            asked.ask_next()
        for stream in [one for one in self._streams.values() if one.deadline <= now]:
            stream.close()

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for an answer."""
        return not self._asked

    def close(self) -> None:
        """Close everything, also what it was given."""
        waiting: tuple[_Asked | _Stream, ...] = (*self._asked.values(), *self._streams.values())
        for one in waiting:
            one.close()
        self._datagrams.close()
        self._listener.close()

    def _watch(self, fd: int, events: int, ready: Callable[[int], None]) -> None:
        self._ready[fd] = ready
        self._poll.register(fd, events)

    def _forget(self, fd: int) -> None:
        if self._ready.pop(fd, None) is not None:
            self._poll.unregister(fd)

    # -- questions

    def _read_datagrams(self, _: int) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, where = self._datagrams.recvfrom(_LONGEST_QUESTION)
            except OSError:  # nothing more; or what was sent before did not arrive
                return
            if self._shares.hear(where[0]):
                began = self._shares.begin()
                self._consider(data, where[0], self._say_to(where), datagram=True)
                self._shares.spend(where[0], began)

    def _say_to(self, where: Any) -> Callable[[bytes], None]:
        return lambda answer: self._send(answer, where)

    def _send(self, answer: bytes, where: Any) -> None:
        try:
            self._datagrams.sendto(answer, where)
        except OSError:  # whoever asked is gone, or does not listen
            pass

    def _accept(self, _: int) -> None:
        try:
            fd, where = self._listener._accept()
        except OSError as error:
            if error.errno in (EMFILE, ENFILE, ENOBUFS, ENOMEM):  # who waits would wake us up again at once
                self._forget(self._listener.fileno())
                self._deaf_until = monotonic() + _DEAF
            return
        connection = socket(fileno=fd)
        if self._known(where[0]) is None or not has_room(
            self._streams, where[0], MOST_STREAMS, MOST_STREAMS_OF_ONE
        ):
            connection.close()
            return
        connection.setblocking(False)
        self._streams[connection.fileno()] = _Stream(self, connection, where[0])

    def _consider_of_stream(self, data: bytes, source: str, say: Callable[[bytes], None]) -> None:
        if self._shares.has_had_enough(source):
            say(dns.refusal(data, dns.SERVFAIL))
            return
        began = self._shares.begin()
        self._consider(data, source, say, datagram=False)
        self._shares.spend(source, began)

    def _consider(self, data: bytes, source: str, say: Callable[[bytes], None], *, datagram: bool) -> None:
        """Answer a question, now or when somebody else has."""
        client = self._known(source)
        if client is None:
            return
        try:
            query = dns.read_query(data)
        except InvalidInput:
            say(dns.refusal(data, dns.FORMERR))
            return
        if query is None:
            return
        if not dns.is_usual(query):
            say(dns.reply(query, dns.NOTIMP))
            return
        own = self._own(client, query)
        if own is not None:
            self._say_learnt(client, query, own[1], source, say, dns.reply(query, *own, datagram=datagram))
            return
        if client.may is not None and not client.may(query.name):
            say(dns.reply(query, dns.REFUSED))
            return

        def ask(servers: tuple[Where, ...]) -> None:
            if not servers:
                say(dns.reply(query, dns.REFUSED))
            elif not has_room(self._asked, source, MOST_ASKED, MOST_ASKED_BY_ONE):
                say(dns.reply(query, dns.SERVFAIL))
            else:
                _Asked(self, client, query, data, source, say, datagram, servers).ask_next()

        if client.now is not None:
            client.now(ask)
        else:
            ask(client.servers)

    def _say_learnt(
        self,
        client: Client,
        query: Query,
        answers: list[dns.Answer],
        source: str,
        say: Callable[[bytes], None],
        answer: bytes,
    ) -> None:
        """Say the network's own *answer* once its addresses are learnt."""

        def learnt(may: bool, seconds: float) -> None:
            if seconds:
                self._shares.charge(source, seconds)
            say(answer if may else dns.reply(query, dns.SERVFAIL))

        told = [(SECONDS, one.data) for one in answers if one.kind in (dns.A, dns.AAAA)]
        if client.learn is None or not told:
            say(answer)
        else:
            client.learn(query, told, True, learnt)

    def _own(self, client: Client, query: Query) -> tuple[int, list[dns.Answer]] | None:
        """(code, answers) to what only this network knows, None where others are to be asked."""
        if query.family != dns.INTERNET:
            return None
        if address := dns.reverse_of(query.labels):
            title = client.owner_at(address)
            if title is None:
                return None
            if not title:
                return dns.NXDOMAIN, []
            wanted = query.kind in (dns.PTR, dns.ANY)
            return dns.NOERROR, [dns.Answer(dns.PTR, SECONDS, dns.name_data(title))] if wanted else []
        if not (name := query.name):
            return None
        found = [address for place in client.networks for address in names.find(place, name)]
        if not found:
            return None
        self._turn += 1
        at = self._turn % len(found)  # each of several that have a name comes first in turn
        answers = []
        for address in [*found[at:], *found[:at]]:
            kind = dns.A if len(address) == 4 else dns.AAAA
            if query.kind in (kind, dns.ANY):
                answers.append(dns.Answer(kind, SECONDS, address))
        return dns.NOERROR, answers


def has_room(waiting: Mapping[int, Waiting], source: str, most: int, most_of_one: int) -> bool:
    """Whether there is room for one more of *source*. Of a full table whoever has most gives the oldest way, if he has
    more than *source* would have then: so nobody is kept out by others who together have all.
    """
    counts: dict[str, int] = {}
    for one in waiting.values():
        counts[one.source] = counts.get(one.source, 0) + 1
    own = counts.get(source, 0)
    if own >= most_of_one:
        return False
    if len(waiting) < most:
        return True
    greedy = max(counts, key=counts.__getitem__)
    if counts[greedy] <= own + 1:
        return False
    next(one for one in waiting.values() if one.source == greedy).give_way()
    return True


class _Asked:
    """A question that others are asked; each server from a port, and under a number, that nobody can guess."""

    def __init__(
        self,
        responder: Responder,
        client: Client,
        query: Query,
        data: bytes,
        source: str,
        say: Callable[[bytes], None],
        datagram: bool,
        servers: tuple[Where, ...],
    ) -> None:
        self.responder, self.client, self.query, self.data, self.source = (
            responder,
            client,
            query,
            data,
            source,
        )
        self.say, self.datagram = say, datagram
        self.left = list(servers) * _ROUNDS
        self.deadline = 0.0
        self.identity = 0
        self._socket: Any = None
        self._out, self._in = b"", b""

    def ask_next(self) -> None:
        """Ask the next server; with none left say that it failed."""
        self.close()
        while self.left:
            host, port = self.left.pop(0)
            try:
                self._begin(host, port)
                return
            except OSError:
                self.close()
        self.say(dns.reply(self.query, dns.SERVFAIL))

    def give_way(self) -> None:
        """Others have less: it failed."""
        self.left = []
        self.ask_next()

    def _begin(self, host: str, port: int) -> None:
        self.identity = int.from_bytes(os.urandom(2), "big")
        message = dns.with_identity(self.data, self.identity)
        kind = SOCK_DGRAM if self.datagram else SOCK_STREAM
        family = AF_INET6 if len(packed(host)) == 16 else AF_INET
        self._socket = socket(family, kind | SOCK_NONBLOCK | SOCK_CLOEXEC)
        fd = self._socket.fileno()
        self.responder._asked[fd] = self
        self.deadline = monotonic() + _PATIENCE
        if self.datagram:
            self._socket.connect((host, port))
            self._socket.send(message)
            self.responder._watch(fd, POLLIN, self._receive)
            return
        self._in, self._out = b"", len(message).to_bytes(2, "big") + message
        if self._socket.connect_ex((host, port)) not in (0, EINPROGRESS):
            raise OSError("not connected")
        self.responder._watch(fd, POLLOUT, self._stream)

    def _receive(self, _: int) -> None:
        try:
            answer = self._socket.recv(dns.LONGEST)
        except BlockingIOError:
            return
        except OSError:  # nobody listens there
            self.ask_next()
            return
        if dns.answers_it(answer, self.query, self.identity):
            self._done(answer)

    def _stream(self, events: int) -> None:
        try:
            if self._out:
                if events & (POLLERR | POLLHUP) or self._socket.getsockopt(SOL_SOCKET, SO_ERROR):
                    raise OSError("not connected")
                self._out = self._out[self._socket.send(self._out) :]
                if not self._out:
                    self.responder._watch(self._socket.fileno(), POLLIN, self._stream)
                return
            data = self._socket.recv(dns.LONGEST)
        except BlockingIOError:
            return
        except OSError:
            self.ask_next()
            return
        self._in += data
        length = int.from_bytes(self._in[:2], "big") + 2
        if len(self._in) >= max(length, 3):
            answer = self._in[2:length]
            if dns.answers_it(answer, self.query, self.identity):
                self._done(answer)
                return
            data = b""
        if not data:
            self.ask_next()

    def _done(self, answer: bytes) -> None:
        if dns.code_of(answer) in (dns.SERVFAIL, dns.REFUSED, dns.NOTIMP) and self.left:
            self.ask_next()
            return
        self.close()
        shares = self.responder._shares
        began = shares.begin()

        def learnt(may: bool, seconds: float) -> None:
            if seconds:
                shares.charge(self.source, seconds)
            failed = dns.reply(self.query, dns.SERVFAIL)
            self.say(dns.with_identity(answer, self.query.identity) if may else failed)

        found = None if shares.has_had_enough(self.source) else self._addresses_in(answer)
        shares.spend(self.source, began)
        if found and self.client.learn is not None:
            self.client.learn(self.query, found, False, learnt)
        else:
            learnt(found is not None, 0.0)

    def _addresses_in(self, answer: bytes) -> list[tuple[int, bytes]] | None:
        """What is to be learnt of it; None where nobody can."""
        try:
            return [] if self.client.learn is None else dns.addresses_in(answer, self.query)
        except InvalidInput:
            return None

    def close(self) -> None:
        """Ask no more."""
        if self._socket is not None:
            fd = self._socket.fileno()
            self.responder._forget(fd)
            self.responder._asked.pop(fd, None)
            self._socket.close()
            self._socket = None


class _Stream:
    """A connection of a container, with questions one behind the other."""

    def __init__(self, responder: Responder, connection: Any, source: str) -> None:
        self.responder, self.connection, self.source = responder, connection, source
        self.fd: int = connection.fileno()
        self.deadline = monotonic() + _QUIET
        self._in, self._out = b"", b""
        responder._watch(self.fd, POLLIN, self._go_on)

    def _go_on(self, events: int) -> None:
        try:
            if self._out:
                self._out = self._out[self.connection.send(self._out) :]
            else:
                data = self.connection.recv(_LONGEST_QUESTION)
                if not data:
                    raise OSError("closed")
                self._in += data
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self.deadline = monotonic() + _QUIET
        self._next()

    def _next(self) -> None:
        """Read on only when the answer before is sent: who does not read gets nothing more."""
        self.responder._watch(self.fd, POLLOUT if self._out else POLLIN, self._go_on)
        if self._out or len(self._in) < 2:
            return
        length = int.from_bytes(self._in[:2], "big")
        if length > _LONGEST_QUESTION:
            self.close()
        elif len(self._in) >= length + 2:
            question, self._in = self._in[2 : length + 2], self._in[length + 2 :]
            self.responder._watch(self.fd, 0, self._go_on)
            self.responder._consider_of_stream(question, self.source, self._say)

    def _say(self, answer: bytes) -> None:
        if self.responder._streams.get(self.fd) is not self:
            return
        self._out = len(answer).to_bytes(2, "big") + answer
        self._next()

    def give_way(self) -> None:
        """Others have less."""
        self.close()

    def close(self) -> None:
        """Let go of it."""
        if self.responder._streams.get(self.fd) is self:
            del self.responder._streams[self.fd]
            self.responder._forget(self.fd)
            self.connection.close()
