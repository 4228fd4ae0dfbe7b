"""What networks have left over: addresses, ports, elements of rules and links of containers that are gone, bridges of
networks that are gone; rules that are missing, places in networks without a link, names for which nobody answers. For
`system check`.

Everything is looked at twice, with a pause, since containers come and go: a link is there for some 50 ms after the last
process of its container.
"""

from __future__ import annotations

import os
import time

from lamina.engine.network_record import RECORD
from lamina.engine.networks import everything, table_of
from lamina.engine.plugging import mend
from lamina.errors import LaminaError
from lamina.network import claims, firewall, leases, links, names
from lamina.network.subnet import packed
from lamina.store import networks
from lamina.store.check import LEFT_OVER, Finding
from lamina.store.containers import PAUSED, RUNNING, Home

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.network.model import Attachment, Network
    from lamina.store.root import Store

PAUSE = 0.25  # seconds between the two looks
MISSING, SILENT, UNLINKED = "rules", "responder", "unlinked"


def leftovers(store: Store, *, repair: bool) -> list[Finding]:
    """What is left over; with *repair* it is removed, and missing rules are made anew. Raises KernelError."""
    if not os.path.isdir(store.networks):
        return []
    first = _found(store)
    if not first:
        return []
    time.sleep(PAUSE)
    second = _found(store)
    return [_finding(store, kind, what, repair=repair) for kind, what in sorted(first & second)]


def _found(store: Store) -> set[tuple[str, str]]:
    """(kind, what) of everything that nobody has."""
    found = set()
    for name in networks.identities(store):
        for address, owner in leases.leased(networks.addresses_of(store, name)).items():
            if not _has_record(store, owner):
                found.add(("address", f"{name} {address} {owner}"))
        for called, owner in names.every(networks.names_of(store, name)):
            if not _has_record(store, owner):
                found.add(("name", f"{name} {called} {owner}"))
    for claim, owner in claims.claimed(store.networks + networks.PORTS).items():
        if not _has_record(store, owner):
            found.add(("port", f"{claim} {owner}"))
    if os.geteuid() == 0:
        found |= _outside(store)
    return found


def _has_record(store: Store, owner: str) -> bool:
    return Home(store, owner).has(RECORD)


def _outside(store: Store) -> set[tuple[str, str]]:
    """Of the kernel's."""
    table = table_of(store)
    known, attachments = everything(store)
    alive = {one.owner[:12] for one in attachments}
    found = set()
    try:
        found |= {("element", " ".join(one)) for one in firewall.elements_of(table) if one[-1] not in alive}
        if attachments and not firewall.stands(table):
            found.add((MISSING, table))
    except LaminaError:  # no nf_tables: then there is nothing in it
        pass
    with links.opened() as channel:
        for one in links.noted(channel, f"{table} container "):
            if one.alias.split()[3] not in alive:
                found.add(("link", one.name))
        bridges = {network.bridge for network in known if not network.parent}
        for one in links.noted(channel, f"{table} network "):
            if one.name not in bridges:
                found.add(("bridge", one.name))
        found |= _silent(channel, known) | _unlinked(store, channel, attachments)
    return found


def _silent(channel: Any, known: list[Network]) -> set[tuple[str, str]]:
    """Networks in which containers have names, and nobody answers for them."""
    from lamina.engine.responders import answers

    found = set()
    for network in known:
        bridge = links.find(channel, network.bridge)
        needed = network.names and bridge is not None and not names.is_empty(network.names)
        if needed and bridge is not None and not answers(network, bridge.index):
            found.add((SILENT, network.name))
    return found


def _unlinked(store: Store, channel: Any, attachments: list[Attachment]) -> set[tuple[str, str]]:
    """Places in networks of containers that run, which have no link: who connected them was killed."""
    from lamina.engine.settling import state_of

    there = {one.name for one in links.ports(channel)}
    found = set()
    for one in attachments:
        if one.port not in there and not one.network.parent:  # of which nothing is here
            try:
                if state_of(Home(store, one.owner)) in (RUNNING, PAUSED):
                    found.add((UNLINKED, f"{one.title} {one.network.name} {one.number} {one.owner}"))
            except LaminaError:  # it has just gone, or is damaged, which others find
                continue
    return found


def _finding(store: Store, kind: str, what: str, *, repair: bool) -> Finding:
    problems = {
        "address": "it is taken by a container that is not there",
        "port": "it is published for a container that is not there",
        "element": "it is of a container that is not there",
        "link": "it is of a container that is not there",
        "bridge": "it is of a network that is not there",
        MISSING: "they are missing, and containers are in networks",
        "name": "it is that of a container that is not there",
        SILENT: "nobody answers for the names of its containers",
        UNLINKED: "the container has no link to that network",
    }
    done = False
    if repair:
        try:
            _repair(store, kind, what.split())
            done = True
        except LaminaError:
            pass
    shown = what.rpartition(" ")[0] if kind in ("address", "port", "name", UNLINKED) else what
    return Finding(
        LEFT_OVER, "network", f"{kind} {shown}", problems[kind], done, "" if done else "system check --repair"
    )


def _repair(store: Store, kind: str, words: list[str]) -> None:
    if kind == "address":
        leases.give_back(networks.addresses_of(store, words[0]), packed(words[1]), words[2])
    elif kind == "port":
        claims.drop_stale(store.networks + networks.PORTS, lambda owner: owner != words[1])
    elif kind == "element":
        firewall.left_over(table_of(store), lambda short: short != words[-1])
    elif kind == "name":
        names.give_back(networks.names_of(store, words[0]), words[1], words[2])
    elif kind in (MISSING, SILENT):
        mend(store)
    elif kind == UNLINKED:
        from lamina.engine.connecting import finish

        finish(Home(store, words[-1]), int(words[-2]))
    else:
        with links.opened() as channel:
            if (found := links.find(channel, words[0])) is not None:
                links.remove(channel, found)
