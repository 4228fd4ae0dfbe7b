"""Networks of a CNI configuration of this host: its plugins make the container's links, as they do for others.

https://github.com/containernetworking/cni/blob/main/SPEC.md (1.1.0), CONVENTIONS.md for capabilities. What a DEL needs
(the configuration as it was, what was asked, the result) is written down before the first ADD, in the store's
`networks/.cni/<id>.json`: so whoever cleans up calls the same plugins, also where the configuration is another one by
then, or gone, and where the container is gone because they failed.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from time import monotonic, sleep

from lamina.engine.cni_lists import CHECKED, PLUGINS, PREFIX, WITH_STATUS, directories, find
from lamina.engine.cni_mistakes import is_mistaken
from lamina.engine.cni_plugins import ADD, CHECK, DEL, DEVICE, PATIENCE, STATUS, call, program
from lamina.errors import Corrupt, InvalidInput, LaminaError, Unsupported
from lamina.linux.descriptors import LOCK_EX, LOCK_NB, flock
from lamina.linux.fd import owned
from lamina.network.model import Attachment, Network
from lamina.network.subnet import packed, subnet_of, text_of
from lamina.store import record
from lamina.store.lock import Lock
from lamina.store.root import make_directory
from lamina.store.trace import point
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from lamina.engine.networking import Networking
    from lamina.network.model import Published
    from lamina.store.containers import Home
    from lamina.store.root import Store

CNI = "cni"
PLACE = b"/.cni"  # below the store's networks
_BETWEEN = 0.05  # seconds between two looks whether a plugin has ended


def runtime_config(wanted: Networking, published: Sequence[Published]) -> dict[str, Any]:
    """What was asked of the network, in the words of CONVENTIONS.md, by the capability that it takes."""
    found: dict[str, Any] = {}
    if published:
        found["portMappings"] = [
            {
                "hostPort": port.host_port,
                "containerPort": port.port,
                "protocol": port.protocol,
                **({"hostIP": text_of(port.host)} if any(port.host) else {}),
            }
            for port in published
        ]
    if wanted.addresses:
        found["ips"] = [text_of(address) for address in wanted.addresses]
    if wanted.mac:
        found["mac"] = wanted.mac.hex(":")
    if wanted.aliases:
        found["aliases"] = list(wanted.aliases)
    return found


OPTIONS = {"portMappings": "-p", "ips": "--ip", "mac": "--mac-address", "aliases": "--network-alias"}


def check_capabilities(config: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raises InvalidInput for something that no plugin of the configuration does."""
    able = {key for one in config["plugins"] for key, has in (one.get("capabilities") or {}).items() if has}
    for capability in asked.keys() - able:
        raise InvalidInput(
            f"run: network {PREFIX}{config['name']}: {OPTIONS[capability]}: none of its plugins has the capability "
            f"{capability}",
            remedy=f"leave it out, or have its configuration say it: "
            f'"capabilities": {{"{capability}": true}}',
        )


def check(name: str, wanted: Networking) -> None:
    """Whether there is such a configuration, that can do what is *wanted*. Raises as `find`, Unsupported."""
    if os.geteuid():
        raise Unsupported(
            f"run: network {PREFIX}{name}: CNI's plugins take root", remedy="take --network pasta"
        )
    check_capabilities(find(name), runtime_config(wanted, wanted.published))


def place(home: Home, title: str, name: str) -> Attachment:
    """The container's place, as it is to be. Raises as `find`, Unsupported without root."""
    network = Network(PREFIX + name, "", (), (), (), b"", maker=CNI)
    return Attachment(home.id, title, network, 0, (), b"", DEVICE)


# -- while the container's first process waits


def connect(home: Home, attachment: Attachment, wanted: Networking, pid: int) -> Attachment:
    """ADD: the place with what the plugins say of it. Raises LaminaError with a plugin's words, Unsupported."""
    config = find(attachment.network.name.removeprefix(PREFIX))
    asked = runtime_config(wanted, attachment.published)
    check_capabilities(config, asked)
    if wanted.dns or wanted.search:
        asked["dns"] = {"servers": [text_of(one) for one in wanted.dns], "searches": list(wanted.search)}
    kept = {"config": config, "path": directories(PLUGINS), "asked": asked, "result": None}
    for plugin in config["plugins"]:
        program(kept, plugin["type"])  # before anything is made
    netns = f"/proc/{pid}/ns/net"
    result: dict[str, Any] | None = None
    with _alone(home) as held:
        if config["cniVersion"] >= WITH_STATUS:
            for plugin in config["plugins"]:
                call(held, kept, plugin, STATUS, "", "", None)
        _write(home, kept)
        for plugin in config["plugins"]:
            result = call(held, kept, plugin, ADD, home.id, netns, result) or result
            _write(home, {**kept, "result": result})
    return _placed(attachment, result or {})


