"""A container connected to a further network, or disconnected from one: at once where it runs, and for its next starts.

Whoever does so has the container's turn, as its end has that gives everything back. Each step is written down before it
is taken (`network_record`): who is killed leaves a place in a network without a link, which `system check` finds, and
which goes with the container's end in any case.
"""

from __future__ import annotations

import os
from contextlib import closing, contextmanager

from lamina.engine.name_files import refresh
from lamina.engine.network_events import CONNECT, DISCONNECT
from lamina.engine.network_events import joined as joined_event
from lamina.engine.network_record import Ledger, everything, own_addresses, with_own_ports
from lamina.engine.networking import NOTHING, Joined, is_linkless
from lamina.engine.networks import find, table_of
from lamina.engine.options import by_others
from lamina.engine.plugging import bridge_for, explained, guard, place_in, settle, take_names, withdraw
from lamina.engine.port_claims import move, publish_again, publish_live
from lamina.engine.taken_bridges import network_for
from lamina.errors import Conflict, LaminaError, Unsupported
from lamina.linux.constants import CLONE_NEWNET
from lamina.network import claims, firewall, links, rules
from lamina.store.containers import PAUSED, RUNNING
from lamina.store.events import note
from lamina.store.networks import PORTS
from lamina.store.trace import point
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from lamina.engine.networking import Networking
    from lamina.engine.options import Options
    from lamina.linux.fd import Fd
    from lamina.linux.rtnetlink import Link
    from lamina.network.model import Allowed, Attachment
    from lamina.store.containers import Home


def connect(home: Home, joined: Joined) -> None:
    """Connect the container to a network. Raises Conflict (it is in it; its network is not its own), NotFound,
    InvalidInput, Unsupported, KernelError.
    """
    record = find(home.store, joined.network)
    joined = replace(joined, network=record.name)
    with home.turn():
        asked = home.asked()
        _check(home, asked)
        ledger = Ledger.of(home)
        runs = _runs(home)
        options = _options(asked)
        known = [] if options is None else [one.network for one in _places(options)]
        # of one that runs what counts is where it is: somebody may have been killed before he wrote it down
        if record.name in ([one.network.name for one in ledger.attachments] if runs else known):
            raise Conflict(
                f"connect container {home.shown}: it is in network {record.name} already",
                remedy="'lamina network disconnect' takes it out",
            )
        if runs:
            _connect_live(home, ledger, asked, joined)
        elif options is None:
            raise Conflict(f"connect container {home.shown}: it has ended", remedy="it is not started again")
        _change(home, asked, lambda options: _with(_without(options, record.name), joined))
    note(home.store, joined_event(home, CONNECT, record))


def disconnect(home: Home, name: str, *, force: bool = False) -> None:
    """Take the container out of a network. Raises Conflict (its ports are published there, and it runs, without
    *force*), NotFound, KernelError.
    """
    record = find(home.store, name)
    with home.turn():
        asked = home.asked()
        options = _options(asked)
        ledger = Ledger.of(home)
        attachment = next((one for one in ledger.attachments if one.network.name == record.name), None)
        known = [] if options is None else [one.network for one in _places(options)]
        if attachment is None and record.name not in known:
            raise Conflict(
                f"disconnect container {home.shown}: it is not in network {record.name}",
                remedy="'lamina inspect' lists those that it is in",
            )
        if attachment is not None:
            # asked first: of one that is being started nothing may be given back that its start goes on with
            if _runs(home) and attachment.published and not force:
                raise Conflict(
                    f"disconnect container {home.shown}: its ports are published in network {record.name}",
                    remedy="stop it first, or -f",
                )
            _disconnect_live(home, ledger, asked, attachment)
        _change(home, asked, lambda options: _without(options, record.name))
        if attachment is not None:
            _publish_elsewhere(home, ledger, asked, attachment)
    note(home.store, joined_event(home, DISCONNECT, record))


def finish(home: Home, number: int) -> None:
    """Make the link of a place in a network that a running container has, and that is only written down; one that has
    no addresses, yet or any more, is given back. Raises as `connect`.
    """
    with home.turn():
        ledger = Ledger.of(home)
        attachment = next((one for one in ledger.attachments if one.number == number), None)
        if attachment is None or not _runs(home):
            return
        asked = home.asked()
        if attachment.addresses and own_addresses(attachment) == attachment.addresses:
            take_names(attachment)
            _plug(home, publish_again(ledger, attachment, *_ports(asked)))
        else:  # another container may have them by now
            _disconnect_live(home, ledger, asked, attachment)
        _publish_elsewhere(home, ledger, asked, attachment)


