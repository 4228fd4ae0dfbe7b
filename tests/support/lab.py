"""A host, a world outside and containers, as network namespaces: for tests with real packets.

    def inner():
        lab = Lab()                          # this process is the host now, in a network namespace of its own
        web = lab.container(network, "web")
        with lab.inside(web):
            server = lab.listen(80)
        ...
    in_mount_namespace(inner)                # a child: nothing of the machine's own network is touched

Sockets stay in the namespace in which they were made, so one thread is everybody, one after the other.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from lamina.engine.egress import read_egress
from lamina.linux.constants import CLONE_NEWNET
from lamina.linux.namespaces import setns, unshare
from lamina.linux.netlink import open_channel
from lamina.network import firewall, links, rules
from lamina.network.model import Attachment, Network, Published, mac_of
from lamina.network.subnet import packed, read_subnet
from support.namespaces import in_mount_namespace
from support.peers import location

PATIENCE = 100.0  # seconds for what comes at once on an idle machine
SILENCE = 0.3  # seconds for what must not come
HOST, WORLD = "192.0.2.1", "192.0.2.2"
HOST6, WORLD6 = "2001:db8::1", "2001:db8::2"


class Box:
    """A network namespace, and a process in it."""

    def __init__(self, name: str, pid: int, namespace: int) -> None:
        self.name, self.pid, self.namespace = name, pid, namespace
        self.attachment: Attachment | None = None

    def release(self) -> None:
        os.close(self.namespace)

    @property
    def mac(self) -> bytes:
        assert self.attachment is not None
        return self.attachment.mac

    @property
    def v4(self) -> str:
        assert self.attachment is not None
        return socket.inet_ntop(socket.AF_INET, self.attachment.addresses[0])

    @property
    def v6(self) -> str:
        assert self.attachment is not None
        return socket.inet_ntop(socket.AF_INET6, self.attachment.addresses[1])


class Lab:
    """The host is the calling process."""

    def __init__(self) -> None:
        unshare(CLONE_NEWNET)
        self.here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.networks: list[Network] = []
        self.attachments: list[Attachment] = []
        self.boxes: list[Box] = []
        self.made = 0
        ip("link", "set", "lo", "up")
        self.world = self.box("world")
        ip("link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", str(self.world.pid))
        ip("addr", "add", f"{HOST}/24", "dev", "up0")
        ip("addr", "add", f"{HOST6}/64", "dev", "up0", "nodad")
        ip("link", "set", "up0", "up")
        with self.inside(self.world):
            ip("addr", "add", f"{WORLD}/24", "dev", "eth0")
            ip("addr", "add", f"{WORLD6}/64", "dev", "eth0", "nodad")
            ip("link", "set", "eth0", "up")
            ip("link", "show", "eth0")  # asking has the kernel notice that it is up
        ip("link", "show", "up0")

    def box(self, name: str) -> Box:
        """A new network namespace, with a process that sleeps in it until this one ends."""
        parent, child = os.pipe()
        maker = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                unshare(CLONE_NEWNET)
                ip("link", "set", "lo", "up")
                os.write(child, b"x")
                os.close(child)
                while os.getppid() == maker:
                    signal.sigtimedwait([], 0.5)
            finally:
                os._exit(0)
        os.close(child)
        assert os.read(parent, 1) == b"x"
        os.close(parent)
        box = Box(name, pid, os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        self.boxes.append(box)
        return box

    def adopt(self, pid: int) -> Box:
        """The network namespace of a process that somebody else has started; `release` lets go of it."""
        return Box("adopted", pid, os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    def end(self, box: Box) -> None:
        """Its process ends, and nobody holds its namespace any more."""
        os.kill(box.pid, signal.SIGKILL)
        os.waitpid(box.pid, 0)
        os.close(box.namespace)
        self.boxes.remove(box)

    def close(self) -> None:
        for box in list(self.boxes):
            self.end(box)

    @contextmanager
    def inside(self, box: Box) -> Iterator[None]:
        setns(box.namespace, CLONE_NEWNET)
        try:
            yield
        finally:
            setns(self.here, CLONE_NEWNET)

    # -- networks

    def network(self, name: str, subnet: str = "10.88.0.0/16", subnet6: str = "", **how: Any) -> Network:
        subnets = tuple(read_subnet(text) for text in (subnet, subnet6) if text)
        gateways = tuple(one.packed(one.first + 1) for one in subnets)
        network = Network(name, f"lam-{name}", subnets, gateways, subnets, b"", **how)
        self.networks.append(network)
        return network

    def everything(self) -> tuple[list[Network], list[Attachment]]:
        return self.networks, self.attachments

    def bridge(self, network: Network) -> int:
        from lamina.network.forwarding import forward

        def settled() -> None:
            firewall.add(network.table, rules.of_network(network), self.everything)

        with closing(open_channel()) as channel:
            if not network.internal:
                forward({len(gateway) for gateway in network.gateways})
            return links.ensure_bridge(channel, network, settled)

    def container(self, network: Network, title: str, *published: Published, egress: str = "") -> Box:
        box = self.box(title)
        number = 2 + sum(one.network == network for one in self.attachments)
        addresses = tuple(one.packed(one.first + number) for one in network.subnets)
        self.made += 1
        owner = f"{self.made:02x}" * 32
        box.attachment = Attachment(
            owner, title, network, 0, addresses, mac_of(addresses[0]), "eth0", published,
            egress=read_egress(egress or None),
        )  # fmt: skip
        bridge = self.bridge(network)
        with self.inside(box):
            inside = open_channel()
        with closing(open_channel()) as outside, inside:
            links.plug(outside, inside, box.pid, [box.attachment], [bridge])
        self.attachments.append(box.attachment)
        firewall.add(network.table, rules.of_attachment(box.attachment), self.everything)
        return box


def in_lab(test: Callable[[Lab], Any]) -> Any:
    """What *test* gives when it is called with a lab, in a child."""

    def inner() -> Any:
        lab = Lab()
        try:
            return test(lab)
        finally:
            lab.close()

    return in_mount_namespace(inner)


def hears(lab: Lab, box: Box | None, port: int = 9) -> socket.socket:
    """A socket of *box*, or of the host (None), that hears UDP."""

    def opened() -> socket.socket:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("0.0.0.0", port))
        return server

    if box is None:
        return opened()
    with lab.inside(box):
        return opened()


def heard(server: socket.socket, patience: float = SILENCE) -> bool:
    """Whether something comes: with PATIENCE for what must."""
    server.settimeout(patience)
    try:
        return bool(server.recv(64))
    except TimeoutError:
        return False


# -- packets: in the namespace in which it is called


def listen(port: int, host: str = "0.0.0.0") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((host, port))
    server.listen(64)
    server.settimeout(PATIENCE)
    return server


def reaches(host: str, port: int, patience: float = PATIENCE) -> bool:
    """Whether a TCP connection comes about."""
    try:
        with socket.create_connection((host, port), timeout=patience):
            return True
    except (TimeoutError, OSError):
        return False


def seen_by(server: socket.socket) -> str:
    """From which address the next connection comes."""
    connection, where = server.accept()
    connection.close()
    return str(where[0])


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def nft(*words: str, given: str | None = None) -> str:
    """nft(8), of the peers root where this machine has none."""
    root = location()
    loader = root / "lib64/ld-linux-x86-64.so.2"
    libraries = root / "usr/lib/x86_64-linux-gnu"
    line = [str(loader), "--library-path", str(libraries), str(root / "usr/sbin/nft")]
    import shutil

    if (own := shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")) is not None:
        line = [own]
    done = subprocess.run([*line, *words], input=given, check=True, capture_output=True, text=True)
    return done.stdout


def nft_is_there() -> bool:
    return Path(location(), "usr/sbin/nft").exists() or os.path.exists("/usr/sbin/nft")


def raw(frame: bytes, device: str = "eth0") -> None:
    """Send a frame as it is, as a container with CAP_NET_RAW can."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((device, 0))
        sender.send(frame)


def publish(port: int, host_port: int, host: str = "", protocol: str = "tcp") -> Published:
    return Published(protocol, packed(host) if host else b"", host_port, port)
