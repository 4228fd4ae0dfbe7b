"""The options of `lamina run` that are rarely given: loaded when one of them is, and for help."""

from __future__ import annotations

from lamina.argv.declare import Option

RIGHTS, SHARED, DEVICES, FINER = "Rights", "What is shared with the host", "Devices", "Finer limits"
HEALTH, NETWORK = "Its health", "Network"

OPTIONS: tuple[Option, ...] = (
    Option(
        "publish",
        "p",
        "[[IP:]HOSTPORT:]PORT",
        "Let a port of the host lead to one of it; PORT/udp, and ranges",
        NETWORK,
        multiple=True,
    ),
    Option("publish-all", "P", "", "Publish every port that is exposed, at any that is free", NETWORK),
    Option(
        "expose", "", "PORT", "Say at which port it listens; PORT/udp, and ranges", NETWORK, multiple=True
    ),
    Option("ip", "", "ADDRESS", "Its IPv4 address in its network", NETWORK),
    Option("ip6", "", "ADDRESS", "Its IPv6 address in its network", NETWORK),
    Option("mac-address", "", "ADDRESS", "The link-layer address of its device", NETWORK),
    Option(
        "network-alias",
        "",
        "NAME",
        "A further name of it in its network",
        NETWORK,
        multiple=True,
        also="net-alias",
    ),
    Option(
        "egress",
        "",
        "deny|allow=...",
        "Reach nothing, or only that: example.org:443,10.0.0.0/8,...",
        NETWORK,
        multiple=True,
    ),
    Option("dns", "", "ADDRESS", "A name server, instead of the host's", NETWORK, multiple=True),
    Option(
        "dns-search", "", "DOMAIN", "A domain in which short names are looked for", NETWORK, multiple=True
    ),
    Option(
        "dns-option", "", "OPTION", "An option of /etc/resolv.conf", NETWORK, multiple=True, also="dns-opt"
    ),
    Option(
        "add-host",
        "",
        "NAME:ADDRESS",
        "A line of /etc/hosts; host-gateway is the host",
        NETWORK,
        multiple=True,
    ),
    Option(
        "health-cmd", "", "COMMAND", "Tells by its exit status whether it is well; none: no check", HEALTH
    ),
    Option("health-interval", "", "TIME", "Between two checks: 30s (default)", HEALTH),
    Option("health-timeout", "", "TIME", "What a check may take: 30s (default)", HEALTH),
    Option("health-retries", "", "NUMBER", "It is unhealthy after so many failures: 3 (default)", HEALTH),
    Option("health-start-period", "", "TIME", "Failures do not count so long: 0s (default)", HEALTH),
    Option("health-start-interval", "", "TIME", "Between two checks until then: 5s (default)", HEALTH),
    Option(
        "health-on-failure",
        "",
        "ACTION",
        "What is done when it is unhealthy: none (default), kill, restart or stop",
        HEALTH,
        choices=("none", "kill", "restart", "stop"),
    ),
    Option("no-healthcheck", "", "", "Not the image's health check either", HEALTH),
    Option("cap-add", "", "NAME", "Give a capability, or ALL", RIGHTS, multiple=True),
    Option("cap-drop", "", "NAME", "Take a capability away, or ALL", RIGHTS, multiple=True),
    Option(
        "privileged", "", "", "Give every capability and device, hide nothing, filter no system call", RIGHTS
    ),
    Option(
        "security-opt",
        "",
        "OPTION",
        "no-new-privileges=false, seccomp=FILE|unconfined, apparmor=, label=, mask=, unmask=, systempaths=unconfined",
        RIGHTS,
        multiple=True,
    ),
    Option(
        "group-add", "", "GROUP", "A further group of the process: a name or number", RIGHTS, multiple=True
    ),
    Option(
        "userns",
        "",
        "MODE",
        "host, auto[:size=], keep-id[:uid=,gid=,size=] or nomap: whose ids it has",
        RIGHTS,
    ),
    Option("uidmap", "", "INSIDE:HOST:SIZE", "Which ids here its users are", RIGHTS, multiple=True),
    Option("gidmap", "", "INSIDE:HOST:SIZE", "The same of groups", RIGHTS, multiple=True),
    Option("uts", "", "MODE", "private (default), host, or container:NAME", SHARED, complete="container"),
    Option(
        "ipc",
        "",
        "MODE",
        "private (default), shareable, container:NAME, host, or none: without /dev/shm",
        SHARED,
        complete="container",
    ),
    Option("pid", "", "MODE", "private (default), host, or container:NAME", SHARED, complete="container"),
    Option("cgroupns", "", "MODE", "private (default), or host", SHARED),
    Option(
        "cgroup-manager",
        "",
        "MANAGER",
        "Who makes its control groups: cgroupfs (default), or systemd: a scope",
        FINER,
        choices=("cgroupfs", "systemd"),
    ),
    Option("domainname", "", "NAME", "The NIS domain name inside", SHARED),
    Option(
        "time-offset", "", "CLOCK=SECONDS", "Set monotonic or boottime forward or back", SHARED, multiple=True
    ),
    Option(
        "sysctl", "", "NAME=VALUE", "A kernel parameter of the container's namespaces", SHARED, multiple=True
    ),
    Option(
        "device", "", "DEVICE[:INSIDE][:rwm]", "A device of the host, or a CDI name", DEVICES, multiple=True
    ),
    Option("device-cgroup-rule", "", "RULE", "Allow devices: 'c 42:* rmw'", DEVICES, multiple=True),
    Option("gpus", "", "all|NUMBER|device=ID", "GPUs that CDI files describe", DEVICES),
    Option("ulimit", "", "NAME=SOFT[:HARD]", "A resource limit: nofile=1024:2048", FINER, multiple=True),
    Option("shm-size", "", "SIZE", "The size of /dev/shm (64m)", FINER),
    Option(
        "oom-score-adj", "", "NUMBER", "Rather kill this (1000) or never (-1000) when memory is out", FINER
    ),
    Option("oom-kill-disable", "", "", "Let it wait instead when its own memory is out (cgroup v1)", FINER),
    Option("memory-swap", "", "SIZE", "Memory and swap together; -1: no limit of swap", FINER),
    Option("memory-reservation", "", "SIZE", "What it is left with when memory is short", FINER),
    Option("memory-swappiness", "", "NUMBER", "0 to 100 (cgroup v1)", FINER),
    Option("cpu-shares", "c", "NUMBER", "Its weight against others (1024)", FINER),
    Option("cpu-period", "", "MICROSECONDS", "The period of --cpu-quota", FINER),
    Option("cpu-quota", "", "MICROSECONDS", "Processor time in each period", FINER),
    Option("cpuset-cpus", "", "LIST", "The processors it runs on: 0-2,4", FINER),
    Option("cpuset-mems", "", "LIST", "The memory nodes it uses", FINER),
    Option("blkio-weight", "", "NUMBER", "Its weight on disks: 10 to 1000", FINER),
    Option("blkio-weight-device", "", "DISK:WEIGHT", "The same on one disk", FINER, multiple=True),
    Option("device-read-bps", "", "DEVICE:RATE", "Read at most so many bytes a second", FINER, multiple=True),
    Option(
        "device-write-bps", "", "DEVICE:RATE", "Write at most so many bytes a second", FINER, multiple=True
    ),
    Option(
        "device-read-iops", "", "DEVICE:RATE", "Read at most so many times a second", FINER, multiple=True
    ),
    Option(
        "device-write-iops", "", "DEVICE:RATE", "Write at most so many times a second", FINER, multiple=True
    ),
    Option(
        "annotation", "", "NAME=VALUE", "Note something in the runtime specification", FINER, multiple=True
    ),
)

# what is called otherwise in Python, where a list has a plural
PLURALS = {
    "network_alias": "network_aliases",
    "dns_option": "dns_options",
    "add_host": "add_hosts",
    "sysctl": "sysctls",
    "device": "devices",
    "device_cgroup_rule": "device_cgroup_rules",
    "ulimit": "ulimits",
    "annotation": "annotations",
    "time_offset": "time_offsets",
}


def asked(values: dict[str, object]) -> dict[str, object]:
    """The engine's options among *values*, the parsed command line; what was not typed is not asked for."""
    return {
        PLURALS.get(option.key, option.key): values[option.key]
        for option in OPTIONS
        if values.get(option.key) not in (None, (), False)
    }
