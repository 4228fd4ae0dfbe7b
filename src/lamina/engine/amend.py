"""The specification of a container for which more than usual was asked (`further.Further`)."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from lamina.engine.grants import BUILTIN, UNCONFINED
from lamina.errors import InvalidInput, KernelError, NotFound, Unsupported
from lamina.runtime.capabilities import ALL, adjust
from lamina.runtime.users import group_number

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from lamina.engine.further import Device, Further
    from lamina.engine.id_maps import IdMaps
    from lamina.runtime.users import ReadFile

    Spec = dict[str, Any]

# what SELinux calls a container's process where no type is given (container-selinux), in order; the level is its own
SELINUX = {"user": "system_u", "role": "system_r", "type": "container_t", "level": ""}
_DEVICE_KINDS = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}
# of a directory of devices; /dev itself has some hundred
MOST_ENTRIES = 10_000


def amend(
    spec: Spec,
    further: Further,
    *,
    maps: IdMaps | None,
    read: ReadFile,
    joined: dict[str, str],
    identity: str,
    shown: dict[str, str] | None = None,
) -> None:
    """Change *spec*, which is what is usual, into what was asked for, of the container *identity*.

    *maps* are the user namespace's, None for none. *read* reads files of the image. *joined* are paths of other
    containers' namespaces, by kind, *shown* of mounts of theirs, by where they go. Raises Unsupported, InvalidInput,
    NotFound.
    """
    _capabilities(spec, further)
    _confine(spec, further, identity)
    _groups(spec, further, maps, read)
    _namespaces(spec, further, maps, joined)
    for place, source in (shown or {}).items():
        _bind_over(spec, place, ["rbind", "rprivate", "nosuid", "noexec", "nodev"], source)
    limits(spec["linux"]["resources"], further)
    _devices(spec, further, maps)
    process, linux = spec["process"], spec["linux"]
    if further.domainname:
        spec["domainname"] = further.domainname
    if further.ulimits:
        process["rlimits"] = [{"type": n, "soft": soft, "hard": hard} for n, soft, hard in further.ulimits]
    if further.oom_score_adj is not None:
        process["oomScoreAdj"] = further.oom_score_adj
    if further.sysctls:
        linux["sysctl"] = dict(further.sysctls)
    if further.annotations:
        spec["annotations"] = dict(further.annotations)
    if further.cdi:
        from lamina.engine.cdi import inject

        inject(spec, further.cdi)


# -- rights


def _capabilities(spec: Spec, further: Further) -> None:
    process = spec["process"]
    if further.privileged:
        kept = adjust(("ALL",), known=_own_bounding())
    elif further.cap_add or further.cap_drop:
        kept = adjust(further.cap_add, further.cap_drop, known=_own_bounding())
    else:
        return
    root = not process["user"]["uid"]
    process["capabilities"] = {
        "bounding": list(kept),
        "effective": list(kept) if root else [],
        "permitted": list(kept) if root else [],
        "inheritable": [],
        "ambient": [],
    }


def _own_bounding() -> tuple[str, ...]:
    """What this process could give at most."""
    from lamina.linux.capabilities import CAPABILITIES
    from lamina.linux.procfs import bounding_capabilities

    ours = bounding_capabilities()
    return tuple(name for number, name in enumerate(CAPABILITIES) if ours >> number & 1)


def _confine(spec: Spec, further: Further, identity: str) -> None:
    """Masks, and the labels of security modules. See `profile_of` for seccomp."""
    linux, process = spec["linux"], spec["process"]
    if further.privileged:
        linux["maskedPaths"], linux["readonlyPaths"] = [], []
        _writable_system(spec)
    if further.apparmor and not further.privileged and further.apparmor != UNCONFINED:
        process["apparmorProfile"] = further.apparmor
    parts = dict(label.partition(":")[::2] for label in further.label)
    if parts and "disable" not in parts and not further.privileged:
        from lamina.engine.relabelling import file_label, level_of

        label = ":".join({**SELINUX, "level": level_of(identity), **parts}.values())
        process["selinuxLabel"] = label
        linux["mountLabel"] = file_label(label, shared=False)  # or its own /dev/shm would not be for it
    for field in ("maskedPaths", "readonlyPaths"):
        kept = [] if ALL in further.unmask else [path for path in linux[field] if path not in further.unmask]
        linux[field] = kept
    linux["maskedPaths"] += [path for path in further.mask if path not in linux["maskedPaths"]]


def _writable_system(spec: Spec) -> None:
    """/sys and the control groups of a privileged container are writable, as in docker."""
    for mount in spec["mounts"]:
        if mount["destination"] in ("/sys", "/sys/fs/cgroup"):
            mount["options"] = [option for option in mount["options"] if option not in ("ro", "rro")]


def profile_of(further: Further, bounding: tuple[str, ...]) -> dict[str, Any] | None:
    """The seccomp profile that was asked for, in the specification's form; None for the built-in one, {} for none."""
    if further.seccomp == BUILTIN:
        return {} if further.privileged else None
    if further.seccomp == UNCONFINED:
        return {}
    from lamina.document import decode
    from lamina.runtime.seccomp.profile import resolve_profile

    return resolve_profile(decode(further.seccomp.encode(), "seccomp profile"), bounding)


