"""What a container may reach, as it is asked for: `--egress deny`, `--egress allow=example.org:443,10.0.0.0/8`."""

from __future__ import annotations

from lamina.engine.notation import listed, text_of
from lamina.errors import InvalidInput
from lamina.network.model import Allowed
from lamina.network.names import is_name
from lamina.network.subnet import Subnet, packed, read_subnet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DENY, ALLOW = "deny", "allow="
MOST = 256  # of one container
MOST_PORT = 65535
_MAPPED = read_subnet("::ffff:0:0/96")  # RFC 4291, 2.5.5.2: of sockets, never on a wire


def read_egress(given: Any) -> tuple[Allowed, ...] | None:
    """What was said, each time `deny` or `allow=` and what is allowed, with commas between; None where nothing was.

    Raises InvalidInput.
    """
    found: dict[Allowed, None] = {}
    several = [given] if isinstance(given, str) else listed(given or (), "egress")
    said = [text_of(text, "egress") for text in several]
    for text in said:
        if text == DENY:
            continue
        if not text.startswith(ALLOW):
            raise InvalidInput(
                f"run: egress {text[:100]!r}: not understood", remedy="deny, or allow=NAME,ADDRESS:PORT,..."
            )
        found.update((read_allowed(part), None) for part in text.removeprefix(ALLOW).split(","))
    if len(found) > MOST:
        raise InvalidInput(f"run: egress: more than {MOST} that are allowed", remedy="name subnets")
    return tuple(found) if said else None


def read_allowed(text: str) -> Allowed:
    """NAME, *.NAME, ADDRESS or ADDRESS/PREFIX, perhaps with :PORT (of IPv6 in brackets then). Raises InvalidInput."""
    place, port = text, 0
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise _not_understood(text)
        place, port = inside, _port(rest[1:], text) if rest else 0
    elif text.count(":") == 1:
        place, _, digits = text.partition(":")
        port = _port(digits, text)
    if ":" in place or "/" in place or place.replace(".", "").isdigit():
        try:
            return Allowed(_subnet(place), "", port)
        except InvalidInput as error:
            raise InvalidInput(f"run: egress {text[:100]!r}: {error.message}", remedy=error.remedy) from None
    name = place.lower().removesuffix(".")
    if not is_name(name.removeprefix("*.")):
        raise _not_understood(text)
    return Allowed(None, name, port)


def _subnet(text: str) -> Subnet:
    if "/" in text:
        found = read_subnet(text)
    else:
        address = packed(text)
        found = Subnet(address, len(address) * 8)
    if found.within(_MAPPED) and found.prefix >= _MAPPED.prefix:
        meant = Subnet(found.base[-4:], found.prefix - _MAPPED.prefix)
        raise InvalidInput(
            "no packet has such an address: it is one of IPv4, as programs write it", remedy=f"write {meant}"
        )
    return found


def _port(digits: str, text: str) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) < 6 and 0 < int(digits) <= MOST_PORT):
        raise _not_understood(text)
    return int(digits)


def _not_understood(text: str) -> InvalidInput:
    return InvalidInput(
        f"run: egress {text[:100]!r}: not understood",
        remedy="such as example.org, *.example.org:443, 10.0.0.0/8, 192.0.2.7:5432 or [fd00::/8]:443",
    )


def written(allowed: Allowed) -> str:
    """As `read_allowed` reads it."""
    if allowed.subnet is None:
        place = allowed.name
    elif not allowed.port:
        return str(allowed.subnet)
    else:
        place = f"[{allowed.subnet}]" if allowed.subnet.bits == 128 else str(allowed.subnet)
    return f"{place}:{allowed.port}" if allowed.port else place
