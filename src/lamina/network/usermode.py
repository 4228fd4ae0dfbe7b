"""What is said to the programs that give a container without root a way out: pasta (passt(1)) and slirp4netns(1).

Pure: words in, words out. Both sit between a device of the container's network namespace and sockets of this host, so
what the container sends is sent again by a process of the user's.
"""

from __future__ import annotations

from lamina.errors import InvalidInput, Unsupported
from lamina.network.model import Published
from lamina.network.subnet import Subnet, packed, read_subnet, text_of
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PASTA, SLIRP = PROGRAMS = ("pasta", "slirp4netns")
PACKAGES = {PASTA: "passt", SLIRP: "slirp4netns"}  # of Debian, Fedora and most others
DEVICES = {PASTA: "eth0", SLIRP: "tap0"}
READY, API = "ready", "slirp"  # in the container's directory, for a moment
MTU = 65520  # nothing is sent over a wire: the larger, the fewer
# from which the container's subnet is taken; the first is slirp's own
POOL = tuple(f"10.0.{third}.0/24" for third in range(2, 255))
_OWN, _GATEWAY, _SERVER = 100, 2, 3  # within the subnet, as slirp4netns has them (slirp4netns(1))

# passt(1): how many words follow each, by its long name; what is not here would break what we rely on
_SHORT = {
    "-a": "--address", "-n": "--netmask", "-g": "--gateway", "-M": "--mac-addr", "-m": "--mtu", "-i": "--interface",
    "-o": "--outbound", "-I": "--ns-ifname", "-D": "--dns", "-S": "--search", "-t": "--tcp-ports",
    "-u": "--udp-ports", "-T": "--tcp-ns", "-U": "--udp-ns", "-4": "--ipv4-only", "-6": "--ipv6-only",
}  # fmt: skip
_WITH_WORD = frozenset((*(_SHORT[short] for short in _SHORT if not short[1:].isdigit()),
    "--outbound-if4", "--outbound-if6", "--dns-forward", "--dns-host", "--ns-mac-addr", "--map-host-loopback",
    "--map-guest-addr",
))  # fmt: skip
_ALONE = frozenset((
    "--ipv4-only", "--ipv6-only", "--config-net", "--map-gw", "--no-map-gw", "--no-tcp", "--no-udp", "--no-icmp",
    "--no-dhcp", "--no-ndp", "--no-dhcpv6", "--no-ra", "--no-copy-routes", "--no-copy-addrs", "--freebind",
    "--host-lo-to-ns-lo", "--quiet",
))  # fmt: skip
_OF_ADDRESS = frozenset(("--address", "--netmask", "--gateway", "--ipv6-only"))
_SLIRP = (
    "allow_host_loopback",
    "cidr",
    "enable_ipv6",
    "mtu",
    "outbound_addr",
    "outbound_addr6",
    "port_handler",
)
_BOOLEANS = ("allow_host_loopback", "enable_ipv6")


@value
class Layout:
    """The container's place: its subnet, and there its own address, its gateway and who answers for names."""

    subnet: Subnet

    @property
    def own(self) -> bytes:
        """Its address."""
        return self.subnet.packed(self.subnet.first + _OWN)

    @property
    def gateway(self) -> bytes:
        """Where its default route leads."""
        return self.subnet.packed(self.subnet.first + _GATEWAY)

    @property
    def server(self) -> bytes:
        """Whom it asks for names: the helper asks this host's servers."""
        return self.subnet.packed(self.subnet.first + _SERVER)


def read_words(text: str) -> tuple[str, tuple[str, ...]]:
    """The program and the options of `pasta:OPT,...` or `slirp4netns:KEY=VALUE,...`, as podman writes them.

    Raises InvalidInput for an option that there is not, Unsupported for one that cannot be had.
    """
    program, colon, rest = text.partition(":")
    if colon and not rest:
        raise InvalidInput(f"run: network {text}: no option follows", remedy=f"--network {program}")
    given = tuple(rest.split(",")) if rest else ()
    if "" in given or any("\0" in word for word in given):
        raise InvalidInput(
            f"run: network {text}: an option is empty", remedy=f"--network {program}:OPTION,..."
        )
    return program, _pasta_options(given) if program == PASTA else _slirp_options(given)


