"""Networks of containers without root: a program of this user's, pasta or slirp4netns, gives each a way out.

It is started while the container's first process waits (decision 0056), and ends with that (supervisor/tether). What is
written down of it (`helper.json`, beside the place in network.json) is for who looks, and for who cleans up after a
machine on which somebody stopped the one who should have ended it.
"""

from __future__ import annotations

import os
from _socket import AF_INET, AF_INET6, AF_UNIX, SHUT_WR, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_STREAM, socket
from errno import ESRCH
from time import monotonic

from lamina.engine.traceable import Traceable
from lamina.errors import Conflict, KernelError, LaminaError, Unsupported
from lamina.linux.fd import Fd, ready
from lamina.linux.process import pidfd_open, pidfd_send_signal
from lamina.linux.rtnetlink import addresses, links, routes
from lamina.network.links import opened
from lamina.network.model import Attachment, Network
from lamina.network.subnet import packed, subnet_of, text_of
from lamina.network.usermode import (
    API,
    DEVICES,
    PACKAGES,
    PASTA,
    PROGRAMS,
    READY,
    SLIRP,
    Layout,
    forward,
    is_placed,
    layout_of,
    leads_to_loopback,
    pasta,
    server_of,
    slirp4netns,
)
from lamina.runtime.identity import identity_of, same_process
from lamina.supervisor import tether
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from lamina.network.model import Published
    from lamina.store.containers import Home

RECORD = "helper"
TUNNEL = "/dev/net/tun"
RESOLV = "/etc/resolv.conf"
PATIENCE = 10.0  # seconds until a helper that does not come up is given up
_TRIES = 50  # of a helper that must not look (Traceable), which ends at once
_DIRECTORIES = ("/usr/bin", "/usr/local/bin", "/usr/sbin", "/usr/local/sbin", "/bin")
_SOMEWHERE = {
    AF_INET: "192.0.2.1",
    AF_INET6: "2001:db8::1",
}  # for documentation (RFC 5737, 3849): nothing is sent
_LONGEST = 1 << 16
_SIGKILL = 9


def usual() -> tuple[str, str]:
    """The network of this user's containers of images for which none is named; and where that is none, why."""
    found = next((program for program in PROGRAMS if path_of(program)), "")
    if not found:
        return "none", "pasta is not on this host: install the package passt"
    if why := _no_tunnel():
        return "none", f"{why}: {_TUNNEL_REMEDY}"
    if found == PASTA and not host_addresses():  # it takes its place from one
        if not path_of(SLIRP):
            return "none", "this host has no default route, without which pasta does not start"
        found = SLIRP
    return found, ""


_TUNNEL_REMEDY = f"as root, modprobe tun and chmod 666 {TUNNEL}"


def path_of(program: str) -> str:
    """Where the program is, "" where it is not."""
    for directory in (*os.environ.get("PATH", "").split(":"), *_DIRECTORIES):
        path = f"{directory}/{program}"
        if directory.startswith("/") and os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return ""


def _no_tunnel() -> str:
    if os.access(TUNNEL, os.R_OK | os.W_OK):
        return ""
    return f"{TUNNEL} is {'not for this user' if os.path.exists(TUNNEL) else 'not there'}"


def why_not_beside(pid: str) -> str:
    """Why a container with the option `--pid` *pid* cannot be given a helper; "" where it can."""
    if not pid.startswith("container:"):
        return ""
    return "a process that joins those of another container may be looked at by nobody, and a helper has to"


def check(program: str) -> str:
    """The path of the program. Raises Unsupported where it cannot be had."""
    if os.geteuid() == 0:
        raise Unsupported(
            f"run: network {program}: it is for containers without root", remedy="take --network bridge"
        )
    path = path_of(program)
    if not path:
        raise Unsupported(
            f"run: network {program}: {program} is not on this host",
            remedy=f"install the package {PACKAGES[program]}, or take --network none or host",
        )
    if why := _no_tunnel():
        raise Unsupported(f"run: network {program}: {why}", remedy=_TUNNEL_REMEDY)
    return path


# -- before a start


