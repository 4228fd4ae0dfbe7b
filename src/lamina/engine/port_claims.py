"""Ports of this host claimed for a container's place in a network, before rules lead there: when it is started, and
when one that runs comes into a network that leads out, for its ports are its own and not a network's.
"""

from __future__ import annotations

from lamina.engine.network_record import with_own_ports
from lamina.engine.networks import network_of
from lamina.engine.plugging import or_of_the_dead
from lamina.errors import Conflict, InvalidInput, LaminaError
from lamina.network import claims
from lamina.network.model import overlap
from lamina.store import networks
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lamina.engine.network_record import Ledger
    from lamina.engine.networking import Networking
    from lamina.network.model import Attachment, Published
    from lamina.store.containers import Home


_RANDOM_TRIES = 64


def publish(ledger: Ledger, wanted: Networking, exposed: tuple[str, ...], *, insists: bool = True) -> None:
    """Claim what *wanted* asks for (`-p`, `-P`; *exposed* are ports of its image), for each family at the first of its
    places that leads out and has it. Where none leads out that is an error for who *insists*, else nothing is
    published. Raises Conflict, InvalidInput.
    """
    places = [one for one in ledger.attachments if leads_out(one)]
    if not places and insists:
        network = ledger.attachments[0].network
        raise InvalidInput(
            f"publish a port: network {network.name} is {'macvlan' if network.parent else 'internal'}",
            remedy="take another network, or no -p",
        )
    asked = _asked(wanted, exposed)
    for one in places:
        _publish_at(ledger, one.number, asked)


def publish_live(
    ledger: Ledger, attachment: Attachment, wanted: Networking, exposed: tuple[str, ...]
) -> Attachment:
    """The same of one that runs for its place *attachment*, of the families of which no place has its ports; what it is
    then. Raises Conflict, InvalidInput.
    """
    if leads_out(attachment):
        _publish_at(ledger, attachment.number, _asked(wanted, exposed))
    return next(one for one in ledger.attachments if one.number == attachment.number)


def publish_again(
    ledger: Ledger, attachment: Attachment, wanted: Networking, exposed: tuple[str, ...]
) -> Attachment:
    """The same where somebody was killed who did it: nobody knows how far he came."""
    for one in attachment.published:
        claims.give_back(ledger.home.store.networks + networks.PORTS, one, ledger.home.id)
    bare: Attachment = replace(attachment, published=())
    ledger.note(bare)
    return publish_live(ledger, bare, wanted, exposed)


def move(ledger: Ledger, attachment: Attachment) -> Attachment | None:
    """What is published at the place *attachment* of one that runs is that of its first other place that leads out from
    now on: written down at once, so that the ports are nobody else's at any time. That place; None, and nothing is
    done, where there is none that can have them all.
    """
    own = {len(address) for address in attachment.addresses}
    others = [one for one in ledger.attachments if one.number != attachment.number and leads_out(one)]
    others.sort(key=lambda one: own.isdisjoint(map(len, one.addresses)))  # else the first
    heir = others[0] if others else None
    if heir is None or with_own_ports(ledger.home.store, attachment) != attachment:
        return None
    families = {len(address) for address in heir.addresses}
    further = families - own - _served(heir)
    for one in attachment.published:
        if not families or (one.host and len(one.host) not in families):
            return None
        try:
            claims.see_free(one, further, lambda: _answering(ledger.home))
        except LaminaError:  # which is said when it is claimed there
            return None
    every = dict.fromkeys((*attachment.published, *heir.published))
    found: Attachment = replace(heir, published=tuple(every))
    ledger.note(replace(attachment, published=()), found)
    return found


def _answering(home: Home) -> list[bytes]:
    """Where `lamina-names` listens: published there, that port stays its own, as the rules have it."""
    known = (network_of(home.store, record) for record in networks.every(home.store))
    return [network.gateways[0] for network in known if network.names]


def leads_out(attachment: Attachment) -> bool:
    """Whether ports can be published there: neither an internal network nor one on the wire of a link of this host."""
    return not attachment.network.internal and not attachment.network.parent


def _asked(wanted: Networking, exposed: tuple[str, ...]) -> list[Published]:
    """In the order in which they are claimed: who takes any that is free leaves room for who takes that one, and for
    who takes one of a few.
    """
    from lamina.engine.publishing import exposed_ones

    further = exposed_ones((*wanted.exposed, *exposed), wanted.published) if wanted.publish_all else ()
    return sorted((*wanted.published, *further), key=lambda one: (not one.is_fixed, not one.last))


def _families(attachment: Attachment) -> set[int]:
    """The lengths of addresses that it has, or will have."""
    if attachment.network.maker:
        from lamina.engine.foreign_networks import families as families_elsewhere

        return families_elsewhere(attachment)
    return {len(address) for address in attachment.addresses}


