"""What is asked of a container's network, as a value, and Docker's notation for it: -p, --ip, --dns, --add-host ...

A start that asks for none of it does not load this.
"""

from __future__ import annotations

from lamina.engine.notation import listed, text_of
from lamina.engine.options import by_others
from lamina.errors import InvalidInput, Unsupported
from lamina.network.model import Published
from lamina.network.names import is_name
from lamina.network.subnet import packed
from lamina.network.subnet import text_of as address_text
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.engine.options import Options
    from lamina.network.model import Allowed

HOST_GATEWAY = "host-gateway"
# what is a name of a host, as in /etc/hosts
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


@value
class Joined:
    """A network that a container is to be in. The packed `addresses` are at most one of a family, `mac` is b"" for any;
    `aliases` are names that it has there besides its own, `words` what is said to the program that makes it.
    """

    network: str
    addresses: tuple[bytes, ...] = ()
    mac: bytes = b""
    aliases: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether nothing but the network was said."""
        return not (self.addresses or self.mac or self.aliases or self.words)


@value
class Networking:
    """What was asked, checked. `published` ports with a `host_port` of 0 get any that is free; with `publish_all`
    those that are exposed are published as well: by the image, and those `exposed` ("80/tcp"). The packed
    `addresses`, `mac` and `aliases` are those in the first network (see `Joined`), `joined` the further networks.
    `dns` are servers, packed, `search` and `resolver_options` what /etc/resolv.conf says besides; where they are
    empty this host's are taken. `hosts` are (name, address as text or HOST_GATEWAY) for /etc/hosts. With `egress`
    it reaches nothing else than that (`lamina.network.egress`). `words` are for the program that makes its network,
    if one does (`lamina.network.usermode`).
    """

    published: tuple[Published, ...] = ()
    publish_all: bool = False
    addresses: tuple[bytes, ...] = ()
    mac: bytes = b""
    dns: tuple[bytes, ...] = ()
    search: tuple[str, ...] = ()
    resolver_options: tuple[str, ...] = ()
    hosts: tuple[tuple[str, str], ...] = ()
    aliases: tuple[str, ...] = ()
    joined: tuple[Joined, ...] = ()
    egress: tuple[Allowed, ...] | None = None
    words: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()

    @property
    def of_names(self) -> bool:
        """Whether anything was said of /etc/hosts and /etc/resolv.conf."""
        return bool(self.dns or self.search or self.resolver_options or self.hosts)

    @property
    def linked(self) -> str:
        """The option, if any, that only a container with a link of its own can have."""
        asked = {
            "-p": self.published, "-P": self.publish_all, "--ip": self.addresses, "--mac-address": self.mac,
            "--network-alias": self.aliases, "--egress": self.egress is not None,
        }  # fmt: skip
        return next((option for option, given in asked.items() if given), "")


NOTHING = Networking()
KEYS = frozenset(
    (
        "publish", "publish_all", "ip", "ip6", "mac_address", "dns", "dns_search", "dns_options", "add_hosts",
        "network_aliases", "egress", "expose",
    )
)  # fmt: skip


def read_networking(asked: dict[str, Any], networks: tuple[Joined, ...]) -> Networking | None:
    """The checked form of what of KEYS is in *asked*, and of *networks*, None if that is nothing. Raises InvalidInput,
    Unsupported.
    """
    first = networks[0] if networks else Joined("none")
    found = Networking(
        **_ports(asked),
        publish_all=bool(asked.get("publish_all")),
        **_first_place(first, asked),
        dns=tuple(packed(text_of(text, "dns"), "dns") for text in listed(asked.get("dns") or (), "dns")),
        search=_words(asked, "dns_search", "dns search"),
        resolver_options=_words(asked, "dns_options", "dns option"),
        hosts=tuple(
            read_host(text_of(text, "host")) for text in listed(asked.get("add_hosts") or (), "host")
        ),
        joined=networks[1:],
        egress=_egress(asked),
        words=first.words,
    )
    if found == NOTHING:
        return None
    if by_others(first.network):
        check_made_by_others(first.network, found)
    if found.linked and is_linkless(first.network):
        raise InvalidInput(
            f"run: {found.linked} and --network {first.network} contradict each other",
            remedy="take --network bridge",
        )
    return found


def check_made_by_others(network: str, wanted: Networking) -> None:
    """Raises InvalidInput for what the program that makes the network does not do."""
    asked: dict[str, Any] = {"--egress": wanted.egress is not None}
    if not network.startswith("cni:"):
        asked.update(
            {"--ip": wanted.addresses, "--mac-address": wanted.mac, "--network-alias": wanted.aliases}
        )
    if option := next((option for option, given in asked.items() if given), ""):
        raise InvalidInput(
            f"run: {option} and --network {network} contradict each other",
            remedy="take --network bridge, as root",
        )
    unfit = [str(port) for port in wanted.published if port.protocol not in ("tcp", "udp")]
    if unfit and not network.startswith("cni:"):
        raise InvalidInput(
            f"run: port {unfit[0]}: {network} publishes ports of tcp and udp alone",
            remedy="take --network bridge, as root",
        )


def _ports(asked: dict[str, Any]) -> dict[str, Any]:
    publish, expose = (listed(asked.get(key) or (), "port") for key in ("publish", "expose"))
    if not publish and not expose:
        return {}
    from lamina.engine.publishing import read_exposed, read_published

    return {
        "published": read_published([text_of(text, "port") for text in publish]),
        "exposed": read_exposed([text_of(text, "port") for text in expose]),
    }


def _egress(asked: dict[str, Any]) -> tuple[Allowed, ...] | None:
    if not asked.get("egress"):
        return None
    from lamina.engine.egress import read_egress

    return read_egress(asked["egress"])


def _first_place(first: Joined, asked: dict[str, Any]) -> dict[str, Any]:
    """What was said of the first network, with it or by options; not both, as docker has it."""
    given = Joined(first.network, *_of_place(asked, "network_aliases"))
    if not given.is_plain and not first.is_plain and not first.words:
        raise InvalidInput(
            f"run: what network {first.network} is to have is said by options and by name={first.network},...",
            remedy="say it in one of the two ways",
        )
    chosen = first if given.is_plain else given
    return {"addresses": chosen.addresses, "mac": chosen.mac, "aliases": chosen.aliases}


def _of_place(asked: dict[str, Any], aliases: str) -> tuple[tuple[bytes, ...], bytes, tuple[str, ...]]:
    """The addresses, the MAC and the aliases, of which the key is *aliases*."""
    addresses = tuple(
        _address(asked, key, length) for key, length in (("ip", 4), ("ip6", 16)) if asked.get(key)
    )
    mac = read_mac(asked["mac_address"]) if asked.get("mac_address") else b""
    listed_ = listed(asked.get(aliases) or (), "network alias")
    return addresses, mac, tuple(dict.fromkeys(read_alias(text_of(text, "alias")) for text in listed_))


def read_alias(text: str) -> str:
    """A further name of a container in a network. Raises InvalidInput."""
    from lamina.store.names import is_name as is_container_name

    if not (is_name(text) and is_container_name(text)):
        raise InvalidInput(
            f"run: network alias {text[:200]!r}: not a name",
            remedy="letters, digits, '-', '_' and '.', beginning with a letter or digit",
        )
    return text


def is_linkless(network: str) -> bool:
    """Whether a container with that network has no link that we make."""
    return network in ("none", "host") or network.startswith(("container:", "ns:"))


def _address(asked: dict[str, Any], key: str, length: int) -> bytes:
    found = packed(text_of(asked[key], key), key)
    if len(found) != length:
        raise InvalidInput(
            f"run: {key} {asked[key]}: an address of the other family",
            remedy="--ip is one of IPv4, such as 10.1.0.5, --ip6 one of IPv6, such as fd00:1::5",
        )
    return found


def _words(asked: dict[str, Any], key: str, what: str) -> tuple[str, ...]:
    found = tuple(text_of(text, what) for text in listed(asked.get(key) or (), what))
    for word in found:
        if not word.strip() or any(c.isspace() or c == "\0" for c in word):
            raise InvalidInput(
                f"run: {what} {word[:100]!r}: not a word",
                remedy="without spaces; several are said by an option each",
            )
    return found


# -- the rest


def read_mac(text: str) -> bytes:
    """Six pairs of digits, of one station and not of all zeros. Raises InvalidInput."""
    parts = text_of(text, "mac address").replace("-", ":").split(":")
    try:
        found = bytes(int(part, 16) for part in parts)
    except ValueError:
        found = b""
    if len(found) != 6 or not all(len(part) == 2 for part in parts) or found[0] & 1 or not any(found):
        raise InvalidInput(f"run: mac address {text}: not one", remedy="such as 02:42:ac:11:00:02")
    return found


def read_host(text: str) -> tuple[str, str]:
    """NAME:ADDRESS or NAME=ADDRESS; `host-gateway` is this host as the container sees it. Raises InvalidInput."""
    separator = min((text.index(c) for c in ":=" if c in text), default=-1)
    name, address = text[:separator], text[separator + 1 :].strip("[]")
    if separator < 1 or not _NAME.issuperset(name):
        raise InvalidInput(
            f"run: host {text!r}: not NAME:ADDRESS", remedy="such as db:10.0.0.5 or up:host-gateway"
        )
    return name, address if address == HOST_GATEWAY else address_text(packed(address, "host"))


# of the long form, in docker's words and in podman's
_LONG = {
    "name": "name", "alias": "alias", "ip": "ip", "ip6": "ip6", "mac-address": "mac_address", "mac": "mac_address",
}  # fmt: skip


def read_networks(given: Any) -> tuple[Joined, ...]:
    """The networks of a container, each NAME, or name=NAME,ip=...,ip6=...,mac-address=...,alias=... (as often as there
    are aliases). Raises InvalidInput, Unsupported.
    """
    wanted = given if isinstance(given, list | tuple) else [given]
    found = tuple(_read_joined(text_of(text, "network")) for text in wanted)
    if not found:
        raise InvalidInput("run: network: none is named", remedy="none is one: the loopback device alone")
    known = [one.network for one in found]
    if twice := {one for one in known if known.count(one) > 1}:
        raise InvalidInput(
            f"run: network {min(twice)}: named twice", remedy="name it once, with all its options"
        )
    if len(found) > 1 and (alone := [one for one in known if is_linkless(one) or by_others(one)]):
        raise InvalidInput(
            f"run: --network {alone[0]} and --network {next(one for one in known if one != alone[0])} "
            "contradict each other",
            remedy="name networks alone",
        )
    return found


def _read_joined(text: str) -> Joined:
    if text.partition(":")[0] in ("pasta", "slirp4netns"):
        from lamina.network.usermode import read_words

        program, words = read_words(text)
        return Joined(program, words=words)
    if "=" not in text:
        return Joined(read_network(text))
    said: dict[str, Any] = {"alias": []}
    for part in text.split(","):
        key, equals, given = part.partition("=")
        if not equals or not given or key not in _LONG:
            raise InvalidInput(
                f"run: network {text}: {part!r} is not understood", remedy=f"name=NETWORK, {', '.join(_LONG)}"
            )
        if key == "alias":
            said["alias"].append(given)
        elif said.setdefault(_LONG[key], given) != given:
            raise InvalidInput(f"run: network {text}: {key} is said twice", remedy="say it once")
    if "name" not in said:
        raise InvalidInput(f"run: network {text}: it has no name", remedy="name=NETWORK,ip=...")
    found = Joined(read_network(said["name"]), *_of_place(said, "alias"))
    if is_linkless(found.network) and not found.is_plain:
        raise InvalidInput(
            f"run: network {text}: {found.network} has no link to which that could be given",
            remedy=f"--network {found.network} alone, or the name of a network",
        )
    return found


def read_joined(network: str, asked: dict[str, Any]) -> Joined:
    """A network to connect to: *asked* has ip, ip6, mac_address and aliases. Raises InvalidInput."""
    return Joined(network, *_of_place(asked, "aliases"))


def joined_by(options: Options) -> tuple[Joined, ...]:
    """The networks of a container with these options, which has a link."""
    wanted = options.networking or NOTHING
    return (Joined(options.network, wanted.addresses, wanted.mac, wanted.aliases), *wanted.joined)


def read_network(text: str) -> str:
    """A network's name, or what else it may be. Raises InvalidInput, Unsupported."""
    import os

    from lamina.store.networks import check_name

    if text in ("none", "host"):
        return text
    if text == "default":
        return "bridge"
    kind, colon, rest = text.partition(":")
    if colon and kind in ("container", "ns") and rest:
        if kind == "ns" and not rest.startswith("/"):
            raise InvalidInput(
                f"run: network {text}: not an absolute path", remedy="such as ns:/run/netns/blue"
            )
        return text
    if colon and kind == "cni" and rest:
        return text
    if colon:
        raise InvalidInput(
            f"run: network {text}: not understood",
            remedy="container:NAME, ns:PATH, cni:NAME, pasta:OPTION,... or slirp4netns:KEY=VALUE,...",
        )
    if text in ("pasta", "slirp4netns"):
        return text
    check_name(text)
    if os.geteuid():
        raise Unsupported(
            f"run: network {text}: only root's containers can be in a network of several",
            remedy="pasta, slirp4netns, none or host",
        )
    return text