def place(home: Home, title: str, program: str, words: tuple[str, ...]) -> Attachment:
    """The container's place, as it is to be. Raises Unsupported, InvalidInput, KernelError."""
    check(program)
    with opened() as channel:
        used = [subnet_of(route.packed, route.prefix) for route in routes(channel) if len(route.packed) == 4]
    layout = layout_of(program, words, used)
    gateways = () if layout is None else (layout.gateway,)
    subnets = () if layout is None else (layout.subnet,)
    device = words[words.index("--ns-ifname") + 1] if "--ns-ifname" in words else DEVICES[program]
    server = server_of(program, words, layout)
    network = Network(
        name=program,
        bridge="",
        subnets=subnets,
        gateways=gateways,
        ranges=subnets,
        leases=b"",
        maker=program,
        words=words,
        host=gateways if gateways and leads_to_loopback(program, words) else host_addresses(),
        resolver=((text_of(server),), (), ()) if server else (),
    )
    return Attachment(home.id, title, network, 0, (), b"", device)


def families(program: str) -> set[int]:
    """For which lengths of addresses a port is published."""
    return {4, 16} if program == PASTA else {4}


def host_addresses() -> tuple[bytes, ...]:
    """This host's own addresses, one a family, from which it speaks to the world: by which a container reaches it."""
    found = []
    for family, elsewhere in _SOMEWHERE.items():
        try:
            probe = socket(family, SOCK_DGRAM | SOCK_CLOEXEC)
        except OSError:
            continue
        try:
            probe.connect((elsewhere, 9))
            found.append(packed(probe.getsockname()[0]))
        except OSError:  # no route there
            continue
        finally:
            probe.close()
    return tuple(found)


# -- while its first process waits


def connect(home: Home, attachment: Attachment, pid: int, inside: Any) -> Attachment:
    """Start the helper for the process *pid*, of whose network namespace *inside* is a route netlink socket: the place
    with the addresses that it has now. Raises LaminaError with what the helper says.
    """
    with Traceable() as memory:
        for left in range(_TRIES, -1, -1):
            try:
                restore(home, attachment, pid)
                break
            except LaminaError:
                if not left or not memory.was_lost():
                    raise
    return _found(attachment, inside)


def _pasta(home: Home, attachment: Attachment, pid: int) -> int:
    path = check(PASTA)
    place = os.fsdecode(home.path) + f"/{PASTA}.{READY}"
    _forget(place)
    os.mkfifo(place, 0o600)
    try:
        with Fd(os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)) as gate:
            words = pasta(
                path, attachment.network.words, _layout(attachment), attachment.published, pid, place
            )
            return _started(words, pid, gate, attachment)
    finally:
        _forget(place)


