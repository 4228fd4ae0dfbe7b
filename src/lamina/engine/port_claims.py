"""Ports of this host claimed for a container's place in a network, before rules lead there: when it is started, and
when one that runs comes into a network that leads out, for its ports are its own and not a network's.
"""

from __future__ import annotations

from lamina.engine.networks import network_of
from lamina.engine.plugging import or_of_the_dead
from lamina.errors import InvalidInput
from lamina.network import claims
from lamina.store import networks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.engine.network_record import Ledger
    from lamina.engine.networking import Networking
    from lamina.network.model import Attachment, Published
    from lamina.store.containers import Home


def publish(ledger: Ledger, wanted: Networking, exposed: tuple[str, ...]) -> None:
    """Claim what *wanted* asks for (`-p`, `-P`; *exposed* are ports of its image) for the first of its places that
    leads out. Raises Conflict, InvalidInput.
    """
    asked = _asked(wanted, exposed)
    attachment = next((one for one in ledger.attachments if _leads_out(one)), None)
    if attachment is None:
        network = ledger.attachments[0].network
        raise InvalidInput(
            f"publish a port: network {network.name} is {'macvlan' if network.parent else 'internal'}",
            remedy="take another network, or no -p",
        )
    _publish_at(ledger, attachment, asked)


def publish_live(
    ledger: Ledger, attachment: Attachment, wanted: Networking, exposed: tuple[str, ...]
) -> Attachment:
    """The same of one that runs for its place *attachment*, unless another place has its ports, or that one leads
    nowhere; what it is then. Raises Conflict, InvalidInput.
    """
    if not _leads_out(attachment) or any(one.published for one in ledger.attachments):
        return attachment
    _publish_at(ledger, attachment, _asked(wanted, exposed))
    return next(one for one in ledger.attachments if one.number == attachment.number)


def publish_again(
    ledger: Ledger, attachment: Attachment, wanted: Networking, exposed: tuple[str, ...]
) -> Attachment:
    """The same where somebody was killed who did it: nobody knows how far he came."""
    from lamina.values import replace

    for one in attachment.published:
        claims.give_back(ledger.home.store.networks + networks.PORTS, one, ledger.home.id)
    bare: Attachment = replace(attachment, published=())
    ledger.note(bare)
    return publish_live(ledger, bare, wanted, exposed)


def _leads_out(attachment: Attachment) -> bool:
    return not attachment.network.internal and not attachment.network.parent


def _asked(wanted: Networking, exposed: tuple[str, ...]) -> list[Published]:
    """In the order in which they are claimed: who takes any that is free leaves room for who takes that one, and for
    who takes one of a few.
    """
    from lamina.engine.publishing import exposed_ones

    further = exposed_ones((*wanted.exposed, *exposed), wanted.published) if wanted.publish_all else ()
    return sorted((*wanted.published, *further), key=lambda one: (not one.is_fixed, not one.last))


def _publish_at(ledger: Ledger, attachment: Attachment, asked: list[Published]) -> None:
    from lamina.values import replace

    home = ledger.home
    families = {len(address) for address in attachment.addresses}
    if attachment.network.maker:
        from lamina.engine.foreign_networks import families as families_elsewhere

        families = families_elsewhere(attachment)
    ports = home.store.networks + networks.PORTS
    found: list[Published] = []
    for one in asked:
        if one.host and len(one.host) not in families:
            raise InvalidInput(
                f"publish {one}: network {attachment.network.name} has no addresses of that family",
                remedy="name an address of the other family, or take a network "
                + ("with IPv4" if len(one.host) == 4 else "that was made with --ipv6"),
            )
        if one.is_fixed:  # of another it is known once it is taken
            ledger.note(replace(attachment, published=(*found, one)))
        taken = _claim(home, ports, one, families, found)
        found.append(taken)
        ledger.note(replace(attachment, published=tuple(found)))


def _claim(
    home: Home, ports: bytes, one: Published, families: set[int], besides: list[Published]
) -> Published:
    def answering() -> list[bytes]:
        """Where `lamina-names` listens: published there, that port stays its own, as the rules have it."""
        known = (network_of(home.store, record) for record in networks.every(home.store))
        return [network.gateways[0] for network in known if network.names]

    def take() -> Published:
        return claims.take(ports, one, home.id, families, answering, besides)

    found: Published = or_of_the_dead(home, ports, claims.claimed, claims.drop_stale, take)
    return found
