"""Which container has which port of this host: a directory with one symbolic link a published port.

    <directory>/tcp:8080:*          →  the id of the container that has it, of every address
    <directory>/udp:53:127.0.0.1    →  of one address; 0.0.0.0 and :: are all of a family

As with addresses (`leases`), symlink(2) takes a port in one exclusive step, and a crash leaves nothing or a claim with
an owner. One of many addresses and one of fewer among them exclude each other as well: each is taken first, then it is
looked for the others; the one of fewer gives way.
"""

from __future__ import annotations

import os
from _socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    SO_REUSEADDR,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
)
from errno import EACCES, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, EPROTONOSUPPORT
from time import sleep

from lamina.errors import Conflict, InvalidInput, KernelError, Unsupported
from lamina.linux.descriptors import LOCK_EX, flock
from lamina.linux.fd import Fd
from lamina.network.model import Published, overlap, place_of
from lamina.network.subnet import packed, text_of
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

EVERY = "*"
_WIDE = {EVERY: b"", "0.0.0.0": bytes(4), "::": bytes(16)}
_TRIES, _PAUSE = 20, 0.005  # until somebody who gives way has done so
_RANDOM_TRIES = 64
_SCTP = 132
DNS = 53
_LINK_LOCAL = b"\xfe\x80"


def take(
    directory: bytes,
    wanted: Published,
    owner: str,
    families: Collection[int],
    answering: Callable[[], Collection[bytes]] = tuple,
    besides: Collection[Published] = (),
) -> Published:
    """Claim the port of the host for *owner*, and see that nobody on this host listens there; a `host_port` of 0 is any
    that is free, and is said in what is given back; so it is with one of a range. *families* are the lengths of
    addresses that it is for. *answering* gives the addresses at which somebody of ours answers for names: who is there
    is in nobody's way.

    Raises Conflict for a port that is taken, InvalidInput for an address that is not this host's, KernelError.
    """
    if wanted.last:
        return _take_of_range(directory, wanted, owner, families, answering, besides)
    if wanted.host_port:
        if any(_excludes(one, wanted) for one in besides):
            raise _taken(wanted, owner)
        _take(directory, wanted, owner)
        try:
            _try_to_bind(wanted, families, answering)
        except BaseException:
            give_back(directory, wanted, owner)
            raise
        return wanted
    for _ in range(_RANDOM_TRIES):
        try:  # what is free for one family may be taken in the other
            found = replace(wanted, host_port=_try_to_bind(wanted, families, answering))
            return take(directory, found, owner, families, answering, besides)
        except Conflict:
            continue
    raise Conflict(
        f"publish port {wanted.port}/{wanted.protocol}: no port of this host is free",
        remedy="name one (-p HOSTPORT:PORT); which are taken says 'ss -ltun', which are tried "
        "net.ipv4.ip_local_port_range",
    )


def _take_of_range(
    directory: bytes,
    wanted: Published,
    owner: str,
    families: Collection[int],
    answering: Callable[[], Collection[bytes]],
    besides: Collection[Published],
) -> Published:
    for port in range(wanted.host_port, wanted.last + 1):
        try:
            one = replace(wanted, host_port=port, last=0)
            return take(directory, one, owner, families, answering, besides)
        except Conflict:
            continue
    raise Conflict(
        f"publish {wanted}: every port of that range is taken",
        remedy="choose a wider one, or any that is free",
    )


def see_free(
    wanted: Published, families: Collection[int], answering: Callable[[], Collection[bytes]] = tuple
) -> None:
    """See that nobody on this host listens at a port that is claimed, in *families* as well. Raises as `take`."""
    _try_to_bind(wanted, families, answering)


def give_back(directory: bytes, published: Published, owner: str) -> None:
    """Give the port back, if it is *owner*'s. Raises OSError."""
    _drop(directory, _name(published), owner)


def claimed(directory: bytes) -> dict[str, str]:
    """Every claim, and whose it is. Raises OSError."""
    found = {}
    place = os.fsdecode(directory)
    try:
        names = os.listdir(place)
    except FileNotFoundError:
        return {}
    for name in names:
        try:
            found[name] = os.readlink(f"{place}/{name}")
        except OSError:  # given back meanwhile
            continue
    return found


def owned(directory: bytes, published: Iterable[Published], owner: str) -> tuple[Published, ...]:
    """Those that are *owner*'s, of what is written down of him, also what he was refused. Raises OSError."""
    every = claimed(directory)
    return tuple(one for one in published if every.get(_name(one)) == owner)


def drop_stale(directory: bytes, lives: Callable[[str], bool]) -> list[str]:
    """Give back what belongs to owners of whom *lives* says no; the names of the claims. Raises OSError."""
    stale = [(name, owner) for name, owner in claimed(directory).items() if not lives(owner)]
    for name, owner in stale:
        _drop(directory, name, owner)
    return [name for name, _ in stale]


def _name(published: Published) -> str:
    host = text_of(published.host) if published.host else EVERY
    return f"{published.protocol}:{published.host_port}:{host}"


