"""The half of who answers for names that reads nothing of what containers send: it has the right to change rules, and
does so for the other half, which has none, as far as the policies of the containers allow that.

Between them is a socket. A message is a question ("learn" or "servers", or what is to be written) with a number, which
its answer has as well. What the other half says (`responder_door`) is not believed: whose name it is, what may be asked
for it, and what it may open is looked up here, in directories that the other half cannot write to.
"""

from __future__ import annotations

import os
from select import POLLIN, poll
from time import monotonic, thread_time

from lamina.document import decode, encode
from lamina.engine.egress_answers import MOST, Telling
from lamina.engine.egress_drops import tell
from lamina.engine.network_record import Ledger
from lamina.engine.networks import network_of
from lamina.errors import InvalidInput, LaminaError
from lamina.linux.inotify import IN_CREATE, IN_DELETE, inotify_add_watch, inotify_init1, read_events
from lamina.network import firewall, links, names
from lamina.network.egress import MOST_TOLD, sources_of
from lamina.network.leases import holder_of, leased
from lamina.network.subnet import packed, subnet_of, text_of
from lamina.store import networks
from lamina.store.containers import Home

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Iterable
    from typing import Any

    from lamina.network.model import Network
    from lamina.network.subnet import Subnet
    from lamina.store.root import Store

PORT = 53
_PATIENCE = 60.0  # seconds between two looks who is limited, if nobody comes or goes
_READ_EVERY = 2.0  # seconds between two looks at what was dropped of what they sent
_SETTLED = 1.0  # seconds after which a container that has come is in the rules
_LONGEST = 1 << 18
_MOST_SERVERS = 3  # as resolv.conf(5) has it
_RESOLV = "/etc/resolv.conf"
ERROR = b"/names.error"
_LONGEST_TOOK = 3600.0  # seconds


