"""From what was asked and what the image says to the OCI runtime specification: one pure function.

The defaults are Docker's: its mounts, its capabilities, its masked and read-only paths, its environment.
https://github.com/opencontainers/runtime-spec/blob/main/config.md
"""

from __future__ import annotations

import os

from lamina.engine.options import OVER, PERIOD, TMPFS
from lamina.errors import InvalidInput, Unsupported
from lamina.runtime.capabilities import DEFAULT_CAPABILITIES
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from lamina.engine.id_maps import IdMaps
    from lamina.engine.options import Options, Volume
    from lamina.runtime.users import User

    Spec = dict[str, Any]

OCI_VERSION = "1.2.0"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# moby, oci/defaults.go
MASKED = (
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
    "/sys/devices/virtual/powercap",
)  # fmt: skip
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
TTY_GROUP = 5
SHM_SIZE = 64 << 20
# of the first process alone: its words, its terminal; and what of `linux` each process gets
_OWN = ("args", "terminal", "consoleSize")
_OF_EACH = ("uidMappings", "gidMappings", "seccomp", "personality", "memoryPolicy")


@value
class ImageConfig:
    """What an image says about its containers; Docker's words. `volumes` are paths; `rest` is what a start does not
    need and a record keeps (exposed_ports, stop_signal, healthcheck, shell).
    """

    env: tuple[str, ...] = (f"PATH={PATH}",)
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    workdir: str = "/"
    user: str = ""
    volumes: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    rest: tuple[tuple[str, Any], ...] = ()


@value
class Circumstances:
    """What a specification depends on apart from what was asked and the image.

    `cgroup` is the path below each hierarchy, `hostname` the host's own, `size` the terminal's (rows, columns).
    `volumes` are all there will be, of those of the store the paths; `files` are pairs of a path inside and the file
    that is shown there. `mapped`: what belongs to root on this machine's disks and is shown inside is to belong to the
    container's root. `shared_name` is the name of a uts namespace that is not its own.
    `tty_group`: there is a group 5 where we are, which terminals are given to.
    """

    identity: str
    cgroup: str
    hostname: str
    maps: IdMaps | None = None
    seccomp: dict[str, Any] | None = None
    size: tuple[int, int] | None = None
    volumes: tuple[Volume, ...] = ()
    files: tuple[tuple[bytes, bytes], ...] = ()
    mapped: bool = False
    shared_name: str = ""
    tty_group: bool = True


def arguments(command: tuple[str, ...], options: Options, config: ImageConfig) -> tuple[str, ...]:
    """The words to execute: the entrypoint, and the command or the image's own. Raises InvalidInput for none."""
    # another entrypoint makes the image's cmd meaningless, as in Docker
    own = options.entrypoint is None
    words = config.entrypoint + (command or config.cmd) if own else (options.entrypoint or ()) + command
    if not words or not words[0]:
        raise InvalidInput("run: no command is given", remedy="name one behind the image")
    return words


def translate(
    words: tuple[str, ...], options: Options, config: ImageConfig, user: User, around: Circumstances
) -> Spec:
    """The specification of a container. Raises Unsupported for a user that the id maps do not have."""
    maps = around.maps
    hostname = options.hostname or hostname_of(options, around)
    spec: Spec = {
        "ociVersion": OCI_VERSION,
        "process": _process(words, options, config, user, hostname, around),
        "root": {"path": "rootfs", "readonly": options.read_only},
        "hostname": hostname,
        "mounts": _all_mounts(options, around),
        "linux": {
            "namespaces": _namespaces(options, maps),
            "resources": resources_of(options),
            "cgroupsPath": around.cgroup,
            "maskedPaths": list(MASKED),
            "readonlyPaths": list(READ_ONLY),
        },
    }
    if maps is not None:
        spec["linux"].update(maps.spec())
    if around.seccomp is not None:
        spec["linux"]["seccomp"] = around.seccomp
    return spec


def hostname_of(options: Options, around: Circumstances) -> str:
    """What it is called where nobody says."""
    return around.shared_name or (around.hostname if options.network == "host" else around.identity[:12])


def _process(
    words: tuple[str, ...],
    options: Options,
    config: ImageConfig,
    user: User,
    hostname: str,
    around: Circumstances,
) -> dict[str, Any]:
    full = list(DEFAULT_CAPABILITIES)
    process = {
        "terminal": options.tty,
        "user": _user(user, around.maps),
        "args": list(words),
        "env": _environment(options, config, user, hostname),
        "cwd": options.workdir or config.workdir or "/",
        # nobody but root holds capabilities to begin with; the bounding set is what a set-uid program could regain
        "capabilities": {
            "bounding": full,
            "effective": [] if user.uid else full,
            "permitted": [] if user.uid else full,
            "inheritable": [],
            "ambient": [],
        },
        "noNewPrivileges": not options.new_privileges,
    }
    if options.tty and around.size is not None:
        process["consoleSize"] = {"height": around.size[0], "width": around.size[1]}
    return process