def _take(directory: bytes, wanted: Published, owner: str) -> None:
    name = _name(wanted)
    place = f"{os.fsdecode(directory)}/{name}"
    try:
        os.symlink(owner, place)
    except FileExistsError:
        holder = claimed(directory).get(name, "")
        if holder == owner:
            return
        raise _taken(wanted, holder) from None
    for left in range(_TRIES, -1, -1):
        other, is_wider = _excluding(directory, wanted, owner)
        if not other:
            return
        if is_wider or not left:
            _drop(directory, name, owner)
            raise _taken(wanted, other)
        sleep(_PAUSE)


def _excluding(directory: bytes, wanted: Published, owner: str) -> tuple[str, bool]:
    """Whose claim it is that excludes *wanted*, "" where there is none, and whether it is one of more addresses."""
    begin = f"{wanted.protocol}:{wanted.host_port}:"
    found = ("", False)
    for name, holder in claimed(directory).items():
        if holder == owner or not name.startswith(begin):
            continue
        host = _WIDE.get(text := name[len(begin) :])
        if host is None:
            host = packed(text)
        if overlap(host, wanted.host):
            found = (holder, _width(host) > _width(wanted.host))
            if found[1]:
                break
    return found


def _excludes(one: Published, other: Published) -> bool:
    same = (one.protocol, one.host_port) == (other.protocol, other.host_port)
    return same and overlap(one.host, other.host)


def _width(host: bytes) -> int:
    return 0 if any(host) else 1 if host else 2


def _drop(directory: bytes, name: str, owner: str) -> None:
    with Fd(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as held:
        flock(held, LOCK_EX)  # as with addresses
        if claimed(directory).get(name) == owner:
            os.unlink(f"{os.fsdecode(directory)}/{name}")


def _taken(wanted: Published, holder: str) -> Conflict:
    return Conflict(
        f"publish {wanted}: the port is taken by container {holder[:12] or '?'}",
        remedy="choose another port of the host, or none for any that is free",
    )


def _try_to_bind(
    wanted: Published, families: Collection[int], answering: Callable[[], Collection[bytes]]
) -> int:
    """See that nobody listens there, by doing it for a moment; the port."""
    port = wanted.host_port
    for family in sorted(families):
        if wanted.host and len(wanted.host) != family:
            continue
        host = text_of(wanted.host) if wanted.host else "0.0.0.0" if family == 4 else "::"
        try:
            port = _bind(wanted, family, host, port)
        except Conflict:
            if any(wanted.host) or port != DNS or not (spared := answering()):
                raise
            _bind_each(wanted, family, spared)
    return port


def _bind_each(wanted: Published, family: int, spared: Collection[bytes]) -> None:
    """At every address of this host but those *spared*, for who listens at all of them is in the way of each."""
    from lamina.linux.netlink import open_channel
    from lamina.linux.rtnetlink import addresses

    with open_channel() as channel:
        own = {one.packed for one in addresses(channel) if len(one.packed) == family}
    for address in sorted(own - set(spared)):
        if address[:2] != _LINK_LOCAL:  # which takes a link besides
            _bind(wanted, family, text_of(address), wanted.host_port)


def _bind(wanted: Published, family: int, host: str, port: int) -> int:
    kind = SOCK_DGRAM if wanted.protocol == "udp" else SOCK_STREAM
    try:
        with_protocol = _SCTP if wanted.protocol == "sctp" else 0
        probe = socket(AF_INET if family == 4 else AF_INET6, kind | SOCK_CLOEXEC, with_protocol)
    except OSError as error:
        if error.errno in (EPROTONOSUPPORT, EAFNOSUPPORT):  # then nobody can listen, and any will do
            if port:
                return port
            raise Unsupported(
                f"publish {wanted}: this kernel has no sockets of {wanted.protocol}",
                remedy="name the port of the host",
            ) from error
        raise KernelError("socket", error.errno or 0) from error
    try:
        if family == 16:
            probe.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)
        if kind == SOCK_STREAM:
            probe.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)  # connections of yesterday are in nobody's way
        probe.bind((host, port))
        if kind == SOCK_STREAM:
            probe.listen(1)
        return int(probe.getsockname()[1])
    except OSError as error:
        where = place_of(wanted.host, port)
        if error.errno == EADDRINUSE:
            raise Conflict(
                f"publish {wanted}: a process of this host listens at {where}",
                remedy="end it, or choose another port of the host",
            ) from error
        if error.errno == EADDRNOTAVAIL:
            raise InvalidInput(
                f"publish {wanted}: {host} is no address of this host", remedy="see 'ip address'"
            ) from error
        if error.errno == EACCES:
            raise KernelError(
                f"publish {wanted}: bind",
                EACCES,
                where,
                hint="such low ports are root's",
                remedy="choose a port from 1024 on, or 'sysctl -w net.ipv4.ip_unprivileged_port_start="
                f"{port}' as root",
            ) from error
        raise KernelError("bind", error.errno or 0, where) from error
    finally:
        probe.close()