class Warden:
    """Of one network: `run` until the other half is gone."""

    def __init__(self, store: Store, network: Network, lock: bytes, channel: socket) -> None:
        """*lock* is the file that the other half holds."""
        self.store, self.network, self.lock, self.channel = store, network, lock, channel
        self.telling = Telling(network.table, self._near_of)
        self.limited: dict[bytes, tuple[str, str]] = {}
        self.has_gone = False  # or somebody has come since links were looked at
        self.next_look = monotonic() + _SETTLED
        self._watch = inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        inotify_add_watch(self._watch, network.names, IN_CREATE | IN_DELETE)
        self._near: tuple[int, list[Subnet], list[bytes]] = (0, [], [])

    def run(self) -> None:
        """Answer, and look."""
        waiting = poll()
        waiting.register(self.channel.fileno(), POLLIN)
        waiting.register(int(self._watch), POLLIN)
        while True:
            if monotonic() >= self.next_look:
                self._look_at_limited()
            left = max(self.next_look - monotonic(), 0.0)
            for fd, _ in waiting.poll(int(left * 1000) + 1):
                if fd == int(self._watch):
                    self._somebody_came_or_went()
                elif not self._answer():
                    return

    def _somebody_came_or_went(self) -> None:
        try:
            for _event in read_events(self._watch):
                pass
        except BlockingIOError:
            pass
        self.next_look, self.has_gone = min(self.next_look, monotonic() + _SETTLED), True
        self.telling.begin_anew()

    def _answer(self) -> bool:
        """Whether there is anybody left to answer."""
        try:
            asked = self.channel.recv(_LONGEST)
        except ConnectionResetError:  # it has not even read the last answer
            return False
        if not asked:
            return False
        try:
            self.channel.send(encode(self._answered(asked)).encode())
        except BrokenPipeError:
            return False
        return True

    def _answered(self, message: bytes) -> dict[str, Any]:
        """The answer to a question, with its number, and how much processor time that took: the other half sees to it
        that nobody takes all of it. (Who waits here for others who change rules is not to answer for that.)
        """
        began = thread_time()
        try:
            asked = decode(message, "question")
        except InvalidInput:
            return {}
        found = self._answer_to(asked)
        number = asked.get("number")
        took = min(round(thread_time() - began, 6), _LONGEST_TOOK)
        return {**found, "number": number if isinstance(number, int) else 0, "took": took}

    def _answer_to(self, asked: dict[str, Any]) -> dict[str, Any]:
        try:
            if asked.get("learn"):
                return {"may": self._learn(*asked["learn"])}
            if asked.get("failed"):
                confess(os.path.dirname(self.lock), str(asked["failed"]))
                return {}
            if asked.get("leaves"):
                os.unlink(self.lock)
                return {}
            return {"servers": servers_in(_RESOLV)}
        except (InvalidInput, KeyError, TypeError, ValueError):  # it is not what the other half says
            return {"may": False}
        except (OSError, LaminaError):
            return {"may": False, "servers": []}

    # -- what an answer opens

    def _learn(self, owner: str, name: str, found: list[tuple[int, str]]) -> bool:
        if owner not in leased(self.network.leases).values():
            return False
        places = Ledger.of(Home(self.store, owner)).attachments
        if not places:
            return False
        addresses = [(int(seconds), packed(text)) for seconds, text in found]
        of_networks = {
            address for one in places if one.network.names for address in names.find(one.network.names, name)
        }
        own = all(address in of_networks for _, address in addresses)
        return self.telling.learn(owner, places, name, addresses, own)

    def _near_of(self, addresses: Iterable[bytes]) -> set[bytes]:
        """Those that are containers' of Lamina's, or could be: these are allowed by their own names alone."""
        try:
            version = os.stat(self.store.networks).st_mtime_ns
        except OSError:
            return set(addresses)
        if version != self._near[0] or not self._near[1]:
            known = [network_of(self.store, one) for one in networks.every(self.store)]
            subnets = [subnet for one in known if not one.parent for subnet in one.subnets]
            self._near = (version, subnets, [one.leases for one in known if one.parent])
        _, subnets, wires = self._near
        # asked once for all of an answer: the other half, and with it everybody who asks for a name, waits for this
        every = [*subnets, *_bridged()]
        return {
            address
            for address in addresses
            if any(subnet.has(address) for subnet in every)
            or any(holder_of(place, address) is not None for place in wires)
        }

    # -- what was dropped

    def _remove_links(self) -> None:
        """Of containers that have ended. They go with the last process; but where a connection was open whose other end
        ended first, the kernel says good-bye to that for two minutes, and keeps the namespace meanwhile.
        """
        self.has_gone = False
        try:
            with links.opened() as channel:
                found = links.noted(channel, f"{self.network.table} container ")
                # looked at afterwards: who has begun meanwhile has an address before he has a link
                alive = {owner[:12] for owner in leased(self.network.leases).values()}
                for one in found:
                    words = one.alias.split()
                    if words[-1] == self.network.name and words[3] not in alive:
                        links.remove(channel, one)
        except LaminaError:  # the next look
            self.has_gone = True

    def _look_at_limited(self) -> None:
        """Who is limited, and what was dropped of what they sent."""
        self.next_look = monotonic() + _PATIENCE
        if self.has_gone:
            self._remove_links()
        table = self.network.table
        try:
            everybody = firewall.limited(table)
            for address in everybody:
                if (owner := holder_of(self.network.leases, address)) is not None:
                    places = Ledger.of(Home(self.store, owner)).attachments
                    own = [
                        source for place in places for each in sources_of(place).values() for source in each
                    ]
                    self.limited.update(dict.fromkeys(own, (owner, places[0].title if places else "")))
            if self.limited:
                self.next_look = monotonic() + _READ_EVERY
                tell(self.store, table, self.limited)
        except (OSError, LaminaError):  # a flushed table, a container that is going: the next look
            self.next_look = monotonic() + _READ_EVERY
            return
        self.telling.most = min(MOST, max(MOST_TOLD // max(len(set(everybody.values())), 1), 16))
        there = set(leased(self.network.leases).values())
        self.limited = {source: who for source, who in self.limited.items() if who[0] in there}
        self.telling.forget(there.__contains__)


def _bridged() -> list[Subnet]:
    """The subnets of all of Lamina's bridges, also of other stores."""
    from lamina.linux.rtnetlink import addresses

    with links.opened() as channel:
        bridges = {one.index for one in links.noted(channel, "lamina") if one.kind == "bridge"}
        return [subnet_of(one.packed, one.prefix) for one in addresses(channel) if one.index in bridges]


def servers_in(path: str) -> list[list[Any]]:
    """[address, port] of each that resolv.conf(5) names, the first three. Raises OSError."""
    found = []
    with open(path, "rb") as file:
        for line in file.read(1 << 16).splitlines():
            words = line.split()
            if len(words) >= 2 and words[0] == b"nameserver":
                try:
                    found.append([text_of(packed(words[1].decode())), PORT])
                except ValueError:  # with a zone
                    continue
    return found[:_MOST_SERVERS] or [["127.0.0.1", PORT]]  # as resolv.conf(5) has it


def confess(place: bytes, text: str) -> None:
    """Nobody listens: so what went wrong, the first time, is put beside the network."""
    try:
        descriptor = os.open(place + ERROR, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    try:
        os.write(descriptor, text.encode(errors="replace"))
    finally:
        os.close(descriptor)
