"""What the answers of name servers let containers with an egress policy reach: put into the rules before the containers
hear of it, for as long as the answers hold.
"""

from __future__ import annotations

from time import monotonic

from lamina.errors import LaminaError
from lamina.network import egress, firewall
from lamina.network.leases import holder_of
from lamina.network.subnet import read_subnet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lamina.network.model import Attachment

MOST = 1024  # addresses of one container at once, where not too many have such a policy
LEAST_SECONDS, MOST_SECONDS = 30, 3600  # an answer is used a moment after it was given
# in which the same answer is told once: each change is a transaction, for which all others who change rules wait, and
# what makes the tables anew has to begin again
_ONCE_IN = 1.0
# what a name server of the world never means: this host, this link, everybody (RFC 6890)
_NEVER = tuple(
    read_subnet(text)
    for text in (
        "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8",
    )
)  # fmt: skip


class Telling:
    """Of one network. *near* gives those of some addresses that a container of this host has, or may get: answers from
    outside never open the way there. `most` is how many addresses one may have at once: the set is everybody's.
    """

    def __init__(self, table: str, near: Callable[[Iterable[bytes]], set[bytes]]) -> None:
        self._table, self._near = table, near
        self.most = MOST
        self._known: dict[str, dict[tuple[bytes, int], float]] = {}
        self._recent: dict[str, dict[tuple[bytes, int], float]] = {}

    def learn(
        self,
        owner: str,
        places: Sequence[Attachment],
        name: str,
        found: Sequence[tuple[int, bytes]],
        own: bool,
    ) -> bool:
        """Whether the container *owner*, which has these places in networks, may be told that *name* has the addresses
        *found*, each for some seconds; it can reach them now, if it may. *own*: they are containers' of its networks.
        """
        allowed = [one for one in places[0].egress or () if one.subnet is None and egress.allows(one, name)]
        ports = [0] if any(one.port == 0 for one in allowed) else sorted({one.port for one in allowed})
        if not ports:
            return True
        good = [
            (min(max(seconds, LEAST_SECONDS), MOST_SECONDS), address)
            for seconds, address in found
            if own or not any(subnet.has(address) for subnet in _NEVER)
        ]
        if not own and good:
            near = self._near({address for _, address in good})
            good = [one for one in good if one[1] not in near]
        if not good:
            return True
        if not self._has_room(owner, good, ports):
            return False
        now = monotonic()
        recent = {key: end for key, end in self._recent.get(owner, {}).items() if end > now}
        fresh = [one for one in good if any((one[1], port) not in recent for port in ports)]
        if not fresh:
            return True
        wanted = egress.told(places, ports, fresh)
        try:
            firewall.tell(self._table, wanted)
        except LaminaError:
            return False
        recent.update({(address, port): now + _ONCE_IN for _, address in fresh for port in ports})
        self._recent[owner] = recent
        if all(holder_of(place.network.leases, one) == owner for place in places for one in place.addresses):
            return True
        firewall.untell(self._table, wanted)  # it has just ended: somebody else may get its addresses
        return False

    def _has_room(self, owner: str, good: Sequence[tuple[int, bytes]], ports: Sequence[int]) -> bool:
        now = monotonic()
        known = {key: end for key, end in self._known.get(owner, {}).items() if end > now}
        known.update({(address, port): now + seconds for seconds, address in good for port in ports})
        if len(known) > self.most:
            return False
        self._known[owner] = known
        return True

    def begin_anew(self) -> None:
        """Containers have come or gone: what one was told it is told again, since it may have been taken away."""
        self._recent.clear()

    def forget(self, living: Callable[[str], bool]) -> None:
        """Drop what is known of containers that are gone."""
        self._known = {owner: known for owner, known in self._known.items() if living(owner)}
