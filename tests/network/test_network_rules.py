"""The tables as nft(8) reads them, and what becomes of them: flushed, made anew, removed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from lamina.engine.egress import MOST as MOST_ALLOWED
from lamina.engine.egress import read_egress
from lamina.errors import KernelError
from lamina.linux.nftables import (
    Element,
    add_elements,
    add_table,
    commit,
    delete_elements,
    elements,
    generation_of,
    ifname,
    open_nftables,
    tables,
)
from lamina.network import firewall, rules
from lamina.network.model import Attachment
from lamina.values import replace
from support.lab import Lab, in_lab, listen, nft, nft_is_there, publish, reaches

pytestmark = [
    pytest.mark.root,
    pytest.mark.peer("ip"),
    pytest.mark.skipif(not nft_is_there(), reason="needs nft"),
]
GOLDEN = Path(__file__).parent / "golden" / "ruleset.nft"


def listed() -> str:
    """What nft(8) says of the rules, without counts and what is random."""
    text = re.sub(r"packets \d+ bytes \d+", "", nft("list", "ruleset"))
    text = re.sub(r"fe80::[0-9a-f:]+", "fe80::1", text)
    text = re.sub(r"elements = \{ (.*?) \}", lambda found: _sorted(found[1]), text, flags=re.DOTALL)
    return re.sub(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", "02:00:00:00:00:01", text)


def _sorted(elements: str) -> str:
    return "elements = { " + ", ".join(sorted(" ".join(one.split()) for one in elements.split(","))) + " }"


def furnished(lab: Lab):
    network = lab.network("one", subnet6="fd00:88::/64")
    return lab.container(network, "web", publish(80, 8080), publish(53, 53, "127.0.0.1", "udp"))


def test_nft_reads_our_rules():
    """After a wanted change: LAMINA_GOLDEN=write pytest tests/network/test_network_rules.py; read the difference."""

    def test(lab):
        furnished(lab)
        lab.bridge(lab.network("inner", "10.90.0.0/24", internal=True))
        return listed()

    found = in_lab(test)
    if os.environ.get("LAMINA_GOLDEN") == "write":
        GOLDEN.write_text(found)
    assert found == GOLDEN.read_text()


def test_what_was_flushed_is_made_anew_with_everything_there_is():
    def test(lab):
        web = furnished(lab)
        with lab.inside(web):
            server = listen(80)
        before = listed()
        nft("flush", "ruleset")
        assert not reaches("192.0.2.1", 8080, 0.2)
        firewall.add("lamina", rules.of_network(lab.networks[0]), lab.everything)
        assert reaches("192.0.2.1", 8080)
        assert listed() == before
        firewall.make("lamina", lab.everything, anew=True)
        assert listed() == before
        del server

    in_lab(test)


def test_what_others_have_stays_as_it_is():
    def test(lab):
        nft("-f", "-", given='table inet theirs {\n set bridges { type ifname; elements = { "x" } }\n}\n')
        theirs = nft("list", "table", "inet", "theirs")
        web = furnished(lab)
        firewall.make("lamina", lab.everything, anew=True)
        firewall.remove("lamina", rules.of_attachment(web.attachment))
        firewall.delete("lamina")
        with open_nftables() as channel:
            assert tables(channel) == [("inet", "theirs")]
        assert nft("list", "table", "inet", "theirs") == theirs

    in_lab(test)


def many_attachments(lab: Lab, count: int, **more: Any) -> list[Attachment]:
    """Containers with names of some length, of which there are no links."""
    network = lab.networks[0]
    return [
        Attachment(
            f"{number:064x}",
            f"a-container-of-many-{number}",
            network,
            0,
            tuple(one.packed(one.first + 2 + number) for one in network.subnets),
            bytes((2, 0, 0, 0, *number.to_bytes(2, "big"))),
            "eth0",
            **more,
        )
        for number in range(count)
    ]


def test_the_rules_of_a_thousand_containers_are_made_anew_at_once():
    """A netlink socket takes 200 KiB, unless it is told that more comes."""

    def test(lab):
        lab.network("one")
        lab.attachments.extend(many_attachments(lab, 1000))
        firewall.add("lamina", rules.of_network(lab.networks[0]), lab.everything)
        assert len(firewall.elements_of("lamina")) == 2000
        nft("flush", "ruleset")
        firewall.add("lamina", rules.of_attachment(lab.attachments[7]), lab.everything)
        assert len(firewall.elements_of("lamina")) == 2000

    in_lab(test)


def test_thousands_of_ports_of_one_container_come_go_and_are_taken_over():
    ports = tuple(publish(8000, 20000 + number) for number in range(3000))

    def test(lab):
        lab.network("one")
        firewall.add("lamina", rules.of_network(lab.networks[0]), lab.everything)
        gone, other = (rules.of_attachment(one) for one in many_attachments(lab, 2, published=ports))
        firewall.add("lamina", gone, lab.everything)
        firewall.add("lamina", other, lab.everything)  # more refusals than a socket has room for
        shown = nft("list", "map", "inet", "lamina", "ports4")
        assert shown.count("20007 comment") == 1
        assert shown.count("10.88.0.3 . 8000") == 3000
        firewall.remove("lamina", other)
        assert "10.88.0.3" not in nft("list", "map", "inet", "lamina", "ports4")

    in_lab(test)


def test_as_much_is_allowed_of_ipv6_as_can_be_asked_for():
    """A container sends from two addresses of IPv6, and one attribute has at most 64 KiB."""
    allowed = "allow=" + ",".join(f"2001:db8:{number:x}::/48" for number in range(MOST_ALLOWED))

    def test(lab):
        lab.network("one", subnet6="fd00:88::/64")
        (box,) = many_attachments(lab, 1, egress=read_egress(allowed))
        firewall.add("lamina", rules.of_network(lab.networks[0]), lab.everything)
        firewall.add("lamina", rules.of_attachment(box), lab.everything)
        assert nft("list", "set", "inet", "lamina", "open6").count("2001:db8:") == 2 * MOST_ALLOWED

    in_lab(test)


def test_removing_what_is_not_there_is_no_error_and_leaves_the_rest():
    def test(lab):
        web = furnished(lab)
        gone = rules.of_attachment(web.attachment)
        with_it = listed()
        firewall.remove("lamina", gone)
        assert "web" not in listed()
        firewall.remove("lamina", gone)
        firewall.add("lamina", gone, lab.everything)
        assert listed() == with_it
        firewall.delete("lamina")
        firewall.remove("lamina", gone)

    in_lab(test)


def test_a_port_that_a_dead_container_left_is_taken_over():
    def test(lab):
        lab.end(furnished(lab))
        lab.attachments.clear()
        other = lab.container(lab.networks[0], "other", publish(81, 8080))
        with lab.inside(other):
            server = listen(81)
        assert reaches("192.0.2.1", 8080)
        left = firewall.left_over("lamina", lambda short: short == other.attachment.owner[:12])
        assert {line.split()[4] for line in left} >= {"macs", "addresses4", "addresses6", "ports4_at"}
        assert firewall.left_over("lamina", lambda short: short == other.attachment.owner[:12]) == []
        del server

    in_lab(test)


def test_a_port_that_moves_has_a_rule_whenever_who_moves_it_is_killed(monkeypatch):
    """Before each transaction: the port leads to the one or to the other."""

    def test(lab):
        furnished(lab)
        other = lab.container(lab.networks[0], "other")
        heir = replace(other.attachment, published=lab.attachments[0].published)
        done = commit

        def owners():
            with open_nftables() as channel:
                every = [one for name in ("ports4", "ports6", "ports4_at")
                         for one in elements(channel, "inet", "lamina", name)]  # fmt: skip
            return [one.comment.split()[0] for one in every]

        number = 0
        while "web" in owners():
            left = number

            def killed(*what):
                nonlocal left
                if left == 0:
                    raise KeyboardInterrupt
                left -= 1
                done(*what)

            monkeypatch.setattr(firewall, "commit", killed)
            try:
                firewall.add("lamina", rules.of_attachment(heir), lab.everything)
            except KeyboardInterrupt:
                pass
            assert owners() in (["web"] * 3, ["other"] * 3)
            number += 1
        assert number > 1

    in_lab(test)


def test_a_port_that_moves_while_others_change_rules_arrives(monkeypatch):
    """What was seen of a map is of another generation by the time it is to be changed."""

    def test(lab):
        furnished(lab)
        other = lab.container(lab.networks[0], "other")
        heir = replace(other.attachment, published=lab.attachments[0].published)
        done, first = commit, generation_of
        meanwhile = [
            [add_table("inet", "theirs")],
            rules.removals("lamina", rules.of_attachment(lab.attachments[0])),
        ]

        def seen(channel):
            found = first(channel)
            if meanwhile:
                with open_nftables() as another:
                    done(another, meanwhile.pop(0))
            return found

        monkeypatch.setattr(firewall, "generation_of", seen)
        firewall.add("lamina", rules.of_attachment(heir), lab.everything)
        assert meanwhile == []
        with open_nftables() as channel:
            assert [one.comment.split()[0] for one in elements(channel, "inet", "lamina", "ports4")] == [
                "other"
            ]

    in_lab(test)


def test_what_two_take_at_once_is_taken_once(monkeypatch):
    """A container that ends tells what was dropped of it, while somebody else looks at all of them."""

    def test(lab):
        lab.container(lab.network("one"), "box", egress="deny")
        every = [Element(bytes([10, 88, 0, 2, 192, 0, 2, 2, 17, 0, 0, 0, *divmod(port, 256), 0, 0]), seconds=600)
                 for port in range(900)]  # fmt: skip
        with open_nftables() as channel:
            for at in range(0, 900, 100):
                commit(channel, [add_elements("inet", "lamina", "dropped4", every[at : at + 100])])
        done: list[int] = []

        def collide(channel, changes, *more):
            if len(done) == 1:  # the other one takes all of them but some
                with open_nftables() as other:
                    there = elements(other, "inet", "lamina", "dropped4")
                    for at in range(60, len(there), 100):
                        part = there[at : at + 100]
                        commit(other, [delete_elements("inet", "lamina", "dropped4", part)])
            done.append(1)
            commit(channel, changes, *more)

        monkeypatch.setattr(firewall, "commit", collide)
        taken = firewall.take_counted("lamina", lambda _: True)
        assert len(taken) == 260
        assert len(done) < 20
        assert firewall.take_counted("lamina", lambda _: True) == []

    in_lab(test)


def test_thousands_of_containers_are_made_anew_at_once():
    """More than a socket takes that nobody has told to take more."""

    def test(lab):
        web = furnished(lab).attachment
        for number in range(1500):
            address = lab.networks[0].subnets[0].packed(lab.networks[0].subnets[0].first + 1000 + number)
            lab.attachments.append(
                replace(
                    web,
                    owner=f"{number:064x}",
                    addresses=(address, *web.addresses[1:]),
                    title="x" * 64,
                    published=(replace(web.published[0], host_port=10000 + number),),
                )
            )
        firewall.make("lamina", lab.everything, anew=True)
        with open_nftables() as channel:
            assert len(elements(channel, "inet", "lamina", "ports4")) == 1501

    in_lab(test)


def test_a_transaction_happens_as_a_whole_or_not_at_all():
    def test(_):
        with open_nftables() as channel:
            missing = add_elements("inet", "lamina", "bridges", [Element(ifname("x"))])
            with pytest.raises(KernelError, match="element of inet lamina bridges") as caught:
                commit(channel, [add_table("inet", "lamina"), missing, add_table("inet", "other")])
            assert caught.value.errno == 2
            assert tables(channel) == []

    in_lab(test)


def test_tables_of_an_older_lamina_are_made_anew_when_they_lack_something():
    def test(lab):
        with open_nftables() as channel:
            commit(channel, [add_table(family, "lamina") for family in ("inet", "bridge")])
        lab.container(lab.network("one"), "box", egress="allow=192.0.2.2:80")
        shown = nft("list", "set", "inet", "lamina", "limited4")
        assert "10.88.0.2" in shown
        assert "192.0.2.2" in nft("list", "set", "bridge", "lamina", "open4_at")

    in_lab(test)