def _user(user: User, maps: IdMaps | None) -> dict[str, Any]:
    groups = user.groups
    if maps is not None:
        if not maps.has(user.uid, user.gid):
            raise Unsupported(
                f"run as user {user.uid}:{user.gid}: the container has no such ids",
                remedy="give the user subordinate ids ('lamina doctor'), or map more with --userns",
            )
        # with a single id setgroups(2) is off, and ids that are not mapped cannot be had
        groups = tuple(gid for gid in groups if maps.whole and maps.has(0, gid))
    found: dict[str, Any] = {"uid": user.uid, "gid": user.gid}
    if groups:
        found["additionalGids"] = list(groups)
    return found


def _environment(options: Options, config: ImageConfig, user: User, hostname: str) -> list[str]:
    """The image's variables under the defaults' names, and what was asked over both."""
    found = variables(config.env, options.env, hostname=hostname, tty=options.tty)
    found.setdefault("HOME", user.home)
    return [f"{name}={text}" for name, text in found.items()]


def variables(
    of_image: Iterable[str], asked: Iterable[tuple[str, str]], *, hostname: str, tty: bool
) -> dict[str, str]:
    """Those of a container, but for HOME, which is its user's."""
    found = {"PATH": PATH, "HOSTNAME": hostname}
    if tty:
        found["TERM"] = "xterm"
    for entry in of_image:
        name, equals, text = entry.partition("=")
        if equals:
            found[name] = text
        else:  # as in Docker, a name alone takes the variable away
            found.pop(name, None)
    found.update((name, text) for name, text in asked)
    return found


def _mounts(options: Options, maps: IdMaps | None, tty_group: bool) -> list[dict[str, Any]]:
    terminals = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    if tty_group if maps is None else maps.has(0, TTY_GROUP):
        terminals.append(f"gid={TTY_GROUP}")
    closed = ["nosuid", "noexec", "nodev"]
    system = _mount("/sys", "sysfs", "sysfs", [*closed, "ro"])
    if maps is not None and options.network == "host":
        # sysfs shows the devices of a network namespace; only who owns that may mount it anew
        system = _mount("/sys", "bind", "/sys", ["rbind", "rslave", "rro", *closed])
    return [
        _mount("/proc", "proc", "proc", closed),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", "devpts", terminals),
        system,
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", ["ro", *closed]),
        _mount("/dev/mqueue", "mqueue", "mqueue", closed),
        _mount("/dev/shm", "tmpfs", "shm", [*closed, "mode=1777", f"size={SHM_SIZE}"]),
    ]


def _mount(destination: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": options}


def _all_mounts(options: Options, around: Circumstances) -> list[dict[str, Any]]:
    """The defaults, but those in whose place something was asked for; then what was asked for, parents first."""
    taken = {os.fsdecode(volume.target) for volume in around.volumes}
    default = [
        mount
        for mount in _mounts(options, around.maps, around.tty_group)
        if mount["destination"] not in taken
        and not ("/dev" in taken and mount["destination"].startswith("/dev/"))
    ]
    how = ["rbind", "rprivate", *(["ro"] if options.read_only else []), *(["idmap"] if around.mapped else [])]
    asked = [
        _mount(os.fsdecode(target), "bind", os.fsdecode(source), how)
        for target, source in around.files
        if os.fsdecode(target) not in taken
    ]
    asked += map(_volume_mount, around.volumes)
    return [*default, *sorted(asked, key=lambda mount: mount["destination"].count("/"))]


def _volume_mount(volume: Volume) -> dict[str, Any]:
    kind = {TMPFS: "tmpfs", OVER: "overlay"}.get(volume.kind, "bind")
    return _mount(os.fsdecode(volume.target), kind, os.fsdecode(volume.source), list(volume.options))


def _namespaces(options: Options, maps: IdMaps | None) -> list[dict[str, str]]:
    kinds = ["mount", "uts", "ipc", "pid", "cgroup"]
    if options.network != "host":
        kinds.append("network")
    if maps is not None:
        kinds.append("user")
    return [{"type": kind} for kind in kinds]


def resources_of(options: Options) -> dict[str, Any]:
    """The specification's `linux.resources` of the limits that are often asked for; the others: `amend.limits`."""
    resources: dict[str, Any] = {}
    if options.memory is not None:
        # as in Docker: as much swap again as memory
        resources["memory"] = {"limit": options.memory, "swap": 2 * options.memory}
    if options.cpu_quota is not None:
        resources["cpu"] = {"quota": options.cpu_quota, "period": PERIOD}
    if options.pids_limit is not None:
        resources["pids"] = {"limit": options.pids_limit}
    return resources


def joinable(
    spec: Spec, options: Options, config: ImageConfig, default_filter: Sequence[str] | None
) -> dict[str, Any]:
    """The part of state.json for `exec`: the specification's `process` and, of its `linux`, what each process gets.

    *default_filter* are the capabilities by which the default seccomp profile went, None where that is not in effect. A
    home directory that is merely that of the user is left out: another user has another one.
    """
    process = {key: part for key, part in spec["process"].items() if key not in _OWN}
    if not _has_home(options, config):
        process["env"] = [entry for entry in process["env"] if not entry.startswith("HOME=")]
    linux = {key: spec["linux"][key] for key in _OF_EACH if spec["linux"].get(key)}
    if default_filter is not None:
        linux["defaultFilter"] = sorted(default_filter)
    return {"process": process, "linux": linux}


def _has_home(options: Options, config: ImageConfig) -> bool:
    return any(name == "HOME" for name, _ in options.env) or any(e.startswith("HOME=") for e in config.env)
