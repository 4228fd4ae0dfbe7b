"""Real programs and real traffic through our links and rules: iperf3, HTTP, thousands of connections, PostgreSQL."""

from __future__ import annotations

import http.client
import json
import resource
import shutil
import socket
import subprocess
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from support.lab import HOST, HOST6, WORLD
from support.lives import until
from support.network_host import Host, on_host, within
from support.postgres import fill, installed
from support.small_images import small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("ip", "busybox")]

MANY = 2000
LIBRARIES = [f"{place}:{place}:ro" for place in ("/lib", "/lib64", "/usr/lib") if Path(place).is_dir()]


# -- throughput


@pytest.mark.peer("iperf3")
def test_iperf3_between_containers_and_through_a_published_port(store_root: Path) -> None:
    """TCP, UDP and IPv6; what is sent arrives. How fast is nothing that a test says."""
    program = shutil.which("iperf3")

    def test(host: Host) -> None:
        host.engine.networks.create("back", subnets=["10.50.0.0/24", "fd00:50::/64"])
        volumes = [f"{program}:/iperf3:ro", *LIBRARIES]
        server = host.engine.start(
            "tiny", ["/iperf3", "-s"], name="server", network="back", publish=["5201:5201", "5201:5201/udp"],
            volumes=volumes,
        )  # fmt: skip
        client = host.start("sleep 1000", network="back", volumes=volumes)
        six = server.attrs["NetworkSettings"]["Networks"]["back"]["GlobalIPv6Address"]
        until(
            lambda: client.exec(["nc", "-w", "1", "server", "5201"], stdin=subprocess.DEVNULL).returncode == 0
        )

        def measured(*words: str) -> dict[str, Any]:
            asked = ["/iperf3", "-J", *words]
            found: dict[str, Any] = {}

            def is_served() -> bool:  # for each client the server begins to listen anew
                done = client.exec(asked, capture_output=True, text=True, timeout=200)
                found.clear()
                found.update(json.loads(str(done.stdout)))
                return not any(word in found.get("error", "") for word in ("refused", "busy"))

            until(is_served)
            assert "error" not in found, found["error"]
            return dict(found["end"])

        size = 16 << 20
        for target in ("server", six, HOST, HOST6):  # by name, by IPv6, by the published port of this host
            end = measured("-c", target, "-n", str(size))
            assert end["sum_received"]["bytes"] > size / 10, target  # some is on its way when it is counted
        for target in ("server", HOST):
            end = measured("-c", target, "-u", "-b", "2M", "-n", "200K", "-l", "1200")
            assert end["sum"]["packets"] > 0
            # so slowly that what comes has room in a socket whose reader gets no processor time
            assert end["sum"]["lost_packets"] < end["sum"]["packets"] / 2, target

    on_host(store_root, test)


# -- HTTP, UDP, and many at once


class Web(BaseHTTPRequestHandler):
    """Says from where it was asked."""

    def do_GET(self) -> None:
        body = f"{self.client_address[0]}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def asks(host: str, port: int) -> str:
    """What the web service says: the address it sees."""
    with closing(http.client.HTTPConnection(host, port, timeout=200)) as connection:
        connection.request("GET", "/")
        return connection.getresponse().read().decode().strip()


def test_http_and_udp_through_published_ports_from_everywhere(store_root: Path) -> None:
    """By the loopback, by this host's address, from the world, from a neighbour, from another network."""

    def test(host: Host) -> None:
        host.engine.networks.create("back", subnets=["10.50.0.0/24", "fd00:50::/64"])
        host.engine.networks.create("front", subnets=["10.51.0.0/24"])
        box = host.start(
            "sleep 1000", name="web", network="back", publish=["8080:80", "127.0.0.1:8081:80", "5353:53/udp"]
        )
        near, far = host.start("sleep 1000", network="back"), host.start("sleep 1000", network="front")
        own = box.attrs["NetworkSettings"]["Networks"]["back"]["IPAddress"]
        with within(host, box):
            servers = [HTTPServer(("0.0.0.0", 80), Web)]
            HTTPServer.address_family = socket.AF_INET6
            try:
                servers.append(HTTPServer(("::", 80), Web, bind_and_activate=False))
            finally:
                HTTPServer.address_family = socket.AF_INET
            servers[1].socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            servers[1].server_bind()
            servers[1].server_activate()
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            udp.bind(("0.0.0.0", 53))
            udp.settimeout(100)
        for server in servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

        def echoes(target: str, port: int) -> bool:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                asking.settimeout(100)
                asking.connect((target, port))
                asking.send(b"ping")
                data, where = udp.recvfrom(64)
                udp.sendto(data, where)
                return asking.recv(64) == b"ping"

        try:
            assert asks("127.0.0.1", 8080) == asks("127.0.0.1", 8081) == "10.50.0.1"
            assert asks(HOST, 8080)
            assert asks(own, 80)
            assert asks(HOST6, 8080)
            assert echoes("127.0.0.1", 5353)
            assert echoes(HOST, 5353)
            with host.inside(host.world):
                assert asks(HOST, 8080) == WORLD, "who asks from outside is seen as who he is"
                assert echoes(HOST, 5353)
                with pytest.raises(OSError):
                    asks(HOST, 8081)
            for other in (near, far, box):
                with within(host, other):
                    assert asks(HOST, 8080)
                    assert echoes(HOST, 5353)
        finally:
            for server in servers:
                server.shutdown()
                server.server_close()
            udp.close()

    on_host(store_root, test)


