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

from lamina.document import decode, encode
from lamina.engine.cni_mistakes import is_mistaken
from lamina.errors import (
    Corrupt,
    InvalidInput,
    KernelError,
    LaminaError,
    NotFound,
    Unsupported,
)
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
PREFIX = "cni:"
DEVICE = "eth0"
# where configurations and plugins are, and what says otherwise (cnitool's words, libcni)
CONFIGURATIONS, PLUGINS = ("NETCONFPATH", ("/etc/cni/net.d",)), ("CNI_PATH", ("/opt/cni/bin", "/usr/lib/cni"))
VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
_CHECKED, _WITH_STATUS = "0.4.0", "1.1.0"  # the first that have CHECK, and STATUS
_LISTS, _SINGLES, _PARTS = (".conflist",), (".conf", ".json"), (".conf",)  # in this order, as libcni has it
_BOOLEANS = {"true": True, "false": False}
_LARGEST = 1 << 20
PATIENCE = 60.0  # seconds for one plugin: some ask a DHCP server
_BETWEEN = 0.05  # seconds between two looks whether one has ended
_SIGKILL = 9
ADD, DEL, CHECK, STATUS = "ADD", "DEL", "CHECK", "STATUS"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def directories(of: tuple[str, tuple[str, ...]]) -> list[str]:
    """Where to look for them."""
    variable, usual = of
    given = [one for one in os.environ.get(variable, "").split(":") if one.startswith("/")]
    return given or list(usual)


def find(name: str) -> dict[str, Any]:
    """The configuration list called *name*: the first of them in the order of libcni, which is that of the files'
    names, lists before single configurations.

    Raises NotFound, InvalidInput for one that is none, Unsupported for its version.
    """
    known, unread = [], []
    for path in _files():
        found = _read(path)
        if found is None:
            unread.append(path)
            continue
        if found.get("name") == name:
            return _checked(found, path)
        known.append(str(found.get("name") or ""))
    where = ", ".join(directories(CONFIGURATIONS))
    raise NotFound(
        f"network {PREFIX}{name}: there is no such CNI configuration in {where}",
        remedy="; ".join(
            [f"there is {', '.join(sorted(filter(None, known)))}"] * any(known)
            + [f"{path} is no configuration that can be read" for path in unread]
        )
        or "put NAME.conflist there, or say in NETCONFPATH where there are some",
    )


def _files() -> list[str]:
    found = []
    for directory in directories(CONFIGURATIONS):
        for endings in (_LISTS, _SINGLES):
            found += _files_in(directory, endings)
    return found


def _files_in(directory: str, endings: tuple[str, ...]) -> list[str]:
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    paths = (f"{directory}/{name}" for name in names if name.endswith(endings))
    return [path for path in paths if not os.path.isdir(path)]


def _read(path: str) -> dict[str, Any] | None:
    """None of one that cannot be read: another one may be meant."""
    try:
        with open(path, "rb") as file:
            found = decode(file.read(_LARGEST), path)
    except (OSError, InvalidInput):
        return None
    if path.endswith(".conflist") or "plugins" in found:
        return found
    lifted: dict[str, Any] = {key: found[key] for key in ("cniVersion", "name") if key in found}
    return {**lifted, "plugins": [found]}


def _checked(found: dict[str, Any], path: str) -> dict[str, Any]:
    own = {key: _truth(found, key, path) for key in ("loadOnlyInlinedPlugins", "disableCheck")}
    plugins = found.get("plugins", [])
    if path.endswith(_LISTS) and not own["loadOnlyInlinedPlugins"] and isinstance(plugins, list):
        plugins = [*plugins, *map(_part, _files_in(f"{os.path.dirname(path)}/{found['name']}", _PARTS))]
    if not isinstance(plugins, list) or not plugins or not all(isinstance(one, dict) for one in plugins):
        raise InvalidInput(
            f"network {PREFIX}{found['name']}: {path} has no list of plugins",
            remedy='"plugins": [{"type": "bridge", ...}], as the specification of CNI has it',
        )
    for one in plugins:
        kind = one.get("type")
        if not isinstance(kind, str) or not kind or "/" in kind or kind in (".", ".."):
            raise InvalidInput(
                f"network {PREFIX}{found['name']}: {path}: {kind!r} is no name of a plugin",
                remedy='"type" is the name of a program in $CNI_PATH, such as "bridge", and no path',
            )
        if not isinstance(one.get("capabilities") or {}, dict):
            raise InvalidInput(
                f"network {PREFIX}{found['name']}: {path}: the capabilities of {kind} are no object",
                remedy='such as {"portMappings": true}, or leave it out',
            )
    others = found.get("cniVersions") or []
    offered = [found.get("cniVersion"), *(others if isinstance(others, list) else ())]
    version = max((one for one in offered if one in VERSIONS), default="")
    if not version:
        raise Unsupported(
            f"network {PREFIX}{found['name']}: {path} has cniVersion {found.get('cniVersion')!r}",
            remedy=f"supported: {', '.join(VERSIONS)}",
        )
    return {**found, **own, "plugins": plugins, "cniVersion": version}


