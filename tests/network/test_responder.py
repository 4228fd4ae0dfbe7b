"""Who answers for names, in this process and on the loopback: without root, without a network."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from errno import EMFILE
from pathlib import Path
from typing import Any

import pytest

from lamina.network import dns, names, responder, shares
from lamina.network.responder import Client, Responder
from lamina.network.shares import MOST_A_SECOND, MOST_OF_A_SECOND, Shares
from lamina.network.subnet import packed
from support.name_servers import read_framed, values_in

OWN, OTHER = "127.0.0.1", "127.0.0.2"


def query(name: str, kind: int = dns.A) -> dns.Query:
    found = dns.read_query(dns.ask(name, kind, 7))
    assert found is not None
    return found


class Stage:
    """A responder that is served by a thread; `clients` are those that it knows."""

    def __init__(self, place: Path) -> None:
        self.place = os.fsencode(place)
        os.mkdir(self.place)
        names.take(self.place, "db", "a" * 64, [packed("10.1.0.2"), packed("fd00::2")])
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind((OWN, 0))
        self.where = datagrams.getsockname()
        self.listener = socket.create_server((OWN, 0))
        self.at = self.listener.getsockname()
        self.clients: dict[str, Client] = {}
        self.responder = Responder(datagrams, self.listener, self.clients.get)
        self.ends = threading.Event()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while not self.ends.is_set():
            self.responder.step(0.05)

    def client(self, *servers: tuple[str, int], **how: Any) -> Client:
        return Client((self.place,), lambda address: None, servers, **how)

    def ask(self, name: str, source: str = OWN, patience: float = 100) -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.bind((source, 0))
            asking.settimeout(patience)
            asking.sendto(dns.ask(name, dns.A, 7), self.where)
            return asking.recv(4096)

    def close(self) -> None:
        self.ends.set()
        self.thread.join()
        self.responder.close()


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(responder, "_PATIENCE", 100.0)  # a test that is a server may be slow
    monkeypatch.setattr(responder, "_QUIET", 100.0)
    found = Stage(tmp_path / "names")
    try:
        yield found
    finally:
        found.close()


def silent_server() -> socket.socket:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((OWN, 0))
    return server


def test_servers_are_asked_in_turn_and_only_their_answers_count(stage: Stage) -> None:
    dead = silent_server()
    nobody = dead.getsockname()
    dead.close()
    with closing(silent_server()) as server, closing(silent_server()) as liar:
        stage.clients[OWN] = stage.client(nobody, server.getsockname())
        answers: list[bytes] = []
        asking = threading.Thread(target=lambda: answers.append(stage.ask("a.example")))
        asking.start()
        data, where = server.recvfrom(4096)
        asked = dns.read_query(data)
        assert asked is not None
        right = dns.reply(asked, dns.NOERROR, [dns.Answer(dns.A, 60, packed("192.0.2.9"))])
        liar.sendto(right, where)  # from another address
        server.sendto(dns.with_identity(right, asked.identity ^ 1), where)  # under another number
        server.sendto(dns.reply(query("b.example"), dns.NXDOMAIN), where)  # to another question
        server.sendto(right, where)
        asking.join()
        assert values_in(answers[0]) == ["192.0.2.9"]
        assert answers[0][:2] == b"\0\x07"
    stage.clients[OWN] = stage.client(nobody)
    assert dns.code_of(stage.ask("a.example")) == dns.SERVFAIL
    stage.clients[OWN] = stage.client()
    assert dns.code_of(stage.ask("a.example")) == dns.REFUSED
    assert stage.responder.is_idle


def test_what_a_client_may_not_ask_and_what_must_be_learnt_first(stage: Stage) -> None:
    told: list[tuple[str, list[tuple[int, bytes]], bool]] = []

    def learn(asked: dns.Query, found: list[tuple[int, bytes]], own: bool, then: Callable[..., None]) -> None:
        told.append((asked.name, found, own))
        then(asked.name != "full.example", 0.0)

    with closing(silent_server()) as server:
        where = server.getsockname()
        stage.clients[OWN] = stage.client(where, may=lambda name: name.endswith("example"), learn=learn)
        assert dns.code_of(stage.ask("a.other")) == dns.REFUSED
        assert told == []
        assert values_in(stage.ask("db")) == ["10.1.0.2"]
        for name in ("a.example", "full.example"):
            answers: list[bytes] = []
            asking = threading.Thread(target=lambda name=name, to=answers: to.append(stage.ask(name)))
            asking.start()
            data, back = server.recvfrom(4096)
            asked = dns.read_query(data)
            assert asked is not None
            server.sendto(dns.reply(asked, dns.NOERROR, [dns.Answer(dns.A, 60, packed("192.0.2.9"))]), back)
            asking.join()
            assert dns.code_of(answers[0]) == (dns.SERVFAIL if name == "full.example" else dns.NOERROR)
    assert told == [
        ("db", [(5, packed("10.1.0.2"))], True),
        ("a.example", [(60, packed("192.0.2.9"))], False),
        ("full.example", [(60, packed("192.0.2.9"))], False),
    ]


def test_questions_of_a_connection_come_in_pieces_and_one_behind_the_other(stage: Stage) -> None:
    stage.clients[OWN] = stage.client()
    framed = struct.pack("!H", len(dns.ask("db", dns.A, 7))) + dns.ask("db", dns.A, 7)
    with socket.create_connection(stage.at, timeout=200) as connection:
        for byte in framed[:-1]:
            connection.sendall(bytes([byte]))
        connection.sendall(framed[-1:] + framed + framed)
        data = b""
        for _ in range(3):
            while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
                data += connection.recv(4096)
            length = 2 + int.from_bytes(data[:2], "big")
            assert values_in(data[2:length]) == ["10.1.0.2"]
            data = data[length:]
    with socket.create_connection(stage.at, timeout=200) as connection:
        connection.sendall(b"\xff\xff")  # longer than any question
        with pytest.raises((ConnectionError, OSError)):
            read_framed(connection)


def test_who_floods_leaves_time_to_others(stage: Stage) -> None:
    stage.clients.update({OWN: stage.client(), OTHER: stage.client()})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((OWN, 0))
        for number in range(MOST_A_SECOND + 500):
            sender.sendto(dns.ask("db", dns.A, number), stage.where)
        for _ in range(100):  # some may be lost with the flood
            try:
                assert values_in(stage.ask("db", OTHER, 0.3)) == ["10.1.0.2"]
                break
            except TimeoutError:
                continue
        assert len(stage.responder._shares._heard) <= 2
    assert stage.ask("db", OTHER)


def test_a_share_is_of_time_and_only_where_others_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a question costs is up to who asks it, and to the servers that answer it."""
    now, used = [100.0], [5.0]
    monkeypatch.setattr(shares, "monotonic", lambda: now[0])
    monkeypatch.setattr(shares, "thread_time", lambda: used[0])

    def spend(seconds: float, source: str = OWN, *, waited: float = 0.0) -> bool:
        began = kept.begin()
        now[0] += seconds + waited
        used[0] += seconds
        kept.spend(source, began)
        return kept.has_had_enough(source)

    kept = Shares()
    assert kept.hear(OWN)
    assert not spend(0.9), "alone nobody has to leave time to others"
    now[0] = 200.0
    assert kept.hear(OTHER)
    assert not spend(MOST_OF_A_SECOND - 0.01)
    assert kept.hear(OWN)
    assert spend(0.02)
    assert not kept.hear(OWN)
    assert kept.hear(OTHER)
    now[0] = 201.0
    assert kept.hear(OWN)
    assert spend(0.5), "who has asked in the last second may ask again"
    now[0] = 202.0
    assert not spend(0.5), "he has not"
    assert kept.hear(OWN)
    now[0] = 300.0
    assert all(kept.hear(OWN) for _ in range(MOST_A_SECOND))
    assert not kept.hear(OWN)
    now[0] = 400.0
    assert kept.hear(OWN)
    assert not spend(0.001, OTHER, waited=0.9), "nobody answers for it that others had the processor"
    assert not spend(0.001, OTHER)
    assert spend(0.03), "who takes long takes it from the little that there is"
    now[0] = 401.0
    assert not spend(0.009), "in which everybody has something"
    assert spend(0.03), "and there will hardly be more than in the last second"
    now[0] = 402.0
    assert kept.hear(OTHER)
    assert not spend(0.2)
    kept.charge(OWN, 0.1)
    assert kept.has_had_enough(OWN), "what another process did for it counts as well"