def _served(attachment: Attachment) -> set[int]:
    """The families of which ports are published there."""
    own = _families(attachment)
    return {family for one in attachment.published for family in own if len(one.host) in (0, family)}


def _publish_at(ledger: Ledger, number: int, asked: list[Published]) -> None:
    """What is *asked* for, of the families that are not published at any place, at that of this *number*."""
    home = ledger.home
    attachment = next(one for one in ledger.attachments if one.number == number)
    served = {family for one in ledger.attachments for family in _served(one)}
    every = {family for one in ledger.attachments if leads_out(one) for family in _families(one)}
    for one in asked:
        if one.host and len(one.host) not in every:
            raise InvalidInput(
                f"publish {one}: network {attachment.network.name} has no addresses of that family",
                remedy="name an address of the other family, or take a network "
                + ("with IPv4" if len(one.host) == 4 else "that was made with --ipv6"),
            )
    wished = _of_families(ledger, asked, _families(attachment) - served, divided=bool(served))
    before = attachment.published
    found: list[Published] = []

    def tell(besides: list[Published]) -> None:
        ledger.note(replace(attachment, published=(*before, *found, *besides)))

    for group in _together(wished):
        if group[0].is_fixed:  # of another it is known once it is taken
            tell(group)
        found += _claim(home, group, every, found, tell)
        tell([])


def _of_families(
    ledger: Ledger, asked: list[Published], families: set[int], *, divided: bool
) -> list[Published]:
    """What of *asked* is of these *families*. Where it is *divided*, since another place has what is of the other one,
    it says of which, and has the ports of this host that are taken there already.
    """
    taken = [port for one in ledger.attachments for port in one.published] if divided else []
    found: list[Published] = []
    for one in asked:
        known = next((port for port in taken if _is_meant(one, port)), None)
        if known is not None:
            taken.remove(known)
        wish = one if known is None else replace(one, host_port=known.host_port, last=0)
        if wish.host:
            found += [wish] if len(wish.host) in families else []
        elif divided:
            found += [replace(wish, host=bytes(family)) for family in sorted(families)]
        elif families:
            found.append(wish)
    return found


def _is_meant(asked: Published, taken: Published) -> bool:
    """Whether *taken* is what became of *asked*, or may be."""
    if (asked.protocol, asked.port) != (taken.protocol, taken.port):
        return False
    last = asked.last or asked.host_port
    return not asked.host_port or asked.host_port <= taken.host_port <= last


def _together(asked: list[Published]) -> list[list[Published]]:
    """Those that differ in their address of this host alone, and have any port of it or any of a range, have the same
    one, as in docker: who asks for `0.0.0.0::80` and `[::]::80` wants one port in both families.
    """
    groups: list[list[Published]] = []
    known: dict[object, list[Published]] = {}
    for one in asked:
        wish = (one.protocol, one.port, one.host_port, one.last)
        group = known.get(wish)
        if group is None or one.is_fixed or any(overlap(other.host, one.host) for other in group):
            group = known[wish] = []
            groups.append(group)
        group.append(one)
    return groups


def _claim(
    home: Home,
    group: list[Published],
    families: set[int],
    besides: list[Published],
    tell: Callable[[list[Published]], None],
) -> list[Published]:
    """What of *group*, which have a port in common, is taken. Raises Conflict, InvalidInput, KernelError."""
    ports = home.store.networks + networks.PORTS

    def answering() -> list[bytes]:
        return _answering(home)

    def take(one: Published) -> Published:
        return claims.take(ports, one, home.id, families, answering, besides)

    def take_each() -> list[Published]:
        first, *others = group
        if not others:
            return [take(first)]
        for one in _tried(first):
            try:
                taken = take(one)
            except Conflict:
                continue
            every = [replace(other, host_port=taken.host_port, last=0) for other in group]
            tell(every)
            own = [taken]
            try:
                own += map(take, every[1:])
                return own
            except Conflict:
                for taken in own:
                    claims.give_back(ports, taken, home.id)
                tell([])
        raise Conflict(
            f"publish {first}: no port is free at each of {len(group)} addresses of this host",
            remedy="name the port of the host" if not first.last else "choose a wider range",
        )

    found: list[Published] = or_of_the_dead(home, ports, claims.claimed, claims.drop_stale, take_each)
    return found


def _tried(first: Published) -> Iterable[Published]:
    """What is tried for the first of several that are to have the same port."""
    if not first.last:
        return [first] * _RANDOM_TRIES
    return [replace(first, host_port=port, last=0) for port in range(first.host_port, first.last + 1)]
