"""What answers of name servers open, without any rule: how often that is told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lamina.engine.egress import read_egress
from lamina.engine.egress_answers import Telling
from lamina.errors import KernelError
from lamina.network import firewall, leases
from lamina.network.model import Attachment, Network
from lamina.network.subnet import packed, read_subnet

OWNER = "a" * 64


@pytest.fixture
def place(tmp_path: Path) -> Attachment:
    own = packed("10.1.0.2")
    network = Network(
        "n", "lam-n", (read_subnet("10.1.0.0/24"),), (packed("10.1.0.1"),), (), os.fsencode(tmp_path)
    )
    leases.take_this(network.leases, network.subnets[0], own, (), OWNER)
    egress = read_egress("allow=a.example,b.example:80")
    return Attachment(OWNER, "box", network, 0, (own,), bytes(6), "eth0", egress=egress)


def test_who_asks_again_and_again_changes_no_rules_each_time(
    place: Attachment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one container could keep all others who change rules waiting, and its network's names as well."""
    told: list[Any] = []
    monkeypatch.setattr(firewall, "tell", lambda table, wanted: told.append(wanted))
    near = packed("10.9.0.1")
    telling = Telling("t", {near}.intersection)

    def asks(name: str, *addresses: str) -> bool:
        return telling.learn(OWNER, [place], name, [(60, packed(one)) for one in addresses], False)

    assert all(asks("a.example", "192.0.2.1") for _ in range(50))
    assert len(told) == 1
    assert asks("a.example", "192.0.2.1", "192.0.2.2")
    assert {element.key[4:8] for _, _, element in told[1]} == {packed("192.0.2.2")}, "only what is new"
    assert asks("b.example", "192.0.2.2")
    assert len(told) == 3, "at another port is something else"
    telling.begin_anew()
    assert asks("a.example", "192.0.2.1")
    assert len(told) == 4

    before = len(told)
    assert asks("a.example", "10.9.0.1", "127.0.0.1")
    assert len(told) == before, "nothing near is opened"

    telling.most = 3
    assert not asks("a.example", *(f"192.0.2.{number}" for number in range(10, 20))), "the set is everybody's"
    telling.most = 1024

    def refuse(table: str, wanted: Any) -> None:
        raise KernelError("netlink", 2, "nf_tables")

    monkeypatch.setattr(firewall, "tell", refuse)
    assert not any(asks("a.example", "192.0.2.9") for _ in range(3)), "what is not told is not answered"