# -- in the record of a container


def record_of(networking: Networking) -> dict[str, Any]:
    """*networking* as a record keeps it: what was not asked is not in it."""
    found = {key: given for key, given in vars(networking).items() if given != getattr(NOTHING, key)}
    for key in ("addresses", "dns"):
        if key in found:
            found[key] = [address_text(address) for address in found[key]]
    if networking.mac:
        found["mac"] = networking.mac.hex()
    if networking.egress is not None:
        from lamina.engine.egress import written

        found["egress"] = [written(allowed) for allowed in networking.egress]
    if networking.joined:
        found["joined"] = [
            [
                one.network,
                [address_text(address) for address in one.addresses],
                one.mac.hex(),
                list(one.aliases),
            ]
            for one in networking.joined
        ]
    if networking.published:
        found["published"] = [
            [
                one.protocol,
                address_text(one.host) if one.host else "",
                one.host_port,
                one.port,
                *([one.last] if one.last else ()),
            ]
            for one in networking.published
        ]
    return found


def of_record(kept: dict[str, Any], asked: dict[str, Any]) -> Networking:
    """The way back, for the container of the record *asked*. Raises Unsupported for what a newer Lamina wrote."""
    if unknown := sorted(kept.keys() - set(Networking.__match_args__)):
        raise Unsupported(
            f"start container {str(asked.get('id'))[:12]}: its record has {', '.join(unknown)}, "
            "which this Lamina does not know",
            remedy="use the newer Lamina that made it",
        )
    found = dict(kept)
    for key in ("addresses", "dns"):
        found[key] = tuple(packed(text) for text in kept.get(key, ()))
    found["mac"] = bytes.fromhex(kept.get("mac", ""))
    found["published"] = tuple(
        Published(protocol, packed(host) if host else b"", *ports)
        for protocol, host, *ports in kept.get("published", ())
    )
    found["hosts"] = tuple((name, address) for name, address in kept.get("hosts", ()))
    for key in ("search", "resolver_options", "aliases", "words", "exposed"):
        found[key] = tuple(kept.get(key, ()))
    if kept.get("egress") is not None:
        from lamina.engine.egress import read_allowed

        found["egress"] = tuple(read_allowed(text) for text in kept["egress"])
    found["joined"] = tuple(
        Joined(network, tuple(packed(text) for text in addresses), bytes.fromhex(mac), tuple(aliases))
        for network, addresses, mac, aliases in kept.get("joined", ())
    )
    return Networking(**found)
