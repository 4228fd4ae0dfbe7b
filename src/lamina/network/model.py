"""What a network is, and what a container has of it: values that whoever keeps records reads and writes."""

from __future__ import annotations

from lamina.network.names import is_name
from lamina.network.subnet import Subnet, text_of
from lamina.values import value

# of a link's name (IFNAMSIZ without the NUL)
_LONGEST = 15
_LONGEST_ALIAS = 255  # IFALIASZ without the NUL
_OF_STORE = " of "  # no name of a network has a space
_MOST_TITLE = 100  # of a container's name in a comment of nf_tables, which has 127 bytes for all
# how the names of the host's ends of containers' links begin, as the rules know them (`ports_begin`)
PORTS_OF_SYSTEM, PORTS_OF_OTHERS = "lamv", "lw"
SYSTEM_TABLE = "lamina"
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
DEFAULT_BRIDGE = "lamina0"


@value
class Network:
    """A bridge of this host, and the subnets behind it, at most one of each family.

    `gateways` are the bridge's own addresses in them, `ranges` the parts of the subnets in which containers get theirs
    that ask for none. An `internal` one leads nowhere else. `mtu` is 0 for the kernel's own. `hidden`: what leaves it
    has the host's address as its source (masquerade). `leases` is the directory of its addresses, `names` that of the
    names that its containers have for each other (`names`), b"" where they have none; `table` the name of the tables
    with its rules. With a `parent`, a link of this host, there is no bridge and no rule: its containers are on the wire
    of that link, by macvlan, and `gateways` are somebody else's. `store` is the directory of the store that it belongs
    to, "" for the system's, which stays.

    With a `maker` it is none of ours: a program of that name, or CNI's plugins, makes one container's link, told
    `words`; there is no bridge, rule or lease of ours. `host` are then the addresses by which the container reaches
    this host, and `resolver` what its resolv.conf says: servers, domains to search, options, as text.
    """

    name: str
    bridge: str
    subnets: tuple[Subnet, ...]
    gateways: tuple[bytes, ...]
    ranges: tuple[Subnet, ...]
    leases: bytes
    internal: bool = False
    mtu: int = 0
    hidden: bool = True
    table: str = "lamina"
    names: bytes = b""
    parent: str = ""
    maker: str = ""
    words: tuple[str, ...] = ()
    host: tuple[bytes, ...] = ()
    resolver: tuple[tuple[str, ...], ...] = ()
    store: str = ""

    @property
    def families(self) -> set[int]:
        """The lengths of its addresses: 4, 16 or both."""
        return {len(subnet.base) for subnet in self.subnets}

    @property
    def note(self) -> str:
        """What is written to its bridge, so that it can be told from somebody else's; and from one of a store that is
        gone, if there is room for the store's directory.
        """
        said = f"{self.table} network {self.name}"
        if not self.store.isprintable() or not self.store.isascii():
            return said
        whole = f"{said}{_OF_STORE}{self.store}"
        return whole if self.store and len(whole) <= _LONGEST_ALIAS else said


def place_in_note(alias: str) -> tuple[str, str]:
    """The store's directory and the network's name in a `Network.note`; "" for both where there is no directory."""
    said, _, store = alias.partition(_OF_STORE)
    words = said.split(" ")
    if len(words) != 3 or words[1] != "network" or not words[0].startswith(f"{SYSTEM_TABLE}-"):
        return "", ""
    return (store, words[2]) if store.startswith("/") else ("", "")


@value
class Published:
    """A port of the host that leads to one of a container: of every local address where `host` is b"", of every one of
    a family where it is 0.0.0.0 or ::, else of that packed one. `protocol` is one of PROTOCOLS. What is
    wanted may be any port from `host_port` to `last`; 0 is that one alone.
    """

    protocol: str
    host: bytes
    host_port: int
    port: int
    last: int = 0

    @property
    def is_fixed(self) -> bool:
        """Whether it is one port of the host and no other."""
        return bool(self.host_port) and not self.last

    def __str__(self) -> str:
        last = f"-{self.last}" if self.last else ""
        return f"{place_of(self.host, self.host_port)}{last}->{self.port}/{self.protocol}"


