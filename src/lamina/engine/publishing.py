"""Docker's notation for ports of a container: -p, --expose, and what -P makes of what is exposed."""

from __future__ import annotations

from lamina.errors import InvalidInput
from lamina.network.model import PROTOCOLS, Published, overlap
from lamina.network.subnet import packed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_PORTS = 65535
MOST_DIGITS = 20  # of more than 4,300 Python makes no number
# how many ports a container publishes at most: each is a claim, a rule and a socket that is tried
MOST_PUBLISHED = 1000


def read_published(asked: Iterable[str]) -> tuple[Published, ...]:
    """What -p asks for, as often as it is given. Raises InvalidInput."""
    found: list[Published] = []
    for text in asked:
        found += read_publish(text)
        if len(found) > MOST_PUBLISHED:
            raise InvalidInput(
                f"run: port {text}: that is more than {MOST_PUBLISHED} published ports",
                remedy="--network host publishes all that it listens at",
            )
    _check_twice(found)
    return tuple(found)


def read_publish(text: str) -> list[Published]:
    """`[[IP:][HOSTPORT]:]PORT[/PROTOCOL]`, either port a range: one for each port; any port of a range of this host for
    a single one. Raises InvalidInput.
    """
    place, slash, protocol = text.partition("/")
    protocol = _protocol(protocol if slash else "tcp", text)
    rest, _, inside = place.rpartition(":")
    host, outside = b"", rest
    if rest.startswith("["):
        address, bracket, outside = rest[1:].partition("]")
        if not bracket or outside[:1] not in ("", ":"):
            raise _no_port(text)
        host, outside = packed(address, "port"), outside[1:]
    elif ":" in rest:
        address, _, outside = rest.rpartition(":")
        host = packed(address, "port")
    elif "." in rest:
        host, outside = packed(rest, "port"), ""
    first, last = _range(inside, text)
    if not outside:
        return [Published(protocol, host, 0, port) for port in range(first, last + 1)]
    begin, end = _range(outside, text)
    if first == last and begin != end:
        return [Published(protocol, host, begin, first, end)]
    if end - begin != last - first:
        raise InvalidInput(
            f"run: port {text}: the two ranges have different lengths",
            remedy="ranges of as many ports each, such as 8000-8009:80-89; a range for one port is any of it",
        )
    return [Published(protocol, host, begin + number, first + number) for number in range(last - first + 1)]


def _protocol(word: str, whole: str) -> str:
    found = word.lower()
    if found not in PROTOCOLS:
        raise InvalidInput(f"run: port {whole}: not a protocol", remedy=", ".join(PROTOCOLS))
    return found


def _range(text: str, whole: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    ports = [first, last if dash else first]
    if not all(port.isascii() and port.isdigit() and len(port) <= MOST_DIGITS for port in ports):
        raise _no_port(whole)
    if not all(0 < int(port) <= MOST_PORTS for port in ports):
        raise _no_port(whole)
    if int(ports[0]) > int(ports[1]):
        raise InvalidInput(
            f"run: port {whole}: a range that ends before it begins", remedy="such as 8000-8009"
        )
    return int(ports[0]), int(ports[1])


def _no_port(text: str) -> InvalidInput:
    return InvalidInput(f"run: port {text}: not a port", remedy="[[IP:]HOSTPORT:]PORT[/tcp|udp|sctp]")


def _check_twice(published: Iterable[Published]) -> None:
    seen: dict[tuple[str, int], list[bytes]] = {}
    for one in published:
        if not one.is_fixed:  # it gets another one
            continue
        hosts = seen.setdefault((one.protocol, one.host_port), [])
        if any(overlap(one.host, host) for host in hosts):
            raise InvalidInput(
                f"run: port {one}: published twice",
                remedy="name another port or another address of this host for one of them",
            )
        hosts.append(one.host)


def read_exposed(asked: Iterable[str]) -> tuple[str, ...]:
    """`PORT[/PROTOCOL]`, or a range, as --expose has it: each once, as "80/tcp", and what follows each other together,
    as "80-90/tcp". Raises InvalidInput.
    """
    found: dict[str, list[tuple[int, int]]] = {}
    for text in asked:
        ports, slash, protocol = text.partition("/")
        if ":" in ports or "." in ports:
            raise InvalidInput(
                f"run: expose {text}: a port of this host or an address is not said there",
                remedy="--expose PORT[/tcp|udp|sctp]; -p [[IP:]HOSTPORT:]PORT publishes one",
            )
        name = _protocol(protocol if slash else "tcp", text)
        found.setdefault(name, []).append(_range(ports, text))
    return tuple(
        f"{first}/{name}" if first == last else f"{first}-{last}/{name}"
        for name, ranges in found.items()
        for first, last in _joined(ranges)
    )


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(last, joined[-1][1])
        else:
            joined.append((first, last))
    return joined


def exposed_ones(exposed: Iterable[str], published: Iterable[Published]) -> list[Published]:
    """What `-P` adds: any free port for each that is *exposed* ("80/tcp", "80-90/tcp") and not *published* already.

    Which port of this host, and of which address, is never the image's to say. Raises InvalidInput.
    """
    known = {(one.protocol, one.port) for one in published}
    found: dict[tuple[str, int], Published] = {}
    for text in exposed:
        if ":" in text or "." in text:
            raise InvalidInput(
                f"run: the image exposes {text[:100]!r}, which is no port of a container",
                remedy="leave -P out, and publish what you need: -p PORT",
            )
        found.update({(one.protocol, one.port): one for one in read_publish(text)})
        if len(found) > MOST_PUBLISHED - len(known):
            raise InvalidInput(
                f"run: -P: more than {MOST_PUBLISHED} ports are exposed",
                remedy="leave -P out, and publish what you need: -p PORT",
            )
    return [one for key, one in found.items() if key not in known]
