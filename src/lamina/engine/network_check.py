"""What networks have left over: addresses, ports, elements of rules and links of containers that are gone, or have
ended and could not give them back; bridges of networks and of stores that are gone; rules that are missing, places in
networks without a link, names for which nobody answers. For `system check`.

Everything is looked at twice, with a pause, since containers come and go: a link is there for some 50 ms after the last
process of its container.
"""

from __future__ import annotations

import os
import time

from lamina.engine import cni, foreign_networks_check, orphaned_bridges, responder_sandbox, unreleased
from lamina.engine.network_record import RECORD, Ledger, everything
from lamina.engine.networks import table_of
from lamina.engine.plugging import mend
from lamina.errors import LaminaError
from lamina.network import claims, firewall, leases, links, names
from lamina.network.subnet import packed
from lamina.store import networks
from lamina.store.check import LEFT_OVER, Finding
from lamina.store.containers import PAUSED, RUNNING, Home
from lamina.store.lock import LOCK_EX, turn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.network.model import Attachment, Network
    from lamina.store.root import Store

PAUSE = 0.25  # seconds between the two looks
MISSING, SILENT, UNLINKED, GROUP, OF_NETWORK = "rules", "responder", "unlinked", "group", "rule"
ENDED, APART = "ended", "apart"
_WITH_OWNER = (
    "address",
    "port",
    "name",
    UNLINKED,
    ENDED,
    APART,
    *foreign_networks_check.PROBLEMS,
)  # their last word


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
    found |= foreign_networks_check.found(store)
    told = {owner for owner, _ in cni.added(store)}  # of those it is said what their plugins lack
    ended = [home for home in unreleased.left(store) if home.id not in told]
    found |= {(ENDED, f"{unreleased.title_of(home)} {home.id}") for home in ended}
    if os.geteuid() == 0:
        found |= _outside(store, {home.id[:12] for home in ended})
    return found


def _has_record(store: Store, owner: str) -> bool:
    return Home(store, owner).has(RECORD)


def _outside(store: Store, ended: set[str]) -> set[tuple[str, str]]:
    """Of the kernel's; the rules of those who have *ended* go with what they have to give back."""
    table = table_of(store)
    known, attachments = everything(store)
    alive = {one.owner[:12] for one in attachments}
    found = set()
    try:
        found |= {
            ("element", " ".join(one)) for one in firewall.elements_of(table) if one[-1] not in alive | ended
        }
        found |= {(OF_NETWORK, " ".join(one)) for one in firewall.left_by_networks(table, known)}
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
        found |= (
            _silent(channel, known) | _unlinked(store, channel, attachments) | _apart(channel, attachments)
        )
    found |= {("store", one.name) for one in orphaned_bridges.bridges() if ("bridge", one.name) not in found}
    return found | {(GROUP, name) for name in responder_sandbox.left(table)}


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
    """Places in networks of containers that run, which have no link: who connected or disconnected them was killed."""
    from lamina.engine.connecting import has_link
    from lamina.engine.settling import state_of

    there = {one.name: one for one in links.ports(channel)}
    found = set()
    for one in [*attachments, *_unaddressed(store)]:
        home = Home(store, one.owner)
        try:
            if one.addresses and has_link(home, one, channel, there):
                continue
            if state_of(home) in (RUNNING, PAUSED):
                found.add((UNLINKED, f"{one.title} {one.network.name} {one.number} {one.owner}"))
        except (LaminaError, OSError):  # it has just gone, or is damaged, which others find
            continue
    return found


def _apart(channel: Any, attachments: list[Attachment]) -> set[tuple[str, str]]:
    """Those whose link is at no bridge, or at another one: somebody else has removed that, or taken the link away."""
    known = {one.name: one for one in links.every(channel)}
    found = set()
    for one in attachments:
        port, bridge = known.get(one.port), known.get(one.network.bridge)
        if port and port.master != (bridge.index if bridge else -1):
            found.add((APART, f"{one.title} {one.network.name} {one.owner}"))
    return found