def _truth(found: dict[str, Any], key: str, path: str) -> bool:
    """As libcni takes it: true, or "true"."""
    said = found.get(key, False)
    truth = _BOOLEANS.get(said.lower()) if isinstance(said, str) else said
    if not isinstance(truth, bool):
        raise InvalidInput(
            f"network {PREFIX}{found['name']}: {path}: {key} is neither true nor false",
            remedy=f'"{key}": true, or leave it out',
        )
    return truth


def _part(path: str) -> dict[str, Any]:
    """A plugin that is a file of its own."""
    try:
        with open(path, "rb") as file:
            return decode(file.read(_LARGEST), path)
    except OSError as error:
        raise KernelError("read", error.errno or 0, path) from error


# -- what is asked of the plugins


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
        _program(kept, plugin["type"])  # before anything is made
    netns = f"/proc/{pid}/ns/net"
    result: dict[str, Any] | None = None
    with _alone(home) as held:
        if config["cniVersion"] >= _WITH_STATUS:
            for plugin in config["plugins"]:
                _call(held, kept, plugin, STATUS, "", "", None)
        _write(home, kept)
        for plugin in config["plugins"]:
            result = _call(held, kept, plugin, ADD, home.id, netns, result) or result
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
                    _call(held, kept, plugin, DEL, home.id, "", kept["result"])
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
    if config.get("disableCheck") or config["cniVersion"] < _CHECKED:
        return ""
    with _alone(home) as held:
        for plugin in config["plugins"]:
            try:
                _call(held, kept, plugin, CHECK, home.id, f"/proc/{pid}/ns/net", kept["result"])
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


# -- one plugin


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


def _program(kept: Mapping[str, Any], kind: str) -> str:
    for directory in kept["path"]:
        if os.access(path := f"{directory}/{kind}", os.X_OK):
            return path
    raise NotFound(
        f"network {PREFIX}{kept['config']['name']}: its plugin {kind} is not in {', '.join(kept['path'])}",
        remedy="install the package containernetworking-plugins, or set CNI_PATH",
    )


def _call(
    held: int,
    kept: Mapping[str, Any],
    plugin: Mapping[str, Any],
    command: str,
    owner: str,
    netns: str,
    previous: dict[str, Any] | None,
) -> dict[str, Any] | None:
    """What it answers. Raises LaminaError with its words, NotFound, KernelError."""
    import subprocess

    config, kind = kept["config"], str(plugin["type"])
    given = {key: said for key, said in plugin.items() if key != "capabilities"}
    given.update(cniVersion=config["cniVersion"], name=config["name"])
    able = plugin.get("capabilities") or {}
    if asked := {key: said for key, said in kept["asked"].items() if able.get(key)}:
        given["runtimeConfig"] = asked
    if previous is not None and (command != DEL or config["cniVersion"] >= _CHECKED):
        given["prevResult"] = previous
    environment = {"PATH": _PATH, "CNI_COMMAND": command, "CNI_PATH": ":".join(kept["path"])}
    if command != STATUS:
        environment.update(CNI_CONTAINERID=owner, CNI_NETNS=netns, CNI_IFNAME=DEVICE, CNI_ARGS="")
    what = f"network {PREFIX}{config['name']}: plugin {kind}: {command}"
    try:
        status, out, err = _execute(_program(kept, kind), encode(given).encode(), environment, held)
    except subprocess.TimeoutExpired:
        raise LaminaError(f"{what}: not done within {PATIENCE:g} s, and killed") from None
    except OSError as error:
        if isinstance(error, LaminaError):
            raise
        raise KernelError("execute", error.errno or 0, kind) from error
    if status:
        raise LaminaError(f"{what}: {_words(out, err) or _ended(status)}")
    if command != ADD:
        return None
    return decode(out[:_LARGEST], f"the answer of the plugin {kind}")


def _execute(program: str, told: bytes, environment: dict[str, str], held: int) -> tuple[int, bytes, bytes]:
    """(status, what it said, its errors). In a session of its own: a Ctrl-C meant for us is not for it, and with it go
    those whom it has begun (IPAM) where it is not done in time.
    """
    from subprocess import PIPE, Popen

    how: Any = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE, "env": environment, "cwd": "/"}
    with Popen([program], start_new_session=True, pass_fds=(held,), **how) as process:
        try:
            out, err = process.communicate(told, PATIENCE)
        except BaseException:
            if process.returncode is None:  # not waited for so far: the number is still its own
                os.killpg(process.pid, _SIGKILL)
            raise
    return process.returncode, out, err


def _words(out: bytes, err: bytes) -> str:
    """What it says went wrong (SPEC, Error)."""
    try:
        said = decode(out, "error")
        words = [str(said[key]) for key in ("msg", "details") if said.get(key)]
        if words:
            return f"{'; '.join(words)} (code {said.get('code')})"
    except LaminaError:
        pass
    return err.decode(errors="replace").strip()[-500:] or out.decode(errors="replace").strip()[-500:]


def _ended(status: int) -> str:
    return f"it ended with {status}" if status > 0 else f"it was ended by signal {-status}"