def _groups(spec: Spec, further: Further, maps: IdMaps | None, read: ReadFile) -> None:
    if not further.group_add:
        return
    user = spec["process"]["user"]
    groups = list(user.get("additionalGids") or [])
    for name in further.group_add:
        gid = group_number(name, read)
        if maps is not None and not (maps.whole and maps.has(0, gid)):
            raise Unsupported(
                f"run: group {name}: the container has no group {gid}",
                remedy="give the user subordinate ids ('lamina doctor'), or map more with --userns",
            )
        if gid not in groups:
            groups.append(gid)
    user["additionalGids"] = groups


# -- namespaces


def _namespaces(spec: Spec, further: Further, maps: IdMaps | None, joined: dict[str, str]) -> None:
    linux = spec["linux"]
    shared = {kind for kind in ("uts", "ipc", "pid") if getattr(further, kind) == "host"}
    if further.cgroupns == "host":
        shared.add("cgroup")
    namespaces = [entry for entry in linux["namespaces"] if entry["type"] not in shared]
    for entry in namespaces:
        if entry["type"] in joined:
            entry["path"] = joined[entry["type"]]
    if further.time_offsets:
        namespaces.append({"type": "time"})
        linux["timeOffsets"] = {
            clock: {"secs": nanoseconds // 10**9, "nanosecs": nanoseconds % 10**9}
            for clock, nanoseconds in further.time_offsets
        }
    linux["namespaces"] = namespaces
    if "user" in joined:  # whose ids it has, the other container's namespace says
        for key in ("uidMappings", "gidMappings"):
            linux.pop(key, None)
    if "ipc" in joined and maps is not None and "user" not in joined:
        # who does not own that namespace may not mount its queues
        spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] != "/dev/mqueue"]
    if "uts" in shared or "uts" in joined:
        if further.domainname:
            raise InvalidInput(f"run: a domain name and --uts {further.uts} contradict each other")
        spec.pop("hostname", None)
    if further.pid not in ("", "private"):
        # what it leaves running is found by its group, as no pid namespace ends with it
        linux["resources"].setdefault("pids", {"limit": -1})
    if "pid" in shared and maps is not None:
        # a new procfs shows a pid namespace that its mounter owns (proc(5)); the host's is bound
        _bind_over(spec, "/proc", ["rbind", "rslave", "nosuid", "noexec", "nodev"])
    _shared_memory(spec, further, maps)


def _shared_memory(spec: Spec, further: Further, maps: IdMaps | None) -> None:
    if further.ipc == "host":
        for place in ("/dev/shm", "/dev/mqueue"):
            if os.path.isdir(place):
                _bind_over(spec, place, ["rbind", "rprivate", "nosuid", "noexec", "nodev"])
            elif maps is not None:  # who does not own the host's queues may not mount them either
                spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] != place]
    elif further.ipc == "none":
        spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] != "/dev/shm"]
    elif further.shm_size is not None:
        for mount in spec["mounts"]:
            if mount["destination"] == "/dev/shm" and mount["type"] == "tmpfs":
                kept = [option for option in mount["options"] if not option.startswith("size=")]
                mount["options"] = [*kept, f"size={further.shm_size}"]


def _bind_over(spec: Spec, place: str, options: list[str], source: str = "") -> None:
    for mount in spec["mounts"]:
        if mount["destination"] == place and mount["type"] != "bind":
            mount.update({"type": "bind", "source": source or place, "options": options})


# -- limits


def limits(resources: dict[str, Any], further: Further) -> None:
    """Add to *resources* the limits that are rarely asked for. Raises InvalidInput for those that contradict others."""
    memory = {
        "reservation": further.memory_reservation,
        "swappiness": further.memory_swappiness,
        "disableOOMKiller": further.oom_kill_disable or None,
    }
    limit = (resources.get("memory") or {}).get("limit")
    if further.memory_swap is not None:
        if further.memory_swap != -1 and limit is None:
            raise InvalidInput("run: memory swap without a memory limit", remedy="give --memory as well")
        if further.memory_swap != -1 and limit is not None and further.memory_swap < limit:
            raise InvalidInput("run: memory swap is less than memory", remedy="it is the sum of both")
        memory["swap"] = further.memory_swap
    if limit is not None and (further.memory_reservation or 0) > limit:
        raise InvalidInput("run: memory reservation is more than memory")
    cpu = {
        "shares": further.cpu_shares or None,
        "period": further.cpu_period,
        "quota": further.cpu_quota or None,
        "cpus": further.cpuset_cpus or None,
        "mems": further.cpuset_mems or None,
    }
    if (resources.get("cpu") or {}).get("quota") and (further.cpu_quota or further.cpu_period):
        raise InvalidInput(
            "run: cpus and cpu quota or period contradict each other", remedy="give one of them"
        )
    _merge(resources, "memory", memory)
    _merge(resources, "cpu", cpu)
    block: dict[str, Any] = {"weight": further.blkio_weight or None}
    if further.blkio_weight_device:
        block["weightDevice"] = [{**_numbers(p), "weight": w} for p, w in further.blkio_weight_device]
    for field, path, rate in further.throttles:
        block.setdefault(field, []).append({**_numbers(path), "rate": rate})
    _merge(resources, "blockIO", block)


