"""The processes that answer for the names of one network, from their first instruction to their last.

Two: one answers, and is confined (`responder_sandbox`) before it reads the first question; the other, its parent,
changes rules for it (`responder_monitor`), and ends after it.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM, socket, socketpair
from time import monotonic, sleep

from lamina.engine import responder_sandbox
from lamina.engine.network_record import Ledger
from lamina.engine.networks import network_of
from lamina.engine.responder_door import Door
from lamina.engine.responder_monitor import Warden, confess
from lamina.engine.responders import DATAGRAMS, LISTENER, LOCK, PORT, family_of, place_of
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
from lamina.network import names
from lamina.network.egress import allows
from lamina.network.leases import holder_of
from lamina.network.responder import MOST_ASKED, Client, Responder
from lamina.network.subnet import packed, text_of
from lamina.store import networks
from lamina.store.containers import Home
from lamina.store.lock import LOCK_EX, turn

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as s
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from lamina.network.model import Allowed, Attachment, Network
    from lamina.network.responder import Learn, Where
    from lamina.store.root import Store
else:  # the module `signal` is enumerations around it
    import _signal as s

LINGER = 3.0  # seconds without a container; the next one may come at once
_PATIENCE = 60.0  # between two looks whether it is still wanted, if nobody says so
_NET_ADMIN = 1 << CAPABILITIES["CAP_NET_ADMIN"]
_BREATH = 0.01  # seconds, after what should not have happened
_SAME_SERVERS = 1.0  # seconds between two looks which servers this host asks
_SERVERS_SOON = (
    0.5  # seconds that a question waits for such a look; then it asks those that were there before
)
_FILES = 1024


def serve(store: Store, name: str, index: int) -> NoReturn:
    """Answer until nobody is left who could ask, and end this process."""
    place = networks.place_of(store, name)
    try:
        _be_alone()
        if (record := networks.find(store, name)) is not None:
            network = network_of(store, record)
            group = responder_sandbox.settle(network.table, name)
            try:
                _divide(store, network, index)
            finally:
                if group is not None:
                    responder_sandbox.leave(group)
    except Exception as failure:
        confess(place, _text_of(failure))
    finally:
        os._exit(0)


def _divide(store: Store, network: Network, index: int) -> None:
    filtered = responder_sandbox.program(store)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    here, there = socketpair(AF_UNIX, SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        here.close()
        _answer(store, network, index, there, filtered)
    there.close()
    try:
        _ward(store, network, index, here)
    finally:
        here.close()  # then the other half leaves, too
        os.waitpid(child, 0)


def _import_all() -> None:
    """Whoever answers does so from within a root without modules: what else would be imported when it is needed."""
    import _json  # noqa: F401
    import json  # noqa: F401

    import lamina.engine.egress
    import lamina.linux._door  # noqa: F401


def _answer(store: Store, network: Network, index: int, channel: socket, filtered: bytes) -> NoReturn:
    door = Door(channel)
    try:
        prctl(PR_SET_NAME, b"lamina-names")
        _import_all()
        responder_sandbox.confine((store.networks, store.containers), filtered)
        Service(store, network, index, door).run()
    except Exception as failure:
        door.fail(_text_of(failure))
    finally:
        os._exit(0)


def _ward(store: Store, network: Network, index: int, channel: socket) -> None:
    for fd in (LOCK, DATAGRAMS, LISTENER):  # they go with the process that answers
        os.close(fd)
    prctl(PR_SET_NAME, b"lamina-rules")
    capset(CapabilitySets(_NET_ADMIN, _NET_ADMIN | responder_sandbox.TO_LEAVE, 0))
    Warden(store, network, place_of(network, index), channel).run()


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
    _have_usual_limits()


def _have_usual_limits() -> None:
    """Not those of a unit that may have had few files, little time, or was to be killed first."""
    import resource

    for which, wanted in (
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_CPU, -1),
        (resource.RLIMIT_AS, -1),
    ):
        _, most = resource.getrlimit(which)
        try:
            resource.setrlimit(
                which, (wanted if most == -1 else most if wanted == -1 else min(wanted, most), most)
            )
        except (OSError, ValueError):
            continue
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("0")
    except OSError:
        pass


def _text_of(failure: Exception) -> str:
    """As a traceback, which would have to be imported."""
    text, at = f"{type(failure).__name__}: {failure}\n", failure.__traceback__
    while at is not None:
        text += f"  {at.tb_frame.f_code.co_filename}:{at.tb_lineno} {at.tb_frame.f_code.co_name}\n"
        at = at.tb_next
    return text


class Service:
    """The network, as it is when somebody asks."""

    def __init__(self, store: Store, network: Network, index: int, door: Door) -> None:
        self.store, self.network, self.door = store, network, door
        self.lock = place_of(network, index)
        self.empty_since: float | None = None
        self._servers: tuple[Where, ...] = ()
        self._asked_at = 0.0
        self._for_servers: list[Callable[[tuple[Where, ...]], None]] = []
        self._told = inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        above = os.path.dirname(network.names)
        inotify_add_watch(self._told, above, IN_DELETE | IN_MOVE_SELF | IN_DELETE_SELF)
        inotify_add_watch(self._told, network.names, IN_CREATE | IN_DELETE)
        datagrams = socket(family_of(network), SOCK_DGRAM, fileno=DATAGRAMS)
        listener = socket(family_of(network), SOCK_STREAM, fileno=LISTENER)
        others = [(int(self._told), self._look), (door.fileno(), door.read)]
        self.responder = Responder(datagrams, listener, self.client, others)

    def run(self) -> None:
        """Until nobody needs it; or the half that changes rules is gone, without which nobody who is limited could be
        answered: so the next start is to find nobody here.
        """
        self._look()
        while not self.door.is_broken:
            left = min(_PATIENCE, self.door.deadline - monotonic())
            if self.empty_since is not None:
                left = min(left, self.empty_since + LINGER - monotonic())
                if self.empty_since + LINGER <= monotonic() and self._leave():
                    return
            if not self._is_wanted():
                return
            try:
                self.responder.step(max(left, 0.0))
                self.door.expire()
            except Exception as failure:
                # what nobody can answer, which is a bug, must not cost others their answers
                self.door.fail(_text_of(failure))
                sleep(_BREATH)

    def _look(self, _: int = 0) -> None:
        """Something has changed among the names: whether there is one."""
        try:
            for _event in read_events(self._told):
                pass
        except BlockingIOError:
            pass
        if not names.is_empty(self.network.names):
            self.empty_since = None
        elif self.empty_since is None:
            self.empty_since = monotonic()

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
                self.door.leave()
                os.close(LOCK)
        except FileNotFoundError:  # with its network
            pass
        return True

    # -- who asks

    def client(self, source: str) -> Client | None:
        """The container with that address, None where it is nobody's: one that is good on a link alone (with a "%") was
        given to nobody.
        """
        if "%" in source:
            return None
        address = packed(source)
        owner = holder_of(self.network.leases, address)
        if owner is None:
            return None
        ledger = Ledger.of(Home(self.store, owner))
        places = ledger.attachments
        if not any(address in one.addresses for one in places):
            return None
        # docker: what leads nowhere asks nobody outside
        leads = not all(one.network.internal for one in places)
        servers = tuple((text_of(one), PORT) for one in ledger.servers if leads)
        return Client(
            networks=tuple(one.network.names for one in places if one.network.names),
            owner_at=lambda wanted: self._owner_at(places, wanted),
            servers=servers,
            may=None if places[0].egress is None else lambda name: _may(places[0].egress or (), name),
            learn=None if places[0].egress is None else self._learner(owner),
            now=self._of_host if leads and not servers else None,
        )

    def _learner(self, owner: str) -> Learn:
        return lambda query, found, _own, then: self.door.learn(owner, query.name, found, then)

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

    def _of_host(self, then: Callable[[tuple[Where, ...]], None]) -> None:
        """Hand on this host's own servers, as they are now; where nobody says so soon, those that were there before."""

        def said(found: tuple[Where, ...] | None) -> None:
            if found is not None:
                self._servers, self._asked_at = found, monotonic()
            waiting, self._for_servers = self._for_servers, []
            for one in waiting:
                one(self._servers)

        if self._for_servers and len(self._for_servers) < MOST_ASKED:
            self._for_servers.append(then)
        elif monotonic() < self._asked_at + _SAME_SERVERS or self.door.is_asked_for_servers:
            then(self._servers)
        else:
            self._for_servers.append(then)
            self.door.servers(said, _SERVERS_SOON)


def _may(allowed: Sequence[Allowed], name: str) -> bool:
    return any(one.subnet is None and allows(one, name) for one in allowed)
