"""The process that answers for the names of one network, from its first instruction to its last."""

from __future__ import annotations

import os
from _socket import AF_INET, SOCK_DGRAM, SOCK_STREAM, socket
from contextlib import contextmanager
from time import monotonic, sleep

from lamina.engine.dropped import tell
from lamina.engine.network_record import Ledger
from lamina.engine.networks import network_of
from lamina.engine.responders import DATAGRAMS, LISTENER, LOCK, PORT, place_of
from lamina.engine.telling import Telling
from lamina.linux.capabilities import CAPABILITIES, CapabilitySets, capset
from lamina.linux.constants import PR_SET_NAME, PR_SET_NO_NEW_PRIVS
from lamina.linux.inotify import (
    IN_CREATE,
    IN_DELETE,
    IN_DELETE_SELF,
    IN_MOVE_SELF,
    inotify_add_watch,
    inotify_init1,
    read_events,
)
from lamina.linux.process import close_range, prctl
from lamina.network import firewall, names
from lamina.network.egress import allows, sources_of
from lamina.network.leases import holder_of, leased
from lamina.network.responder import Client, Responder
from lamina.network.subnet import packed, text_of
from lamina.store import networks
from lamina.store.containers import Home
from lamina.store.lock import LOCK_EX, turn

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as s
    from collections.abc import Callable, Iterator, Sequence
    from typing import NoReturn

    from lamina.network.dns import Query
    from lamina.network.model import Allowed, Attachment, Network
    from lamina.store.root import Store
else:  # the module `signal` is enumerations around it
    import _signal as s

LINGER = 3.0  # seconds without a container; the next one may come at once
_PATIENCE = 60.0  # between two looks whether it is still wanted, if nobody says so
ERROR = b"/names.error"
_NET_ADMIN = CAPABILITIES[
    "CAP_NET_ADMIN"
]  # for the rules of those who may not reach everything, and only then
_READ_EVERY = 2.0  # seconds between two looks at what was dropped of what they sent
_SETTLED = 1.0  # seconds after which a container that has come is in the rules
_BREATH = 0.01  # seconds, after what should not have happened
_MOST_SERVERS = 3  # as resolv.conf(5) has it
_RESOLV = "/etc/resolv.conf"


def serve(store: Store, name: str, index: int) -> NoReturn:
    """Answer until nobody is left who could ask, and end this process."""
    place = networks.place_of(store, name)
    try:
        _be_alone()
        _give_rights_up()
        record = networks.find(store, name)
        if record is not None:
            Service(store, network_of(store, record), index).run()
    except Exception as failure:
        _confess(place, failure)
    finally:
        os._exit(0)


def _be_alone() -> None:
    """Nothing of whoever started it."""
    try:
        os.setsid()
    except OSError:  # it leads a session already
        pass
    os.chdir("/")
    os.umask(0o077)
    for number in range(1, 65):
        if number not in (9, 19, 32, 33):
            s.signal(number, s.SIG_DFL)
    s.signal(s.SIGPIPE, s.SIG_IGN)
    s.pthread_sigmask(s.SIG_SETMASK, ())
    close_range(LISTENER + 1, 0xFFFFFFFF, 0)
    for fd in (LOCK, DATAGRAMS, LISTENER):
        os.set_inheritable(fd, False)
    prctl(PR_SET_NAME, b"lamina-names")