def _unaddressed(store: Store) -> list[Attachment]:
    """Places that are only written down: whoever was to take addresses for them was killed."""
    found: list[Attachment] = []
    for entry in os.listdir(store.running):
        try:
            places = Ledger.of(Home(store, os.fsdecode(entry))).attachments
        except LaminaError:  # damaged, which others find
            continue
        found += [one for one in places if not one.addresses and not one.network.maker]
    return found


def _finding(store: Store, kind: str, what: str, *, repair: bool) -> Finding:
    problems = {
        "address": "it is taken by a container that is not there",
        "port": "it is published for a container that is not there",
        "element": "it is of a container that is not there",
        "link": "it is of a container that is not there",
        "bridge": "it is of a network that is not there",
        "store": "a bridge of a store that is not there",
        MISSING: "they are missing, and containers are in networks",
        "name": "it is that of a container that is not there",
        GROUP: "it is that of one who answered for names, and was killed",
        OF_NETWORK: "it is of a network that is not there, or is another one now",
        SILENT: "nobody answers for the names of its containers",
        UNLINKED: "the container has no link to that network",
        APART: "its link is not at the bridge of that network",
        ENDED: "the container has ended, and what it had of networks was not given back",
    }
    if kind in foreign_networks_check.PROBLEMS:
        problem, remedy = foreign_networks_check.words_of(store, kind, what)
    else:
        problem, remedy = problems[kind], ""
    done = False
    if repair:
        try:
            _repair(store, kind, what.split())
            done = True
        except LaminaError as failure:
            if not remedy:
                problem, remedy = f"{problem}: {failure.message}", failure.remedy
        except OSError as failure:
            problem = f"{problem}: {failure}"
    shown = what.rpartition(" ")[0] if kind in _WITH_OWNER else what
    remedy = "" if done else remedy or "system check --repair"
    return Finding(LEFT_OVER, "network", f"{kind} {shown}", problem, done, remedy)


def _repair(store: Store, kind: str, words: list[str]) -> None:
    if kind == "address":
        leases.give_back(networks.addresses_of(store, words[0]), packed(words[1]), words[2])
    elif kind == "port":
        claims.drop_stale(store.networks + networks.PORTS, lambda owner: owner != words[1])
    elif kind == "element":
        if words[-1] not in _alive(store):
            firewall.left_over(table_of(store), lambda short: short != words[-1])
    elif kind == "name":
        names.give_back(networks.names_of(store, words[0]), words[1], words[2])
    elif kind == "store":
        for one in orphaned_bridges.bridges():
            if one.name == words[0]:
                orphaned_bridges.remove(one)
    elif kind == OF_NETWORK:
        firewall.left_by_networks(table_of(store), everything(store)[0], remove=True)
    elif kind == GROUP:
        responder_sandbox.sweep(table_of(store))
    elif kind in (MISSING, SILENT, APART):
        mend(store)
    elif kind in foreign_networks_check.PROBLEMS:
        foreign_networks_check.repair(store, kind, " ".join(words))
    elif kind == ENDED:
        unreleased.give_back(Home(store, words[-1]))
    elif kind == UNLINKED:
        from lamina.engine.connecting import finish

        finish(Home(store, words[-1]), int(words[-2]))
    elif kind == "link":
        _remove_link(store, words[0], lambda alias: alias.split()[3] not in _alive(store))
    else:
        with turn(store.networks, LOCK_EX):  # nobody makes a network of that name meanwhile
            known = {one.bridge for one in networks.every(store)}
            _remove_link(store, words[0], lambda _: words[0] not in known)


def _remove_link(store: Store, name: str, is_nobodys: Callable[[str], bool]) -> None:
    """Unless it is somebody's by now: looked at after the link, for whoever makes one has written it down before."""
    with links.opened() as channel:
        found = links.find(channel, name)
        if found is not None and found.alias.startswith(table_of(store)) and is_nobodys(found.alias):
            links.remove(channel, found)


def _alive(store: Store) -> set[str]:
    """The first digits of the ids of containers in networks."""
    return {one.owner[:12] for one in everything(store)[1]}