def _pasta_options(given: tuple[str, ...]) -> tuple[str, ...]:
    """By their long names, each with its word apart."""
    found: list[str] = []
    words = iter(given)
    for word in words:
        name, equals, said = word.partition("=")
        name = _SHORT.get(name, name)
        if name in _WITH_WORD:
            argument = said if equals else next(words, "")
            if not argument or argument.startswith("--"):
                raise InvalidInput(f"run: network pasta: {word} takes a word", remedy=f"pasta:{word},WORD")
            found += [name, argument]
        elif name in _ALONE and not equals:
            found.append(name)
        else:
            raise InvalidInput(
                f"run: network pasta: option {word[:100]!r}: there is none, or it is not for containers",
                remedy=", ".join(sorted({*_WITH_WORD, *_ALONE})),
            )
    return tuple(found)


def _slirp_options(given: tuple[str, ...]) -> tuple[str, ...]:
    found: dict[str, str] = {}
    for word in given:
        key, equals, said = word.partition("=")
        if not equals or not said or key not in _SLIRP:
            raise InvalidInput(
                f"run: network slirp4netns: option {word[:100]!r}: there is none",
                remedy=", ".join(f"{key}=..." for key in _SLIRP),
            )
        found[key] = said
    for key in _BOOLEANS:
        if found.get(key, "true") not in ("true", "false"):
            raise InvalidInput(
                f"run: network slirp4netns: {key} {found[key]}: neither true nor false",
                remedy=f"{key}=true or {key}=false",
            )
    if found.get("port_handler", SLIRP) != SLIRP:
        raise Unsupported(
            f"run: network slirp4netns: port_handler {found['port_handler']}: Lamina has none but slirp4netns",
            remedy="leave it out; with pasta containers see where a connection comes from",
        )
    if "cidr" in found and len(read_subnet(found["cidr"], "cidr").base) != 4:
        raise InvalidInput(
            f"run: network slirp4netns: cidr {found['cidr']}: not a subnet of IPv4",
            remedy="such as cidr=10.0.2.0/24",
        )
    mtu = found.get("mtu", str(MTU))
    if not (mtu.isascii() and mtu.isdigit() and len(mtu) < 10) or not 68 <= int(mtu) <= 65521:
        raise InvalidInput(
            f"run: network slirp4netns: mtu {mtu[:100]}: not a number from 68 to 65521",
            remedy="such as mtu=1500, or none for 65520",
        )
    if "outbound_addr6" in found and found.get("enable_ipv6") == "false":
        raise InvalidInput(
            "run: network slirp4netns: outbound_addr6 and enable_ipv6=false contradict each other",
            remedy="leave one of them out",
        )
    return tuple(f"{key}={said}" for key, said in found.items())


def settings(words: Sequence[str]) -> dict[str, str]:
    """The options of slirp4netns by name."""
    return {key: said for key, _, said in (word.partition("=") for word in words)}


def layout_of(program: str, words: Sequence[str], used: Iterable[Subnet]) -> Layout | None:
    """Where the container is to be, in a subnet of which nothing is *used*; None where the options of pasta say that.

    Raises InvalidInput.
    """
    if is_placed(program, words):
        return None
    if program == SLIRP and (cidr := settings(words).get("cidr")):
        subnet = read_subnet(cidr, "cidr")
        if subnet.bits - subnet.prefix < 7:
            raise InvalidInput(f"run: network slirp4netns: cidr {cidr}: too small", remedy="a /25, or larger")
        return Layout(subnet)
    known = list(used)
    pool = [read_subnet(text) for text in POOL]
    return Layout(next((one for one in pool if not any(one.overlaps(other) for other in known)), pool[0]))


def is_placed(program: str, words: Sequence[str]) -> bool:
    """Whether its options say where the container is to be."""
    return program == PASTA and bool(_OF_ADDRESS.intersection(words))


def listens(program: str, words: Sequence[str]) -> bool:
    """Whether its options have it listen at ports of this host."""
    return program == PASTA and not {"--tcp-ports", "--udp-ports"}.isdisjoint(words)


def leads_to_loopback(program: str, words: Sequence[str]) -> bool:
    """Whether the gateway's address is this host's loopback, because that was asked for."""
    if program == PASTA:
        return "--map-gw" in words
    return settings(words).get("allow_host_loopback") == "true"


