"""What was asked of a container's limits, rights and surroundings, in docker's words: `HostConfig` of `inspect`."""

from __future__ import annotations

from lamina.engine.keeping import said_of
from lamina.engine.options import CONTAINER, NO, OVER, TMPFS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

NANO_CPUS = 10_000  # billionths of a processor in a microsecond of a period of 100 ms, which `--cpus` has
# docker's word, the field of `further.Further`, and what docker says where nothing was asked
_PLAIN: tuple[tuple[str, str, Any], ...] = (
    ("Privileged", "privileged", False),
    ("GroupAdd", "group_add", None),
    ("OomScoreAdj", "oom_score_adj", 0),
    ("OomKillDisable", "oom_kill_disable", False),
    ("ShmSize", "shm_size", 64 << 20),
    ("MemorySwap", "memory_swap", 0),
    ("MemoryReservation", "memory_reservation", 0),
    ("MemorySwappiness", "memory_swappiness", None),
    ("CpuShares", "cpu_shares", 0),
    ("CpuPeriod", "cpu_period", 0),
    ("CpusetCpus", "cpuset_cpus", ""),
    ("CpusetMems", "cpuset_mems", ""),
    ("BlkioWeight", "blkio_weight", 0),
    ("DeviceCgroupRules", "device_rules", None),
)
_TYPED = frozenset(
    (
        "rw",
        "shared",
        "rshared",
        "slave",
        "rslave",
        "private",
        "nosuid",
        "nodev",
        "noexec",
        "suid",
        "dev",
        "exec",
        "idmap",
    )
)
_THROTTLES = {
    "throttleReadBpsDevice": "BlkioDeviceReadBps",
    "throttleWriteBpsDevice": "BlkioDeviceWriteBps",
    "throttleReadIOPSDevice": "BlkioDeviceReadIOps",
    "throttleWriteIOPSDevice": "BlkioDeviceWriteIOps",
}


def host_config(asked: dict[str, Any]) -> dict[str, Any]:
    """That part of the document of the container whose record is *asked*."""
    options = said_of(asked)
    further = options.get("further") or {}
    return {
        "LogConfig": _log_config(asked),
        "Init": bool(options.get("init")),
        "AutoRemove": bool(asked.get("rm")),
        "RestartPolicy": _policy(options.get("restart")),
        "Lifetime": options.get("lifetime") or CONTAINER,
        "Timeout": options.get("timeout") or 0,
        "Memory": options.get("memory") or 0,
        "NanoCpus": (options.get("cpu_quota") or 0) * NANO_CPUS,
        "CpuQuota": further.get("cpu_quota") or options.get("cpu_quota") or 0,
        "PidsLimit": options.get("pids_limit") or 0,
        "ReadonlyRootfs": bool(options.get("read_only")),
        **{word: further.get(field) or otherwise for word, field, otherwise in _PLAIN},
        **_rights(further, bool(options.get("new_privileges"))),
        **_devices(further),
        "Ulimits": _ulimits(further.get("ulimits") or ()),
        "Sysctls": dict(further.get("sysctls") or ()),
        "Annotations": dict(further.get("annotations") or ()),
        **_volumes(asked, options.get("volumes_from") or ()),
        "NetworkMode": options.get("network") or "",
        **_networking(options.get("networking") or {}),
        **_namespaces(asked, further),
    }


def _log_config(asked: dict[str, Any]) -> dict[str, Any]:
    kept = asked.get("log") or {}
    return {"Type": kept.get("driver") or "local", "Config": kept.get("options") or {}}


def _policy(given: Any) -> dict[str, Any]:
    name, most = given or (NO, 0)
    return {"Name": name, "MaximumRetryCount": most}


def _rights(further: dict[str, Any], new_privileges: bool) -> dict[str, Any]:
    said = [f"label={part}" for part in further.get("label") or ()]
    if further.get("apparmor"):
        said.append(f"apparmor={further['apparmor']}")
    seccomp = further.get("seccomp") or "builtin"
    if seccomp != "builtin":
        said.append(f"seccomp={seccomp}")
    said += [f"{key}={':'.join(further[key])}" for key in ("mask", "unmask") if further.get(key)]
    if new_privileges and not further.get("privileged"):
        said.append("no-new-privileges=false")
    return {
        "CapAdd": further.get("cap_add") or None,
        "CapDrop": further.get("cap_drop") or None,
        "SecurityOpt": said or None,
    }


