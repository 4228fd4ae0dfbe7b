"""Asking a name server, and being one: for tests with real packets (support.lab)."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from lamina.network import dns
from lamina.network.subnet import text_of
from support.lab import WORLD

if TYPE_CHECKING:
    from support.network_host import Host

Zone = Mapping[tuple[str, int], list[bytes]]


def ask(
    server: str, name: str, kind: int = dns.A, *, tcp: bool = False, room: int = 0, patience: float = 100.0
) -> bytes:
    """The answer, as it came. Raises TimeoutError, OSError."""
    question = dns.ask(name, kind, 77, room=room)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as asking:
        asking.settimeout(patience)
        asking.connect((server, 53))
        if not tcp:
            asking.send(question)
            return asking.recv(65535)
        asking.sendall(struct.pack("!H", len(question)) + question)
        return read_framed(asking)


def read_framed(connection: socket.socket) -> bytes:
    data = b""
    while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
        more = connection.recv(65535)
        if not more:
            raise ConnectionError("closed")
        data += more
    return data[2:]


def lookup(server: str, name: str, kind: int = dns.A, **how: bool | int | float) -> tuple[int, list[str]]:
    """(code, what there is)."""
    query = dns.read_query(dns.ask(name, kind, 77))
    assert query is not None
    answer = ask(server, name, kind, **how)  # type: ignore[arg-type]
    assert dns.answers_it(answer, query, 77)
    return dns.code_of(answer), values_in(answer)


def lookup_as_clients_do(server: str, name: str, kind: int = dns.A) -> tuple[int, list[str]]:
    """The same, asked again where nothing comes: who has had his time of a second is not heard, and on a busy machine
    that may be anybody.
    """
    for _ in range(20):
        with contextlib.suppress(TimeoutError):
            return lookup(server, name, kind, patience=5.0)
    return lookup(server, name, kind)


def values_in(answer: bytes) -> list[str]:
    """What it says: addresses, and names (PTR, CNAME), as text. Raises InvalidInput."""
    found = []
    for _, kind, _, _, content, begin in dns._answers(answer):
        if kind in (dns.A, dns.AAAA):
            found.append(text_of(content))
        elif kind in (dns.PTR, dns.CNAME):
            found.append(dns.text_of(dns._name(answer, begin)[0]))
    return found


def is_cut(answer: bytes) -> bool:
    """Whether it says that there was more: the bit TC of RFC 1035, 4.1.1."""
    return bool(answer[2] & 2)


class NameServer:
    """Knows a few names, and writes down what it is asked. Made in the namespace in which it is to listen."""

    def __init__(self, host: str, zone: Zone, seconds: int = 300) -> None:
        self.zone, self.seconds = zone, seconds
        self.asked: list[tuple[str, int]] = []
        self._datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._datagrams.bind((host, 53))
        self._listener = socket.create_server((host, 53))
        self._closed = False
        for serve in (self._serve_datagrams, self._serve_streams):
            threading.Thread(target=serve, daemon=True).start()

    def _answer(self, data: bytes, *, datagram: bool) -> bytes:
        query = dns.read_query(data)
        assert query is not None
        self.asked.append((query.name, query.kind))
        found = self.zone.get((query.name, query.kind))
        if found is None:
            code = dns.NOERROR if any(name == query.name for name, _ in self.zone) else dns.NXDOMAIN
            return dns.reply(query, code, datagram=datagram)
        answers = [dns.Answer(query.kind, self.seconds, one) for one in found]
        return dns.reply(query, dns.NOERROR, answers, datagram=datagram)

    # who asked may be gone, or out of reach by now: the next one is answered all the same

    def _serve_datagrams(self) -> None:
        while not self._closed:
            with contextlib.suppress(OSError):
                data, where = self._datagrams.recvfrom(4096)
                if not self._closed:
                    self._datagrams.sendto(self._answer(data, datagram=True), where)

    def _serve_streams(self) -> None:
        while not self._closed:
            with contextlib.suppress(OSError):
                connection, _ = self._listener.accept()
                with connection:
                    connection.settimeout(100)
                    answer = self._answer(read_framed(connection), datagram=False)
                    connection.sendall(struct.pack("!H", len(answer)) + answer)

    def close(self) -> None:
        """Wake up who serves, too: a call that waits would keep the network namespace."""
        self._closed = True
        for one in (self._datagrams, self._listener):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@contextlib.contextmanager
def outside(host: Host, zone: Zone, where: str = WORLD) -> Iterator[NameServer]:
    """One in the world outside of *host*, at the address *where*."""
    with host.inside(host.world):
        found = NameServer(where, zone)
    with contextlib.closing(found):
        yield found