def test_who_has_had_his_time_waits_and_others_do_not(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    enough, spent, learnt = threading.Event(), list[str](), list[str]()
    kept = stage.responder._shares
    monkeypatch.setattr(kept, "has_had_enough", lambda source: source == OWN and enough.is_set())
    monkeypatch.setattr(kept, "spend", lambda source, since: spent.append(source))
    monkeypatch.setattr(kept, "charge", lambda source, seconds: spent.append(source))

    def learn(asked: dns.Query, found: list[tuple[int, bytes]], own: bool, then: Callable[..., None]) -> None:
        learnt.append(asked.name)
        then(True, 0.0)

    def asks_by_stream() -> int:
        question = dns.ask("db", dns.A, 7)
        with socket.create_connection(stage.at, timeout=200) as connection:
            connection.sendall(struct.pack("!H", len(question)) + question)
            return dns.code_of(read_framed(connection))

    with closing(silent_server()) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        server.settimeout(100)
        asking.bind((OWN, 0))
        asking.settimeout(100)
        limited = stage.client(server.getsockname(), learn=learn)
        stage.clients.update({OWN: limited, OTHER: stage.client()})
        for number in range(2):
            asking.sendto(dns.ask(f"x{number}.example", dns.A, number), stage.where)
            data, where = server.recvfrom(4096)
            if number == 1:
                enough.set()
            query = dns.read_query(data)
            assert query is not None
            server.sendto(dns.reply(query, dns.NOERROR, [dns.Answer(dns.A, 60, bytes(4))]), where)
            assert dns.code_of(asking.recv(4096)) == (dns.SERVFAIL if number else dns.NOERROR)
        asking.sendto(dns.ask("db", dns.A, 9), stage.where)
        assert values_in(stage.ask("db", OTHER)) == ["10.1.0.2"], "who asks behind it"
        assert asks_by_stream() == dns.SERVFAIL
        assert learnt == ["x0.example"]
        enough.clear()
        assert asks_by_stream() == dns.NOERROR
        assert values_in(stage.ask("db")) == ["10.1.0.2"]
        assert learnt == ["x0.example", "db", "db"]
        assert values_in(stage.ask("db", OTHER)) == ["10.1.0.2"]  # so the time of what was before is counted
    assert spent[:8] == [OWN, OWN, OWN, OWN, OTHER, OWN, OWN, OTHER][: len(spent)]
    assert len(spent) >= 7


def test_strangers_are_not_answered(stage: Stage) -> None:
    stage.clients[OWN] = stage.client()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.bind((OTHER, 0))
        asking.settimeout(0.3)
        asking.sendto(dns.ask("db", dns.A, 7), stage.where)
        with pytest.raises(TimeoutError):
            asking.recv(4096)


def test_no_others_are_kept_out_by_those_who_have_all(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has most gives way: of questions that wait, and of connections."""
    monkeypatch.setattr(responder, "MOST_ASKED", 6)
    monkeypatch.setattr(responder, "MOST_ASKED_BY_ONE", 3)
    monkeypatch.setattr(responder, "MOST_STREAMS", 6)
    monkeypatch.setattr(responder, "MOST_STREAMS_OF_ONE", 3)
    third = "127.0.0.3"
    with closing(silent_server()) as server:
        server.settimeout(100)
        stage.clients.update({one: stage.client(server.getsockname()) for one in (OWN, OTHER, third)})
        greedy: list[socket.socket] = []
        for source in (OWN, OTHER):
            asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            asking.bind((source, 0))
            asking.settimeout(100)
            greedy.append(asking)
            for number in range(5):
                asking.sendto(dns.ask(f"x{number}.example", dns.A, number), stage.where)
            for _ in range(3):
                server.recv(4096)
            for _ in range(2):  # more than it may have
                assert dns.code_of(asking.recv(4096)) == dns.SERVFAIL
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.bind((third, 0))
            asking.sendto(dns.ask("y.example", dns.A, 9), stage.where)
            asked = dns.read_query(server.recv(4096))
            assert asked is not None and asked.name == "y.example"
        assert dns.code_of(greedy[0].recv(4096)) == dns.SERVFAIL, "the oldest of who had most"
        for one in greedy:
            one.close()
        streams = [
            socket.create_connection(stage.at, timeout=200, source_address=(source, 0))
            for source in (OWN, OTHER) for _ in range(3)
        ]  # fmt: skip
        streams.append(socket.create_connection(stage.at, timeout=200, source_address=(third, 0)))
        framed = struct.pack("!H", len(dns.ask("db", dns.A, 7))) + dns.ask("db", dns.A, 7)
        streams[-1].sendall(framed)
        assert values_in(read_framed(streams[-1])) == ["10.1.0.2"]
        assert streams[0].recv(1) == b""
        for one in streams:
            one.close()


def test_without_descriptors_it_rests_instead_of_trying_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    class Full(socket.socket):
        def _accept(self) -> Any:
            tried.append(1)
            raise OSError(EMFILE, "too many open files")

    monkeypatch.setattr(responder, "_DEAF", 3600.0)
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind((OWN, 0))
    listener = Full(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((OWN, 0))
    listener.listen()
    one = Responder(datagrams, listener, lambda source: None)
    with closing(one), socket.create_connection(listener.getsockname(), timeout=200):
        for _ in range(20):
            one.step(0.01)
        assert len(tried) == 1
        one._deaf_until = 1e-9  # long ago
        one.step(0)
        one.step(0.01)
        assert len(tried) == 2