def _slirp(home: Home, attachment: Attachment, pid: int) -> int:
    from lamina.network.forwarding import has_ipv6

    layout = _layout(attachment)
    assert layout is not None
    path, api = check(attachment.network.maker), os.fsdecode(home.path) + f"/{API}"
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with (
        Fd(reader) as gate,
        Fd(writer) as signal,
        Fd(os.open(home.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as above,
    ):
        # by its directory: the path itself may be too long for a socket
        name = f"/proc/self/fd/{tether.OWN + 1}/{API}" if attachment.published else ""
        _forget(api)
        words = slirp4netns(
            path,
            attachment.network.words,
            layout,
            pid,
            tether.OWN,
            name,
            ipv6=has_ipv6(),
            sandbox=_may_be_apart(pid),
        )
        own = (int(signal), int(above))
        try:
            helper, log = tether.start(words, pid, own)
            signal.close()
            _await(gate, log, attachment)
            for port in attachment.published:
                _forward(above, port, layout)
        finally:
            _forget(api)
    return helper


def _may_be_apart(pid: int) -> bool:
    """Whether slirp4netns may be in its sandbox, for the process *pid*. There it has /etc and /run, and nowhere else
    would it find this host's servers of names, which it looks for again and again. And it is in the container's user
    namespace: who is root there could trace it, and so have this host's network, if he sees this host's processes.
    """
    if not os.path.realpath(RESOLV).startswith(("/etc/", "/run/")):
        return False
    return not os.path.samefile("/proc/self/ns/pid", f"/proc/{pid}/ns/pid")


def _layout(attachment: Attachment) -> Layout | None:
    """Where it is to be; None where its options say that, also of one that is there already, and is known."""
    network = attachment.network
    if is_placed(network.maker, network.words) or not (network.subnets and network.gateways):
        return None
    return Layout(network.subnets[0])


def _forget(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _started(words: Sequence[str], pid: int, gate: Fd, attachment: Attachment) -> int:
    helper, log = tether.start(words, pid)
    _await(gate, log, attachment)
    return helper


def _await(gate: int, log: Fd, attachment: Attachment) -> None:
    """Until it is ready. Raises LaminaError, with its words where it has ended before that, or where it is late."""
    program, said, end = attachment.network.maker, b"", monotonic() + PATIENCE
    with log:
        while True:
            left = max(0.0, end - monotonic())
            heard = ready(left, gate, log)
            if gate in heard and os.read(gate, 64):
                return
            if not heard or not left:
                raise LaminaError(
                    f"connect container {attachment.owner[:12]}: {program} is not ready after {PATIENCE:g} s"
                )
            if log in heard:
                data = os.read(log, 4096)
                said = (said + data)[-_LONGEST:]
                if not data:
                    break
            elif gate in heard:  # its end: that of the other one follows
                ready(left, log)
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    raise LaminaError(
        f"connect container {attachment.owner[:12]}: {program} has ended: {'; '.join(lines[-3:]) or 'without a word'}",
        remedy="--network none and --network host do without it",
    )


def _forward(above: int, port: Published, layout: Layout) -> None:
    """Raises Conflict where it does not do that."""
    from lamina.document import decode, encode

    end = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    try:
        end.settimeout(PATIENCE)
        end.connect(f"/proc/self/fd/{int(above)}/{API}")
        end.sendall(encode(forward(port, layout)).encode())
        end.shutdown(SHUT_WR)
        answer = b""
        while len(answer) < _LONGEST and (data := end.recv(4096)):
            answer += data
    except TimeoutError:
        raise LaminaError(f"publish {port}: slirp4netns has not answered within {PATIENCE:g} s") from None
    except OSError as error:
        raise KernelError("ask slirp4netns for a port", error.errno or 0, str(port)) from error
    finally:
        end.close()
    found = decode(answer, "the answer of slirp4netns")
    if "error" in found:
        raise Conflict(
            f"publish {port}: slirp4netns cannot do it: {dict(found['error']).get('desc', found['error'])}",
            remedy="choose another port of the host",
        )


def _found(attachment: Attachment, inside: Any) -> Attachment:
    """With what is there now."""
    number = links(inside, name=attachment.device)[0]
    own = sorted(
        (
            one
            for one in addresses(inside)
            if one.index == number.index and one.packed[:2] != b"\xfe\x80" and one.packed
        ),
        key=lambda one: len(one.packed),
    )
    known: dict[int, Any] = {}
    for one in own:  # one of a family
        known.setdefault(len(one.packed), one)
    led = {len(one.gateway): one.gateway for one in routes(inside) if not one.packed and one.gateway}
    network = replace(
        attachment.network,
        subnets=tuple(subnet_of(one.packed, one.prefix) for one in known.values()),
        gateways=tuple(led[length] for length in known if length in led),
    )
    return replace(
        attachment,
        network=network,
        addresses=tuple(one.packed for one in known.values()),
        mac=number.address,
    )


def restore(home: Home, attachment: Attachment, pid: int) -> None:
    """Start the helper anew of a container that runs, whose first process is *pid*. Raises LaminaError."""
    program = attachment.network.maker
    helper = (_pasta if program == PASTA else _slirp)(home, attachment, pid)
    home.write(RECORD, {**identity_of(helper), "program": program})


# -- afterwards


def helper_of(home: Home) -> dict[str, Any] | None:
    """What is written down of the container's helper, if that lives."""
    kept = home.read(RECORD)
    if kept is None:
        return None
    try:
        with pidfd_open(
            int(kept["pid"])
        ) as pidfd:  # one that has ended may be there until somebody waits for it
            return kept if same_process(int(kept["pid"]), kept) and not ready(0, pidfd) else None
    except KernelError as error:
        if error.errno != ESRCH:
            raise
        return None


def withdraw(home: Home, *, listening: bool = True) -> None:
    """End the helper where it has not ended with its container. Where it is *listening* at ports of this host, which
    somebody may want now, its end is waited for: the kernel takes its time over the device. Raises KernelError.
    """
    if (kept := home.read(RECORD)) is None:
        return
    if listening:
        from lamina.engine.recover import kill_and_wait

        kill_and_wait(int(kept["pid"]), kept)
    else:
        try:
            with pidfd_open(int(kept["pid"])) as pidfd:
                if same_process(int(kept["pid"]), kept):  # looked at now that the number cannot change hands
                    pidfd_send_signal(pidfd, _SIGKILL)
        except KernelError as error:
            if error.errno != ESRCH:  # gone already
                raise
    home.drop_record(RECORD)
