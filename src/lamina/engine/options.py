"""What can be asked of a container, as values: what people give (RunOptions), and the same checked (Options)."""

from __future__ import annotations

from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike
    from typing import TypedDict

    from lamina.engine.further import Further
    from lamina.engine.health.checks import Healthcheck
    from lamina.engine.networking import Networking

    AnyPath = str | bytes | PathLike[str] | PathLike[bytes]

    class RunOptions(TypedDict, total=False):
        """The options of a container; each as the option of `docker run` of that name."""

        name: str | None
        rm: bool
        hostname: str | None
        env: Sequence[str] | Mapping[str, str | None]
        workdir: AnyPath | None
        user: str | int | None
        memory: str | int | None
        cpus: str | float | None
        pids_limit: str | int | None
        volumes: Sequence[str | tuple[AnyPath, AnyPath] | tuple[AnyPath, AnyPath, str]]
        mounts: Sequence[str | Mapping[str, str | bool]]
        tmpfs: Sequence[str] | Mapping[str, str]
        volumes_from: Sequence[str]
        network: str | Sequence[str]
        network_aliases: Sequence[str]
        egress: str | Sequence[str]
        publish: Sequence[str]
        publish_all: bool
        expose: Sequence[str]
        ip: str
        ip6: str
        mac_address: str
        dns: Sequence[str]
        dns_search: Sequence[str]
        dns_options: Sequence[str]
        add_hosts: Sequence[str]
        tty: bool
        interactive: bool
        read_only: bool
        init: bool
        entrypoint: str | Sequence[str] | None
        labels: Sequence[str] | Mapping[str, str]
        pull: str
        platform: str | None
        layer_limits: Mapping[str, int | str]
        security_opt: Sequence[str]
        # what follows is read by engine.further and engine.grants
        cap_add: Sequence[str]
        cap_drop: Sequence[str]
        privileged: bool
        devices: Sequence[str]
        device_cgroup_rules: Sequence[str]
        gpus: str
        group_add: Sequence[str]
        domainname: str
        uts: str
        ipc: str
        pid: str
        cgroupns: str
        cgroup_manager: str
        userns: str
        uidmap: Sequence[str]
        gidmap: Sequence[str]
        ulimits: Sequence[str] | Mapping[str, str | int]
        sysctls: Sequence[str] | Mapping[str, str | int]
        shm_size: str | int
        oom_score_adj: int | str
        oom_kill_disable: bool
        memory_swap: str | int
        memory_reservation: str | int
        memory_swappiness: int | str
        cpu_shares: int | str
        cpu_period: int | str
        cpu_quota: int | str
        cpuset_cpus: str
        cpuset_mems: str
        blkio_weight: int | str
        blkio_weight_device: Sequence[str]
        device_read_bps: Sequence[str]
        device_write_bps: Sequence[str]
        device_read_iops: Sequence[str]
        device_write_iops: Sequence[str]
        annotations: Sequence[str] | Mapping[str, str]
        time_offsets: Sequence[str] | Mapping[str, str | float]
        log_driver: str | None
        log_opt: Sequence[str] | Mapping[str, str]
        restart: str | None
        stop_signal: str | int | None
        stop_timeout: int | None
        durability: str
        auto_snapshot: bool
        # whether it is well (engine.health)
        health_cmd: str | Sequence[str] | None
        health_interval: str | float | None
        health_timeout: str | float | None
        health_retries: int | str | None
        health_start_period: str | float | None
        health_start_interval: str | float | None
        health_on_failure: str | None
        no_healthcheck: bool

    class LifeOptions(RunOptions, total=False):
        """Those that a container has besides which is made first and started then."""

        timeout: float | None
        lifetime: str


PERIOD = 100_000  # microseconds


# when a container that ended is started again
NO, ON_FAILURE, ALWAYS, UNLESS_STOPPED = "no", "on-failure", "always", "unless-stopped"
RESTARTS = (NO, ON_FAILURE, ALWAYS, UNLESS_STOPPED)
# whose end ends a container
CONTAINER, OWNER = "container", "owner"
# of what a container writes: whether a crash of the machine may lose it
DURABILITIES = NONE, FULL = "none", "full"
# what a Volume is
BIND, VOLUME, TMPFS, OVER = "bind", "volume", "tmpfs", "over"