def _devices(further: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "Devices": [
            {"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": access}
            for source, target, access in further.get("devices") or ()
        ],
        "BlkioWeightDevice": [
            {"Path": path, "Weight": weight} for path, weight in further.get("blkio_weight_device") or ()
        ],
        **{word: [] for word in _THROTTLES.values()},
    }
    for field, path, rate in further.get("throttles") or ():
        found[_THROTTLES[field]].append({"Path": path, "Rate": rate})
    names = list(further.get("cdi") or ())
    found["DeviceRequests"] = [{"Driver": "cdi", "DeviceIDs": names}] if names else None
    return found


def _ulimits(given: Iterable[Any]) -> list[dict[str, Any]]:
    return [
        {"Name": name.removeprefix("RLIMIT_").lower(), "Soft": soft, "Hard": hard}
        for name, soft, hard in given
    ]


def _volumes(asked: dict[str, Any], others: Iterable[Sequence[str]]) -> dict[str, Any]:
    """The container's own volumes are no binds there: `Config.Volumes` has them."""
    binds, memory = [], {}
    for volume in asked.get("volumes") or ():
        if volume["kind"] == TMPFS:
            memory[volume["target"]] = ",".join(volume["options"])
        elif not is_own_volume(asked, volume):
            place = f"{volume.get('name') or volume['source']}:{volume['target']}"
            words = volume_words(volume)
            binds.append(":".join([place, ",".join(words)] if words else [place]))
    from_others = [":".join(filter(None, one)) for one in others]
    return {"Binds": binds or None, "Tmpfs": memory or None, "VolumesFrom": from_others or None}


def is_own_volume(asked: dict[str, Any], volume: dict[str, Any]) -> bool:
    """Whether nobody gave it a name: it goes with the container whose record is *asked*."""
    return str(volume.get("name") or "").startswith(f"{asked.get('id')}-")


def volume_words(volume: dict[str, Any]) -> list[str]:
    """The options of one in the record's words, as they were typed behind its second colon, but for their order and
    what is usual anyhow.
    """
    options = volume["options"]
    usual = ("nosuid", "nodev") if volume.get("name") else ()
    words = ["ro"] if {"ro", "rro"} & set(options) else []
    words += [word for word in options if word in _TYPED and word not in usual]
    if not volume.get("copy", True):
        words.append("nocopy")
    words += filter(None, [volume.get("relabel")])
    if volume.get("chown"):
        words.append("U")
    return [*words, "O"] if volume["kind"] == OVER else words


def _networking(kept: dict[str, Any]) -> dict[str, Any]:
    bindings: dict[str, list[dict[str, str]]] = {}
    for protocol, host, host_port, port, *last in kept.get("published") or ():
        place = {"HostIp": host, "HostPort": "-".join(str(one) for one in (host_port, *last) if one)}
        bindings.setdefault(f"{port}/{protocol}", []).append(place)
    return {
        "PortBindings": bindings,
        "PublishAllPorts": bool(kept.get("publish_all")),
        "Dns": list(kept.get("dns") or ()),
        "DnsOptions": list(kept.get("resolver_options") or ()),
        "DnsSearch": list(kept.get("search") or ()),
        "ExtraHosts": [f"{name}:{address}" for name, address in kept.get("hosts") or ()] or None,
    }


def _namespaces(asked: dict[str, Any], further: dict[str, Any]) -> dict[str, Any]:
    """What it shares, in docker's words, and its ids in podman's."""
    maps = asked.get("id_maps") or {}
    lines = {
        name: [f"{line['containerID']}:{line['hostID']}:{line['size']}" for line in maps.get(key) or ()]
        for name, key in (("UidMap", "uidMappings"), ("GidMap", "gidMappings"))
    }
    return {
        "IpcMode": further.get("ipc") or "private",
        "PidMode": further.get("pid") or "",
        "UTSMode": further.get("uts") or "",
        "CgroupnsMode": further.get("cgroupns") or "private",
        "UsernsMode": further.get("userns") or ("private" if asked.get("own_ids") else ""),
        "IDMappings": lines if maps else None,
    }
