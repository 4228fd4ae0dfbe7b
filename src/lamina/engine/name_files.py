"""What /etc/hosts and /etc/resolv.conf say in a container with a network, as docker writes them.

moby, libnetwork/resolvconf and libnetwork/etchosts: servers of this host that only this host can reach (127.0.0.53 of
systemd-resolved, dnsmasq) are of no use inside, so what they ask is asked directly; where nothing is left, Google's.
"""

from __future__ import annotations

import os

from lamina.engine.networking import HOST_GATEWAY, NOTHING
from lamina.engine.options import is_linked
from lamina.errors import Conflict
from lamina.network.subnet import packed, text_of
from lamina.runtime.users import own_file
from lamina.store import containers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from lamina.engine.networking import Networking
    from lamina.engine.options import Options
    from lamina.network.model import Attachment
    from lamina.store.containers import Home
    from lamina.store.root import Store

    ReadFile = Callable[[str], bytes]

RESOLV, RESOLVED = "/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"
PUBLIC = ("8.8.8.8", "8.8.4.4")
PUBLIC_IPV6 = ("2001:4860:4860::8888", "2001:4860:4860::8844")
LARGEST = 1 << 20
_NOW = os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


def hosts(
    basis: bytes, options: Options, hostname: str, attachments: Sequence[Attachment], title: str
) -> bytes:
    """/etc/hosts: *basis*, what was asked for, and the container's own addresses with its names.

    Of one that is only made so far, and has its networks when it starts, that is without addresses, and without
    `host-gateway`. Raises Conflict where there is none.
    """
    wanted = options.networking or NOTHING
    lines = []
    later = not attachments and is_linked(options.network)
    for name, address in wanted.hosts:
        if later and address == HOST_GATEWAY:
            continue
        found = _gateways(attachments, name) if address == HOST_GATEWAY else [address]
        lines += [f"{one}\t{name}\n" for one in found]
    names = hostname if title in ("", hostname) else f"{hostname} {title}"
    for attachment in attachments:
        lines += [f"{text_of(address)}\t{names}\n" for address in attachment.addresses]
    if basis and not basis.endswith(b"\n"):
        basis += b"\n"
    return basis + "".join(lines).encode()


def _gateways(attachments: Sequence[Attachment], name: str) -> list[str]:
    own = [one.network for one in attachments if not one.network.parent]  # of macvlan it is somebody else
    found = [
        text_of(address)
        for network in own
        for address in (network.host if network.maker else network.gateways)
    ]
    if not found and any(network.maker for network in own):
        raise Conflict(
            f"add host {name}:{HOST_GATEWAY}: this host has no address by which the container could reach it",
            remedy="name an address",
        )
    if not found:
        raise Conflict(
            f"add host {name}:{HOST_GATEWAY}: the container has no network of its own",
            remedy="take --network bridge, or name an address",
        )
    return found


def resolv_conf(options: Options, attachments: Sequence[Attachment], read: ReadFile = own_file) -> bytes:
    """/etc/resolv.conf: what was asked for, and this host's where nothing was."""
    wanted = options.networking or NOTHING
    linked = is_linked(options.network) or bool(attachments)
    text = read(RESOLV)[:LARGEST]
    if (responder := _responder(attachments)) and len(
        _reachable([text_of(one) for one in wanted.dns])
    ) == len(wanted.dns):
        return _written(text, [responder], wanted, named=True)
    if (told := next((one.network.resolver for one in attachments if one.network.resolver), ())) and told[0]:
        return _written(text, [text_of(one) for one in wanted.dns] or told[0], wanted, told=told)
    families = {len(address) for one in attachments for address in one.addresses}
    if linked and not wanted.dns and not _reachable(_servers(text), families) and _servers(text):
        text = read(RESOLVED)[:LARGEST] or text
    if not linked and not wanted.of_names:
        return text
    servers = [text_of(one) for one in wanted.dns] or _servers(text)
    if linked and not wanted.dns:
        servers = _reachable(servers, families)
        if not any(one.network.internal for one in attachments) and not servers:
            servers = [*(() if families == {16} else PUBLIC), *(PUBLIC_IPV6 if 16 in families else ())]
    return _written(text, servers, wanted)