def _merge(resources: dict[str, Any], name: str, fields: dict[str, Any]) -> None:
    found = {key: what for key, what in fields.items() if what is not None}
    if found:
        resources[name] = {**(resources.get(name) or {}), **found}


def _numbers(path: str) -> dict[str, int]:
    found = _look(path)
    return {"major": os.major(found.st_rdev), "minor": os.minor(found.st_rdev)}


# -- devices


def _look(path: str) -> os.stat_result:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise NotFound(f"run: device {path}: there is none") from None
    except OSError as error:
        raise KernelError("look at device", error.errno or 0, path) from None
    return found


def _devices(spec: Spec, further: Further, maps: IdMaps | None) -> None:
    """Nodes, and the rules of the control group that let them be used: without these every device could be."""
    nodes: list[dict[str, Any]] = []
    rules: list[dict[str, Any]] = []
    for device, found in _wanted(further):
        for node in found:
            nodes.append(node)
            allowed: dict[str, Any] = {key: node[key] for key in ("type", "major", "minor")}
            rules.append({"allow": True, **allowed, "access": device.access})
    for text in further.device_rules:
        kind, numbers, access = text.split(" ")
        major, _, minor = numbers.partition(":")
        rule: dict[str, Any] = {"allow": True, "type": kind, "access": access}
        rule.update({k: int(n) for k, n in (("major", major), ("minor", minor)) if n != "*"})
        rules.append(rule)
    if nodes:
        unique: dict[str, dict[str, Any]] = {node["path"]: node for node in nodes}
        spec["linux"]["devices"] = list(unique.values())
    if maps is not None:
        return  # nobody may make or limit devices there, and nodes are the host's, which it guards itself
    makes_nodes = "CAP_MKNOD" in spec["process"]["capabilities"]["bounding"]
    if further.privileged:
        spec["linux"]["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
    elif rules or makes_nodes:
        spec["linux"]["resources"]["devices"] = [{"allow": False, "access": "rwm"}, *rules]


def _wanted(further: Further) -> Iterable[tuple[Device, list[dict[str, Any]]]]:
    """The devices that it gets, with their nodes. Raises NotFound for one that was named and is not there."""
    if further.privileged:
        for device in _all_devices():
            try:
                yield device, _nodes(device)
            except NotFound:  # unplugged meanwhile
                continue
    for device in further.devices:
        yield device, _nodes(device)


def _nodes(device: Device) -> list[dict[str, Any]]:
    """A node; or of a directory all that are in it, with their names. Raises InvalidInput for anything else."""
    found = _look(device.source)
    if stat.S_ISDIR(found.st_mode):
        return list(_nodes_in(device))
    node = node_of(device.source, device.target)
    if node is None:
        raise InvalidInput(
            f"run: device {device.source}: not a device", remedy="to show a file, use --volume"
        )
    return [node]


def _nodes_in(device: Device) -> Iterable[dict[str, Any]]:
    """All below a directory. Raises InvalidInput for one with so much in it that no directory of devices is meant: from
    "/" on it would be everything that there is, /proc too.
    """
    looked = 0
    for above, directories, files in os.walk(device.source):
        looked += len(directories) + len(files)
        if looked > MOST_ENTRIES:
            raise InvalidInput(
                f"run: device {device.source}: a directory with more than {MOST_ENTRIES} entries, not one of devices",
                remedy="name the device, or a directory such as /dev/snd",
            )
        for file in sorted(files):
            path = f"{above}/{file}"
            if node := node_of(path, device.target + path[len(device.source) :]):
                yield node


def node_of(source: str, target: str) -> dict[str, Any] | None:
    """The device node *source* of this host as the specification says it, called *target*; None if it is none."""
    try:
        found = os.stat(source)
    except OSError:
        return None
    kind = _DEVICE_KINDS.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        return None
    return {
        "path": target,
        "type": kind,
        "major": os.major(found.st_rdev),
        "minor": os.minor(found.st_rdev),
        "fileMode": stat.S_IMODE(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
    }


def _all_devices() -> Iterable[Device]:
    """All of this host's but terminals and what every container has of its own."""
    from lamina.engine.further import Device

    own = {
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/dev/fd",
        "/dev/console",
        "/dev/ptmx",
        "/dev/core",
        "/dev/hugepages",
    }
    usual = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}
    for entry in sorted(os.scandir("/dev"), key=lambda entry: entry.name):
        if entry.path in own | usual or entry.is_symlink():
            continue
        try:
            kind = stat.S_IFMT(entry.stat().st_mode)
        except FileNotFoundError:
            continue
        if kind in (stat.S_IFDIR, stat.S_IFCHR, stat.S_IFBLK):
            yield Device(entry.path, entry.path)