def has_link(home: Home, attachment: Attachment, outside: Any, ports: Mapping[str, Link]) -> bool:
    """Whether the container, which runs, has the link of a place: the other end of one of the *ports* of this host, by
    name, for which the socket *outside* is (one of that name leads to where a start before was, as long as somebody
    holds that namespace); or what is on another one's wire, as it was called, or with its MAC where somebody in there
    has named it anew. Raises Conflict (it has ended), KernelError.
    """
    if attachment.network.parent:
        with _inside(home) as inside:
            there = links.every(inside)
        return any(attachment.device == one.name or attachment.mac == one.address for one in there)
    if (port := ports.get(attachment.port)) is None:
        return False
    with _namespace_of(home) as namespace:
        return port.other_namespace == links.number_of(outside, namespace)


# -- what is written down


def _check(home: Home, asked: dict[str, Any]) -> None:
    """Raises Conflict where its network is not its own, Unsupported."""
    options = _options(asked)
    mode = str((asked.get("said") or {}).get("network", "none")) if options is None else options.network
    if by_others(mode) or (is_linkless(mode) and mode != "none"):
        raise Conflict(
            f"connect container {home.shown}: its network is {mode}, and not its own",
            remedy="only containers with a network of their own can be connected",
        )
    if os.geteuid():
        raise Unsupported(
            f"connect container {home.shown}: only root's containers can be in a network so far",
            remedy="run it as root, or with --network host",
        )


def _options(asked: dict[str, Any]) -> Options | None:
    """None of one that is never started again."""
    from lamina.engine.keeping import options_of

    return options_of(asked) if asked.get("options") else None


def _places(options: Options) -> list[Joined]:
    wanted = options.networking or NOTHING
    if options.network == "none":
        return []
    return [Joined(options.network, wanted.addresses, wanted.mac, wanted.aliases), *wanted.joined]


def _change(home: Home, asked: dict[str, Any], change: Any) -> None:
    from lamina.engine.keeping import options_record

    options = _options(asked)
    if options is None:
        return
    record = options_record(change(options))
    kept = {**asked["options"], **{key: record[key] for key in ("network", "networking") if key in record}}
    if "networking" not in record:
        kept.pop("networking", None)
    point("connect: write container record")
    home.write("container", {**asked, "options": kept})


def _with(options: Options, joined: Joined) -> Options:
    if options.network == "none":
        return _first(options, joined)
    wanted = options.networking or NOTHING
    return replace(options, networking=replace(wanted, joined=(*wanted.joined, joined)))


def _first(options: Options, first: Joined | None, others: tuple[Joined, ...] = ()) -> Options:
    """With another first network."""
    wanted = options.networking or NOTHING
    place = first or Joined("none")
    changed = replace(wanted, addresses=place.addresses, mac=place.mac, aliases=place.aliases, joined=others)
    return replace(options, network=place.network, networking=None if changed == NOTHING else changed)


def _without(options: Options, network: str) -> Options:
    left = [one for one in _places(options) if one.network != network]
    return _first(options, left[0] if left else None, tuple(left[1:]))


# -- while it runs


def _runs(home: Home) -> bool:
    """Whether it does; one that begins or ends at this moment is neither. Raises Conflict."""
    from lamina.engine.settling import state_of

    state = state_of(home)
    if state in (RUNNING, PAUSED):
        return True
    if home.is_looked_after():
        raise Conflict(
            f"connect container {home.shown}: it is {state}, and somebody is busy with it",
            remedy="wait until it runs or has ended, and try again",
        )
    return False


def _connect_live(home: Home, ledger: Ledger, asked: dict[str, Any], joined: Joined) -> None:
    taken = {one.number for one in ledger.attachments}
    number = next(number for number in range(100) if number not in taken)
    before = list(ledger.attachments)
    if not before and (options := _options(asked)) is not None:
        ledger.servers = (options.networking or NOTHING).dns
    attachment = place_in(home, str(asked["name"]), joined, number, _egress(ledger, asked))
    point("connect: take addresses")
    try:
        attachment = settle(ledger, attachment, joined.addresses)
        point("connect: publish")
        attachment = publish_live(ledger, attachment, *_ports(asked))
        point("connect: plug")
        _plug(home, attachment)
        refresh(home, _options(asked), before, ledger.attachments)
    except BaseException as failure:
        try:
            _drop(ledger, number)
        except (OSError, LaminaError) as second:
            failure.add_note(f"while giving addresses back: {second}")
        raise