def server_of(program: str, words: Sequence[str], layout: Layout | None) -> bytes:
    """Whom the container asks for names; b"" where nobody answers."""
    if program == PASTA and "--dns-forward" in words:
        return packed(words[words.index("--dns-forward") + 1], "dns-forward")
    return packed(_ELSEWHERE) if layout is None else layout.server


_ELSEWHERE = "169.254.1.1"  # where the subnet is not ours to choose; as podman has it


def pasta(
    path: str,
    words: Sequence[str],
    layout: Layout | None,
    published: Sequence[Published],
    pid: int,
    ready: str,
) -> list[str]:
    """The command line for the network of the process *pid*: in the foreground; it writes to the fifo *ready* when it
    is ready.

    No port is forwarded that was not asked for, and nothing leads to this host's loopback. Raises InvalidInput.
    """
    found = [path, "--foreground", "--quiet", "--config-net", "--no-netns-quit", "--pid", ready]
    given = [word for word in words if word not in ("--map-gw", "--config-net", "--quiet")]
    if layout is not None:
        found += ["--address", text_of(layout.own), "--netmask", str(layout.subnet.prefix)]
        found += ["--gateway", text_of(layout.gateway)]
    if "--dns-forward" not in given:
        found += ["--dns-forward", text_of(server_of(PASTA, words, layout))]
    if "--map-gw" not in words and "--no-map-gw" not in words:
        found.append("--no-map-gw")
    if "--ns-ifname" not in given:
        found += ["--ns-ifname", DEVICES[PASTA]]
    found += given
    for option, protocol in (("--tcp-ports", "tcp"), ("--udp-ports", "udp")):
        ports = [_range(first, last) for first, last in _ranges(published, protocol)]
        for text in ports:
            found += [option, text]
        if not ports and option not in given:
            found += [option, "none"]
    for option in ("--tcp-ns", "--udp-ns"):
        if option not in given:
            found += [option, "none"]
    return [*found, "--netns", f"/proc/{pid}/ns/net", "--userns", f"/proc/{pid}/ns/user"]


def _ranges(published: Sequence[Published], protocol: str) -> list[tuple[Published, Published]]:
    """Neighbours together: pasta takes a few hundred of these at most."""
    found: list[tuple[Published, Published]] = []
    for one in sorted(
        (port for port in published if port.protocol == protocol),
        key=lambda port: (port.host, port.host_port),
    ):
        if found and one == replace(
            found[-1][1], host_port=found[-1][1].host_port + 1, port=found[-1][1].port + 1
        ):
            found[-1] = (found[-1][0], one)
        else:
            found.append((one, one))
    return found


def _range(first: Published, last: Published) -> str:
    host = f"{text_of(first.host)}/" if first.host else ""
    return f"{host}{first.host_port}-{last.host_port}:{first.port}-{last.port}"


def slirp4netns(
    path: str,
    words: Sequence[str],
    layout: Layout,
    pid: int,
    ready: int,
    api: str,
    *,
    ipv6: bool,
    sandbox: bool = True,
) -> list[str]:
    """The command line for the network of the process *pid*; it writes to the descriptor *ready* when it is ready, and
    takes requests for ports at the socket *api*, "" for none. In its *sandbox* it sees /etc and /run of this host.
    """
    said = settings(words)
    found = [path, "--configure", f"--ready-fd={ready}", f"--mtu={said.get('mtu', MTU)}"]
    found += ["--enable-seccomp", f"--cidr={layout.subnet}"]
    if sandbox:
        found.append("--enable-sandbox")
    if said.get("allow_host_loopback") != "true":
        found.append("--disable-host-loopback")
    if said.get("enable_ipv6", "true" if ipv6 else "false") == "true":
        found.append("--enable-ipv6")
    for key in ("outbound_addr", "outbound_addr6"):
        if key in said:
            found.append(f"--{key.replace('_', '-')}={said[key]}")
    if api:
        found.append(f"--api-socket={api}")
    # by its number, not by paths of its namespaces: else it would have its sandbox in ours, where it is not root
    return [*found, str(pid), DEVICES[SLIRP]]


def forward(port: Published, layout: Layout) -> dict[str, object]:
    """The request for a published port."""
    arguments: dict[str, object] = {
        "proto": port.protocol,
        "host_addr": text_of(port.host) if port.host else "0.0.0.0",
        "host_port": port.host_port,
        "guest_addr": text_of(layout.own),
        "guest_port": port.port,
    }
    return {"execute": "add_hostfwd", "arguments": arguments}