def _placed(attachment: Attachment, result: dict[str, Any]) -> Attachment:
    """The first address of each family, and whose gateway; the MAC of the device inside; whom to ask for names."""
    own: dict[int, tuple[bytes, int]] = {}
    gateways: dict[int, bytes] = {}
    try:
        for one in result.get("ips") or ():
            text, _, prefix = str(one["address"]).partition("/")
            address = packed(text)
            own.setdefault(len(address), (address, _prefix(prefix, len(address) * 8)))
            if one.get("gateway"):
                gateways.setdefault(len(address), packed(str(one["gateway"])))
        inside = [one for one in result.get("interfaces") or () if one.get("sandbox")]
        mac = bytes.fromhex(str(inside[-1].get("mac") or "").replace(":", "")) if inside else b""
        resolver = _resolver(result.get("dns") or {})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LaminaError(
            f"connect container {attachment.owner[:12]}: the result of network {attachment.network.name} is damaged: "
            f"{error}"
        ) from None
    network = replace(
        attachment.network,
        subnets=tuple(subnet_of(address, prefix) for address, prefix in own.values()),
        gateways=tuple(gateways[length] for length in own if length in gateways),
        host=tuple(gateways[length] for length in own if length in gateways),
        resolver=resolver if any(resolver) else (),
    )
    return replace(
        attachment, network=network, addresses=tuple(address for address, _ in own.values()), mac=mac
    )


def _prefix(text: str, bits: int) -> int:
    """Raises ValueError."""
    if not text:
        return bits
    if not (text.isascii() and text.isdigit() and int(text) <= bits):
        raise ValueError(f"{text[:100]!r} is no prefix of {bits} bits")
    return int(text)


def _resolver(dns: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    """What resolv.conf is to say: each word is one there, and nothing else. Raises ValueError, TypeError."""
    own = [dns["domain"]] if dns.get("domain") else []
    lists = dns.get("nameservers") or [], dns.get("search") or own, dns.get("options") or []
    if not all(isinstance(words, list) for words in lists):
        raise ValueError("what is in its dns is no list")
    found = tuple(map(tuple, lists))
    for word in (word for words in found for word in words):
        if not (isinstance(word, str) and word and word.isprintable() and " " not in word):
            raise ValueError(f"{str(word)[:100]!r} is no word of a resolv.conf")
    return found


# -- afterwards


def withdraw(home: Home) -> None:
    """DEL, the last plugin first, of a container whose network namespace is gone: then they are told none. Raises
    LaminaError where one fails; then the rest is not asked (SPEC), and what is written down stays for the next time.
    """
    places = _place(home), _place(home, b".lock")
    if not any(map(os.path.lexists, places)):
        return
    with _alone(home) as held:
        if (kept := _kept(home)) is not None:  # else nothing was to be added so far
            try:
                for plugin in reversed(kept["config"]["plugins"]):
                    call(held, kept, plugin, DEL, home.id, "", kept["result"])
            except (KeyError, TypeError, AttributeError) as error:
                raise _damaged(home, str(error)) from None
        for place in places:
            with suppress(FileNotFoundError):
                os.unlink(place)


def complaint(home: Home, pid: int) -> str:
    """CHECK: what the plugins find wrong with the network of the container, whose first process is *pid*."""
    kept = _kept(home)
    if kept is None or kept.get("result") is None:
        return ""
    config = kept["config"]
    if config.get("disableCheck") or config["cniVersion"] < CHECKED:
        return ""
    with _alone(home) as held:
        for plugin in config["plugins"]:
            try:
                call(held, kept, plugin, CHECK, home.id, f"/proc/{pid}/ns/net", kept["result"])
            except LaminaError as failure:
                if not is_mistaken(plugin, kept["result"], failure.message):
                    return failure.message
    return ""


def added(store: Store) -> list[tuple[str, str]]:
    """(container's id, network) of each that plugins were told of, and not yet told that it is gone."""
    found = []
    try:
        entries = os.listdir(store.networks + PLACE)
    except FileNotFoundError:
        return []
    for entry in entries:
        if not entry.endswith(b".json"):
            continue
        try:
            kept = record.read(store.networks + PLACE, entry)
        except Corrupt:  # who is to mend it says so
            kept = {}
        if kept is not None:
            config = kept.get("config")
            name = str((config if isinstance(config, dict) else {}).get("name") or "?")
            found.append((os.fsdecode(entry)[: -len(".json")], PREFIX + name))
    return found


def _place(home: Home, ending: bytes = b".json") -> bytes:
    return home.store.networks + PLACE + b"/" + home.id.encode() + ending


def _kept(home: Home) -> dict[str, Any] | None:
    try:
        return record.read(home.store.networks + PLACE, home.id.encode() + b".json")
    except Corrupt as error:
        raise _damaged(home, error.message) from None


def _damaged(home: Home, why: str) -> Corrupt:
    place = os.fsdecode(_place(home))
    return Corrupt(
        f"container {home.shown}: what was noted of its CNI network is damaged: {why}",
        remedy=f"give back by hand what the plugins made for it, and remove {place}",
    )


def _write(home: Home, kept: dict[str, Any]) -> None:
    directory = home.store.networks + PLACE
    make_directory(directory, 0o700, exist_ok=True)
    record.write(directory, home.id.encode() + b".json", kept)


@contextmanager
def _alone(home: Home) -> Iterator[int]:
    """One call at a time for a container (SPEC): a lock, which plugins have open as well. So who comes after somebody
    who was killed waits for the plugin that outlives him, as long as one may take.
    """
    directory = home.store.networks + PLACE
    make_directory(directory, 0o700, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with Lock(owned(os.open, _place(home, b".lock"), flags, 0o600)) as held:
        end = monotonic() + PATIENCE
        while True:
            try:
                flock(held.fd, LOCK_EX | LOCK_NB)
                break
            except BlockingIOError:
                if monotonic() >= end:  # it has left somebody behind, who stays
                    break
            point("cni: wait for a plugin")
            sleep(_BETWEEN)
        yield held.fd