@value
class Volume:
    """Something from elsewhere inside, at the absolute path `target`; `options` are in the mount's words.

    BIND shows the host's file or directory `source`, made before if it is missing and `create`. VOLUME is the store's
    volume called `source` (b"": one of the container's own, which goes with it; b"-N": that of its volume number N,
    which may be mounted at several places), filled with what the image has at its place if it is empty and `copy`;
    `subpath` is what of it is shown. TMPFS is new and in memory. OVER shows the host's
    directory `source` under a layer that takes what is written, and goes with the container. `chown`: the source
    is given to the container's user before. `relabel`: "z" or "Z", the SELinux label that its files get, for all
    containers or for this one, if its process has one.
    """

    source: bytes
    target: bytes
    options: tuple[str, ...]
    kind: str = BIND
    create: bool = True
    copy: bool = True
    chown: bool = False
    subpath: bytes = b""
    relabel: str = ""


def is_own(volume: Volume) -> bool:
    """Whether it is a volume without a name: the container's own."""
    return volume.kind == VOLUME and volume.source[:1] in (b"", b"-")


@value
class Options:
    """The options of one container, checked. `env` holds (name, value) in the order given; numbers are in the
    kernel's units: bytes, microseconds of CPU in each PERIOD, processes; None where nothing was asked. `volumes`
    are those of `volumes`, `mounts` and `tmpfs`; `volumes_from` pairs of a container and what was said of them
    ("ro,z"). `network` is none, host, the first network's name, container:NAME, ns:PATH, pasta, slirp4netns or
    cni:NAME. What is rarely asked is in `networking` and `further`.

    `log` is a driver and its options, None where nothing was asked. `restart` is a policy (RESTARTS) and how often at
    most, 0 for no end. `stop_timeout` are the seconds between the stop signal and the end, -1 for no end; `timeout`
    those that it may run at all. `durability` is one of DURABILITIES, "" for what is usual: NONE with `rm`, else FULL.
    With `auto_snapshot` there is a snapshot after each further command.
    With the `lifetime` OWNER it is removed when the process that started it ends.
    `health` is what was asked of its health check; the image may have one. `warnings` are said when it is made.
    """

    name: str | None = None
    rm: bool = False
    hostname: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    workdir: str | None = None
    user: str | None = None
    memory: int | None = None
    cpu_quota: int | None = None
    pids_limit: int | None = None
    volumes: tuple[Volume, ...] = ()
    volumes_from: tuple[tuple[str, str], ...] = ()
    network: str = "none"
    networking: Networking | None = None
    tty: bool = False
    interactive: bool = False
    read_only: bool = False
    init: bool = False
    entrypoint: tuple[str, ...] | None = None
    labels: tuple[tuple[str, str], ...] = ()
    pull: str = "missing"
    platform: str | None = None
    layer_limits: tuple[tuple[str, int | str], ...] = ()
    new_privileges: bool = False
    further: Further | None = None
    log: tuple[str, tuple[tuple[str, str], ...]] | None = None
    restart: tuple[str, int] = ("no", 0)
    stop_signal: int | None = None
    stop_timeout: int | None = None
    durability: str = ""
    auto_snapshot: bool = False
    timeout: float | None = None
    lifetime: str = CONTAINER
    health: Healthcheck | None = None
    warnings: tuple[str, ...] = ()

    @property
    def volatile(self) -> bool:
        """Whether a crash of the machine may lose what it writes."""
        return self.durability == NONE if self.durability else self.rm


def is_linked(network: str) -> bool:
    """Whether a container with this `network` gets a link of its own, made while it waits."""
    return network not in ("none", "host") and (":" not in network or network.startswith("cni:"))


def by_others(network: str) -> bool:
    """Whether that link is made by a program that is not ours: no bridge, rule or lease of ours is meant."""
    return network in ("pasta", "slirp4netns") or network.startswith("cni:")


@value
class Io:
    """What was asked of the standard streams: descriptors, PIPE, STDOUT, DEVNULL, or None to inherit."""

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None
    data: bytes | None = None
    timeout: float | None = None
    forward_signals: bool = False