def _responder(attachments: Sequence[Attachment]) -> str:
    """Who answers for the names of its networks, all of them: the first one's. "" where no network has names."""
    return next((text_of(one.network.gateways[0]) for one in attachments if one.network.names), "")


def _written(
    text: bytes,
    servers: Sequence[str],
    wanted: Networking,
    *,
    named: bool = False,
    told: Sequence[tuple[str, ...]] = ((), (), ()),
) -> bytes:
    """*named*: short names are names of containers, so they are asked for as they are before any domain is put behind
    them, as docker has it. *told* is what who made the network says of it: servers, domains, options.
    """
    lines = [f"nameserver {server}" for server in servers]
    search = wanted.search or told[1] or tuple(_words(text, b"search") or _words(text, b"domain"))
    if search and search != (".",):  # docker: "." is none
        lines.append(f"search {' '.join(search)}")
    options = wanted.resolver_options or told[2] or tuple(_words(text, b"options"))
    if named and not any(option.startswith("ndots:") for option in options):
        options = (*options, "ndots:0")
    if options:
        lines.append(f"options {' '.join(options)}")
    return "".join(f"{line}\n" for line in lines).encode()


def refresh(
    home: Home, options: Options | None, before: Sequence[Attachment], after: Sequence[Attachment]
) -> None:
    """Change both files of a container that runs, and has other places in networks now; nothing happens where it has
    none of its own. What it wrote itself stays: of /etc/hosts all other lines, /etc/resolv.conf as a whole; and so does
    a file that it keeps for itself, by a lease (fcntl(2), F_SETLEASE), whose end would take 45 seconds each time.
    """
    if options is None:  # of one that is removed at its end
        from lamina.engine.options import Options as Unset

        options = Unset(network=before[0].network.name if before else "none")
    try:
        known = _read(home, b"hosts")
        hostname = _read(home, b"hostname").decode(errors="replace").strip()
        found = _read(home, b"resolv.conf")
    except (FileNotFoundError, BlockingIOError):  # over the host; a lease
        return
    gone = {text_of(one).encode() for place in before for one in place.addresses}
    lines = [line for line in known.splitlines(True) if (line.split() or [b""])[0] not in gone]
    for place in after:
        names = hostname if place.title in ("", hostname) else f"{hostname} {place.title}"
        lines += [f"{text_of(address)}\t{names}\n".encode() for address in place.addresses]
    _overwrite(home, b"hosts", b"".join(lines))
    if found == resolv_conf(options, before):
        _overwrite(home, b"resolv.conf", resolv_conf(options, after))


def _read(home: Home, name: bytes) -> bytes:
    with open(os.open(home.path + b"/" + name, os.O_RDONLY | _NOW), "rb") as file:
        return file.read(LARGEST)


def _overwrite(home: Home, name: bytes, content: bytes) -> None:
    """In its place, since that is mounted."""
    try:
        descriptor = os.open(home.path + b"/" + name, os.O_WRONLY | _NOW)
    except BlockingIOError:  # a lease, which let us read
        return
    with open(descriptor, "wb") as file:
        file.write(content)
        file.truncate()


def _servers(text: bytes) -> list[str]:
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == b"nameserver":
            found.append(words[1].decode(errors="replace"))
    return found


def _words(text: bytes, key: bytes) -> list[str]:
    """Those of the last line of that kind, which counts (resolv.conf(5))."""
    found: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if words and words[0] == key:
            found = [word.decode(errors="replace") for word in words[1:]]
    return found


def _reachable(servers: Sequence[str], families: Collection[int] = ()) -> list[str]:
    """Those that are not this host's loopback, nor on a link that the container does not have, nor of IPv4 where it has
    addresses (of *families*, by their lengths) of IPv6 alone.
    """
    found = []
    for server in servers:
        try:
            address = packed(server)
        except ValueError:  # with a zone: fe80::1%eth0
            continue
        if families == {16} and len(address) == 4:
            continue
        if address[:1] != b"\x7f" and address != packed("::1") and address[:2] != b"\xfe\x80":
            found.append(server)
    return found


def shared(store: Store, reference: str, name: bytes) -> bytes | None:
    """The file of the container whose network is shared, None if it has none of its own, or keeps it for itself. Raises
    NotFound.
    """
    home = containers.find(store, reference)
    try:
        return _read(home, name)
    except (FileNotFoundError, BlockingIOError):
        return None
