"""What the half without rights of who answers for names says to the other: nobody waits for anybody else's answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from lamina.document import decode, encode
from lamina.engine import responder_door, responder_monitor
from lamina.engine.responder_door import MOST, Door
from lamina.engine.responder_monitor import Warden
from lamina.network.responder import MOST_ASKED, MOST_ASKED_BY_ONE

FOUND = [(60, bytes((192, 0, 2, 9)))]


class Stage:
    """A door, and who is behind it, who answers when the test says so."""

    def __init__(self) -> None:
        here, self.there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.door = Door(here)
        self.said: list[tuple[str, bool]] = []

    def learn(self, owner: str, name: str = "x", found: list[tuple[int, bytes]] = FOUND) -> None:
        self.door.learn(owner, name, found, lambda may, _: self.said.append((owner + name, may)))

    def heard(self) -> list[dict[str, Any]]:
        found = []
        while True:
            try:
                found.append(decode(self.there.recv(1 << 18, socket.MSG_DONTWAIT), "question"))
            except BlockingIOError:
                return found

    def answer(self, asked: dict[str, Any], **said: Any) -> None:
        self.there.send(encode({"may": True, "took": 0.001, **said, "number": asked["number"]}).encode())
        self.door.read()

    def close(self) -> None:
        self.door.channel.close()
        self.there.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    found = Stage()
    try:
        yield found
    finally:
        found.close()


def test_of_each_container_one_question_is_on_its_way(stage: Stage) -> None:
    for number in range(3):
        stage.learn("slow", str(number))
    stage.learn("quick")
    first, quick = stage.heard()
    assert (first["learn"][:2], quick["learn"][:2]) == (["slow", "0"], ["quick", "x"])
    stage.answer(quick)
    assert stage.said == [("quickx", True)]
    stage.learn("quick")
    [again] = stage.heard()
    stage.answer(again, may=False)
    stage.answer(first)
    [second] = stage.heard()
    assert second["learn"][1] == "1"
    assert stage.said == [("quickx", True), ("quickx", False), ("slow0", True)]


def test_who_is_not_answered_in_time_is_told_so_and_a_late_answer_is_nobodys(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responder_door, "_LONGEST_WAIT", 0.0)
    stage.learn("slow", "a")
    stage.learn("slow", "b")
    [late] = stage.heard()
    stage.door.expire()
    assert stage.said == [("slowa", False), ("slowb", False)]
    monkeypatch.setattr(responder_door, "_LONGEST_WAIT", 100.0)
    stage.learn("slow", "c")
    assert stage.heard() == [], "what it asked before is still worked on"
    stage.learn("quick")
    [quick] = stage.heard()
    stage.answer(quick)
    stage.answer(late)
    assert stage.said[2:] == [("quickx", True)]
    [third] = stage.heard()
    stage.answer(third)
    assert stage.said[3:] == [("slowc", True)]
    assert not stage.door.is_broken


def test_one_who_asks_much_has_no_more_than_so_many(stage: Stage) -> None:
    for number in range(MOST_ASKED_BY_ONE + 1):
        stage.learn("greedy", str(number))
    assert stage.said == [(f"greedy{MOST_ASKED_BY_ONE}", False)]
    for other in range(MOST_ASKED):
        stage.learn(f"other-{other}")
    assert len(stage.door._waiting) == MOST_ASKED
    assert ("greedy0", False) in stage.said
    assert not any(who.startswith("other") for who, _ in stage.said[:MOST_ASKED_BY_ONE])
    stage.learn("much", found=FOUND * (MOST + 1))
    assert stage.said[-1] == ("muchx", False)


def test_servers_are_known_or_not_in_time(stage: Stage) -> None:
    told: list[Any] = []
    stage.door.servers(told.append, 100.0)
    [asked] = stage.heard()
    assert stage.door.is_asked_for_servers
    stage.answer(asked, servers=[["192.0.2.1", 53]])
    assert not stage.door.is_asked_for_servers
    stage.door.servers(told.append, 0.0)
    stage.door.expire()
    assert stage.door.is_asked_for_servers
    assert told == [(("192.0.2.1", 53),), None]


def test_a_full_socket_is_nobodys_error(stage: Stage) -> None:
    large = FOUND * MOST
    for number in range(MOST_ASKED):
        stage.learn(f"box-{number}", found=large)
    heard: list[dict[str, Any]] = []
    while more := stage.heard():
        heard += more
        for asked in more:
            stage.answer(asked)
    assert len(heard) == MOST_ASKED
    assert sorted(stage.said) == sorted((f"box-{number}x", True) for number in range(MOST_ASKED))


def test_a_half_that_is_gone_is_noticed(stage: Stage) -> None:
    stage.there.close()
    stage.door.read()
    assert stage.door.is_broken
    stage.learn("x")
    assert stage.said == [("xx", False)]
    stage.door.fail("nobody hears it")


def test_what_went_wrong_is_said_while_others_wait(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responder_door, "_LAST_WAIT", 0.0)
    stage.learn("box")
    stage.door.fail("x" * 100000)
    asked, failed = stage.heard()
    assert len(failed["failed"]) == 1 << 14
    assert not stage.door.is_broken
    stage.answer(failed)
    stage.answer(asked)
    assert stage.said == [("boxx", True)]


def test_who_waits_for_others_does_not_answer_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """What changing the rules took is the processor's time: the clock goes on as well where others change theirs."""
    clock, used = iter((10.0, 10.75)), iter((1.0, 1.25))
    monkeypatch.setattr(responder_monitor, "monotonic", lambda: next(clock))
    monkeypatch.setattr(responder_monitor, "thread_time", lambda: next(used), raising=False)
    warden: Any = SimpleNamespace(_answer_to=lambda _: {"may": True})
    assert Warden._answered(warden, b'{"number": 7}') == {"may": True, "number": 7, "took": 0.25}