def _ports(asked: dict[str, Any]) -> tuple[Networking, tuple[str, ...]]:
    """What was asked of its ports, which are the container's and not a network's; and what its image exposes."""
    from lamina.engine.keeping import publishable, said_of
    from lamina.engine.networking import of_record

    return of_record(said_of(asked).get("networking") or {}, asked), tuple(publishable(asked))


def _egress(ledger: Ledger, asked: dict[str, Any]) -> tuple[Allowed, ...] | None:
    """What it may reach in its other networks it may reach in this one."""
    if ledger.attachments:
        return ledger.attachments[0].egress
    from lamina.engine.egress import read_allowed
    from lamina.engine.keeping import said_of

    kept = (said_of(asked).get("networking") or {}).get("egress")
    return None if kept is None else tuple(read_allowed(text) for text in kept)


def _drop(ledger: Ledger, number: int) -> None:
    for one in [one for one in ledger.attachments if one.number == number]:
        if one.network.parent:  # there is no end of it here
            try:
                with _inside(ledger.home) as inside:
                    _remove(inside, one.device)
            except Conflict:  # it does not run any more
                pass
        else:
            with links.opened() as channel:
                _remove(channel, one.port)
        store = ledger.home.store
        point("disconnect: unlinked")
        withdraw(store, one, table_of(store))
        point("disconnect: give ports back")
        for port in one.published:
            claims.give_back(store.networks + PORTS, port, ledger.home.id)
        point("disconnect: forget")
        ledger.drop(one)


def _remove(channel: Any, name: str) -> None:
    if (found := links.find(channel, name)) is not None:
        links.remove(channel, found)


def _plug(home: Home, attachment: Attachment) -> None:
    from lamina.engine.networks import network_of
    from lamina.engine.sharing import namespace_of

    store = home.store
    record = find(store, attachment.network.name)
    attachment = replace(attachment, network=network_of(store, record))
    with (
        explained(),
        namespace_of(home, "net", f"connect container {home.shown}") as namespace,
        links.opened() as outside,
        closing(_socket_in(namespace)) as inside,
    ):
        master = bridge_for(store, outside, attachment.network, [attachment])
        guard(store, [attachment])
        leading = links.led_by(inside)
        links.plug(outside, inside, 0, [attachment], [master], namespace=namespace, leading=leading)


def _socket_in(namespace: Fd) -> Any:
    """A route netlink socket of another network namespace. A thread goes there, so that the caller stays here."""
    from threading import Thread

    from lamina.linux.namespaces import setns

    found: list[Any] = []

    def go() -> None:
        try:
            setns(namespace, CLONE_NEWNET)
            found.append(links.opened())
        except OSError as error:
            found.append(error)

    thread = Thread(target=go)
    thread.start()
    thread.join()
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]


@contextmanager
def _inside(home: Home) -> Iterator[Any]:
    with _namespace_of(home) as namespace, closing(_socket_in(namespace)) as inside:
        yield inside


def _namespace_of(home: Home) -> Fd:
    from lamina.engine.sharing import namespace_of

    return namespace_of(home, "net", f"disconnect container {home.shown}")


def _disconnect_live(home: Home, ledger: Ledger, asked: dict[str, Any], attachment: Attachment) -> None:
    before = list(ledger.attachments)
    with explained():
        if attachment.published and _runs(home):
            point("disconnect: move ports")
            if (heir := move(ledger, attachment)) is not None:
                point("disconnect: lead ports")
                _lead_ports(home, heir)
        point("disconnect: withdraw")
        _drop(ledger, attachment.number)
        if not _runs(home):
            return
        with _inside(home) as inside:
            for one in ledger.attachments:
                if not one.network.internal and (unled := {4, 16} - links.led_by(inside)):
                    links.lead(inside, one, unled)
    refresh(home, _options(asked), before, ledger.attachments)


def _publish_elsewhere(home: Home, ledger: Ledger, asked: dict[str, Any], left: Attachment) -> None:
    """Publish the ports that it had at the place *left* in others of its networks, as its next start does; and where
    another place has them, have them lead there, should somebody have been killed who moved them.
    """
    if not (left.published or any(one.published for one in ledger.attachments)) or not _runs(home):
        return
    point("disconnect: publish elsewhere")
    for one in list(ledger.attachments):
        found = publish_live(ledger, one, *_ports(asked))
        if found.published:
            _lead_ports(home, found)


def _lead_ports(home: Home, attachment: Attachment) -> None:
    """Have what is published at a place that has its link and its rules lead there."""
    store = home.store
    found = replace(with_own_ports(store, attachment), network=network_for(store, attachment.network.name))
    with explained(), links.opened() as channel:
        bridge_for(store, channel, found.network, [found])
        firewall.add(table_of(store), rules.of_attachment(found), lambda: everything(store))