def _give_rights_up() -> None:
    """It reads what containers send: so it keeps no right but one that it needs at times. All it reads is root's."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    _have(0)


def _have(rights: int) -> None:
    """In effect now; the one that it needs at times can be had again."""
    capset(CapabilitySets(rights, 1 << _NET_ADMIN, 0))


def _confess(place: bytes, failure: Exception) -> None:
    """Nobody listens: so what went wrong, the first time, is put beside the network."""
    import traceback

    try:
        descriptor = os.open(place + ERROR, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    with open(descriptor, "w", errors="replace") as file:
        traceback.print_exception(failure, file=file)


class Service:
    """The network, as it is when somebody asks."""

    def __init__(self, store: Store, network: Network, index: int) -> None:
        self.store, self.network = store, network
        self.lock = place_of(network, index)
        self.empty_since: float | None = None
        self._servers: tuple[tuple[str, int], ...] = ()
        self._read_at: tuple[int, int] = (0, 0)
        self.telling = Telling(network.table)
        self.limited: dict[bytes, tuple[str, str]] = {}
        self.next_look = monotonic() + _SETTLED
        self._told = inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        above = os.path.dirname(network.names)
        inotify_add_watch(self._told, above, IN_DELETE | IN_MOVE_SELF | IN_DELETE_SELF)
        inotify_add_watch(self._told, network.names, IN_CREATE | IN_DELETE)
        datagrams = socket(AF_INET, SOCK_DGRAM, fileno=DATAGRAMS)
        listener = socket(AF_INET, SOCK_STREAM, fileno=LISTENER)
        self.responder = Responder(datagrams, listener, self.client, [(self._told, self._look)])

    def run(self) -> None:
        """Until nobody needs it."""
        self._look()
        while True:
            left = _PATIENCE
            if self.empty_since is not None:
                left = self.empty_since + LINGER - monotonic()
                if left <= 0 and self._leave():
                    return
            if not self._is_wanted():
                return
            try:
                if monotonic() >= self.next_look:
                    self._look_at_limited()
                self.responder.step(max(min(left, self.next_look - monotonic()), 0.0))
            except Exception as failure:
                # what nobody can answer, which is a bug, must not cost others their answers
                _confess(os.path.dirname(self.lock), failure)
                sleep(_BREATH)

    def _look(self, _: int = 0) -> None:
        """Something has changed among the names: whether there is one."""
        try:
            for _event in read_events(self._told):
                pass
        except BlockingIOError:
            pass
        self.next_look = min(self.next_look, monotonic() + _SETTLED)
        self.telling.begin_anew()
        if not names.is_empty(self.network.names):
            self.empty_since = None
        elif self.empty_since is None:
            self.empty_since = monotonic()

    def _look_at_limited(self) -> None:
        """Who is limited, and what was dropped of what they sent."""
        self.next_look = monotonic() + _PATIENCE
        table = self.network.table
        with _administering():
            for address in firewall.limited(table):
                if (owner := holder_of(self.network.leases, address)) is not None:
                    places = Ledger.of(Home(self.store, owner)).attachments
                    own = [
                        source for place in places for each in sources_of(place).values() for source in each
                    ]
                    self.limited.update(dict.fromkeys(own, (owner, places[0].title if places else "")))
            if self.limited:
                self.next_look = monotonic() + _READ_EVERY
                tell(self.store, table, self.limited)
        there = set(leased(self.network.leases).values())
        self.limited = {source: who for source, who in self.limited.items() if who[0] in there}
        self.telling.forget(there.__contains__)

    def _is_wanted(self) -> bool:
        """Whether the file that it holds is still there: else the network is gone, or its bridge was made anew."""
        try:
            there, held = os.stat(self.lock), os.fstat(LOCK)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)

    def _leave(self) -> bool:
        """Whether it may: nobody has come meanwhile. Who comes then finds that nobody answers, and starts another."""
        try:
            with turn(self.network.names, LOCK_EX):
                if not names.is_empty(self.network.names):
                    self.empty_since = None
                    return False
                self.responder.close()
                os.unlink(self.lock)
                os.close(LOCK)
        except FileNotFoundError:  # with its network
            pass
        return True

    # -- who asks

    def client(self, source: str) -> Client | None:
        """The container with that address, None where it is nobody's."""
        address = packed(source)
        owner = holder_of(self.network.leases, address)
        if owner is None:
            return None
        ledger = Ledger.of(Home(self.store, owner))
        places = ledger.attachments
        if not any(address in one.addresses for one in places):
            return None
        servers: tuple[tuple[str, int], ...] = ()
        if not all(one.network.internal for one in places):  # docker: what leads nowhere asks nobody outside
            servers = tuple((text_of(one), PORT) for one in ledger.servers) or self._of_host()
        return Client(
            networks=tuple(one.network.names for one in places if one.network.names),
            owner_at=lambda wanted: self._owner_at(places, wanted),
            servers=servers,
            may=None if places[0].egress is None else lambda name: _may(places[0].egress or (), name),
            learn=None if places[0].egress is None else self._learner(owner, places),
        )

    def _learner(
        self, owner: str, places: list[Attachment]
    ) -> Callable[[Query, list[tuple[int, bytes]], bool], bool]:
        learn = self.telling.learner(owner, places)

        def learn_with_rights(query: Query, found: list[tuple[int, bytes]], own: bool) -> bool:
            with _administering():
                return learn(query, found, own)

        return learn_with_rights

    def _owner_at(self, places: list[Attachment], address: bytes) -> str | None:
        """The name of the container with an address of one of these networks."""
        for place in places:
            network = place.network
            if not any(subnet.has(address) for subnet in network.subnets):
                continue
            owner = holder_of(network.leases, address)
            found = [] if owner is None else Ledger.of(Home(self.store, owner)).attachments
            titles = [one.names[0] for one in found if address in one.addresses and one.names]
            return titles[0] if titles else ""
        return None

    def _of_host(self) -> tuple[tuple[str, int], ...]:
        """This host's own servers, as they are now."""
        try:
            facts = os.stat(_RESOLV)
            version = (facts.st_mtime_ns, facts.st_ino)
            if version != self._read_at:
                self._servers = tuple(_servers_in(_RESOLV))
                self._read_at = version
        except OSError:
            self._servers = ()
        return self._servers


@contextmanager
def _administering() -> Iterator[None]:
    _have(1 << _NET_ADMIN)
    try:
        yield
    finally:
        _have(0)


def _may(allowed: Sequence[Allowed], name: str) -> bool:
    return any(one.subnet is None and allows(one, name) for one in allowed)


def _servers_in(path: str) -> list[tuple[str, int]]:
    found = []
    with open(path, "rb") as file:
        for line in file.read(1 << 16).splitlines():
            words = line.split()
            if len(words) >= 2 and words[0] == b"nameserver":
                try:
                    found.append((text_of(packed(words[1].decode())), PORT))
                except ValueError:  # with a zone
                    continue
    return found[:_MOST_SERVERS] or [("127.0.0.1", PORT)]  # as resolv.conf(5) has it