@value
class Allowed:
    """What a container may reach that is not to reach everything: a subnet, or what the domain `name` means (with "*."
    in front those below it); at one `port` of TCP, UDP and SCTP, or (0) at all, and by all protocols.
    """

    subnet: Subnet | None
    name: str
    port: int


@value
class Attachment:
    """A container's place in a network: the `number`th of its links. `mac` is that link's address; the packed
    `addresses` are one for each subnet. `device` is what it is called inside, `aliases` are names that it has besides
    its own (`title`). With `egress` it reaches nothing but that; None is everything.
    """

    owner: str
    title: str
    network: Network
    number: int
    addresses: tuple[bytes, ...]
    mac: bytes
    device: str
    published: tuple[Published, ...] = ()
    aliases: tuple[str, ...] = ()
    egress: tuple[Allowed, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """How others of the network find it: its name, the short form of its id, its aliases."""
        if not self.network.names:
            return ()
        every = (self.title, self.owner[:12], *self.aliases)
        return tuple(dict.fromkeys(name.lower() for name in every if is_name(name)))

    @property
    def port(self) -> str:
        """The name of the link's other end, here."""
        return port_of(self.owner, self.number, self.network.table)

    @property
    def note(self) -> str:
        """What is written to it, so that people who look at links and rules know whose they are, and `system check`
        what belongs to nobody: so the id must not be cut off.
        """
        return f"{self.title[:_MOST_TITLE]} {self.owner[:12]}"

    @property
    def alias(self) -> str:
        """The same of the link, with the network."""
        return f"{self.network.table} container {self.note} network {self.network.name}"


def ports_begin(table: str) -> str:
    """How the names of all ports begin that the tables of that name guard, and of nobody else's: what is no container's
    of theirs is dropped there.
    """
    if table == SYSTEM_TABLE:
        return PORTS_OF_SYSTEM
    return PORTS_OF_OTHERS + table[-3:]


def port_of(owner: str, number: int, table: str = SYSTEM_TABLE) -> str:
    """The name of this end of the *number*th link of the container *owner*, an id."""
    begin = ports_begin(table)
    return f"{begin}{owner[: _LONGEST - len(begin) - 2]}{number:02d}"


def bridge_of(name: str, digest: str, *, apart: bool = False) -> str:
    """A name for the bridge of the network *name*, which is in it as far as it fits; else, and if it is to be *apart*
    from others with such a name, hexadecimal *digest* tells it apart.
    """
    plain = f"lam-{name}"
    fits = len(plain) <= _LONGEST and name.isascii()
    return plain if fits and not apart else f"lam-{name[:4]}-{digest[:6]}"


def mac_of(address: bytes) -> bytes:
    """The link-layer address that goes with an address, of those that anybody may give ("locally administered"). Who
    gets that address next has the same, so that what neighbours remember stays right. Of an IPv6 one, which is longer,
    it is a digest: no two of a network's first digits are the same but by a chance of one in 2**40.
    """
    if len(address) == 4:
        return b"\x02\x42" + address
    from hashlib import sha256

    return b"\x02" + sha256(address).digest()[:5]


def link_local(mac: bytes) -> bytes:
    """The IPv6 address that the kernel makes of a link's own (RFC 4291, appendix A)."""
    return b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 0x02]) + mac[1:3] + b"\xff\xfe" + mac[3:]


def overlap(one: bytes, other: bytes) -> bool:
    """Whether two places of `Published.host` have an address in common."""
    same_family = len(one) == len(other) or not one or not other
    return one == other or (same_family and not (any(one) and any(other)))


def place_of(host: bytes, port: int) -> str:
    """An address and a port, as people write them."""
    if not host:
        return f"*:{port}"
    return f"[{text_of(host)}]:{port}" if len(host) == 16 else f"{text_of(host)}:{port}"