def test_two_thousand_connections_at_once_through_a_published_port(store_root: Path) -> None:
    """Begun together, all of them open at the same time, each answered."""

    def test(host: Host) -> None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # of this child
        box = host.start("sleep 1000", publish=["8080:80"])
        with within(host, box):
            server = socket.create_server(("0.0.0.0", 80), backlog=4096)
        server.setblocking(False)
        clients: dict[int, socket.socket] = {}
        accepted: list[socket.socket] = []
        answered = 0
        with host.inside(host.world):
            try:
                for number in range(MANY):
                    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                    client.connect_ex((HOST, 8080))
                    clients[client.fileno()] = client
                    if number % 100 == 99:
                        accepted += _accept_all(server)

                def all_are_there() -> bool:
                    accepted.extend(_accept_all(server))
                    return len(accepted) == MANY

                until(all_are_there)
                for one in accepted:
                    one.setblocking(True)
                    one.sendall(b"x")
                for client in clients.values():
                    client.setblocking(True)
                    client.settimeout(100)
                    answered += client.recv(1) == b"x"
            finally:
                for one in (*clients.values(), *accepted, server):
                    one.close()
        assert answered == MANY

    on_host(store_root, test)


def _accept_all(server: socket.socket) -> list[socket.socket]:
    found = []
    while True:
        try:
            found.append(server.accept()[0])
        except BlockingIOError:
            return found


# -- a web service and its database

DATABASE = (
    "initdb -A trust -U postgres --no-sync --locale=C -D /data/db >/dev/null && "
    "echo 'host all all 10.50.0.0/24 trust' >>/data/db/pg_hba.conf && "
    "exec postgres -D /data/db -c listen_addresses='*' -c fsync=off -c unix_socket_directories=/data"
)
SERVICE = """
while :; do
    psql -qtA -h db -U postgres -c "insert into hits default values returning 'hit ' || number" >/tmp/hit &&
    { printf 'HTTP/1.0 200 OK\\r\\n\\r\\n'; cat /tmp/hit; } | nc -l -p 80
done
"""


@pytest.mark.skipif(installed() is None, reason="needs postgresql")
def test_a_web_service_and_postgresql_talk_by_name(store_root: Path) -> None:
    """Two containers of an image with Debian's PostgreSQL, in a network that leads nowhere and one for the world."""

    def test(host: Host) -> None:
        env = {"PATH": "/bin:/usr/lib/postgresql/bin"}
        small_image(host.root, fill, names=("docker.io/library/postgres:latest",))
        host.engine.networks.create("back", subnets=["10.50.0.0/24"], internal=True)
        host.engine.networks.create("front")
        db = host.engine.start(
            "postgres", ["sh", "-c", DATABASE], name="database", network="back", network_aliases=["db"], user="ann",
            env=env, tmpfs=["/data:mode=1777"],
        )  # fmt: skip
        web = host.engine.create(
            "postgres",
            ["sh", "-c", SERVICE],
            name="web",
            network=["front", "back"],
            env=env,
            publish=["8080:80"],
        )
        make = ["psql", "-q", "-h", "db", "-U", "postgres", "-c", "create table hits (number serial)"]
        until(
            lambda: (
                host.engine.run(
                    "postgres", make, network="back", env=env, rm=True, capture_output=True
                ).returncode
                == 0
            )
        )
        web.start()

        def hit() -> str:
            try:
                return asks(HOST, 8080)
            except (OSError, http.client.HTTPException):  # it listens anew for each
                return ""

        with host.inside(host.world):
            seen: list[str] = []

            def three() -> bool:
                seen.append(hit())
                return len([one for one in seen if one]) == 3

            until(three)
        db.remove(force=True)  # with a connection open whose other end is gone
        until(lambda: [one.name for one in host.ports_noted() if " database " in one.alias] == [])
        numbers = [int(one.removeprefix("hit ")) for one in seen if one]
        assert numbers == sorted(set(numbers))

    on_host(store_root, test)
