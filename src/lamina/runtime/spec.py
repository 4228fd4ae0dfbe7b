"""The OCI runtime specification's config.json, checked before anything is made of it.

`check` says what is wrong and where: wrong types, unknown words, missing fields, contradictions. It opens nothing of
what the document names. Unknown properties are passed over, as the specification demands (config.md, Extensibility).
https://github.com/opencontainers/runtime-spec/blob/main/config.md and schema/*.json there, which a test compares with
the shapes below.
"""

from __future__ import annotations

from lamina.errors import InvalidInput, Unsupported
from lamina.runtime.bundle import Bundle, Joined, Wiring
from lamina.runtime.plan import compile_plan
from lamina.runtime.plan.devices import devices_of
from lamina.runtime.plan.mounts import places_of
from lamina.runtime.plan.namespaces import FLAGS
from lamina.runtime.plan.options import PROPAGATION
from lamina.runtime.plan.rootfs import nodes_to_bind
from lamina.runtime.plan.scheduling import (
    DOMAINS,
    IO_CLASSES,
    MEMORY_FLAGS,
    MEMORY_MODES,
    POLICIES,
    RESERVED,
    SCHED_FLAGS,
    affinity_steps,
)
from lamina.runtime.rlimits import effective_limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Spec = dict[str, Any]

STRING, BOOLEAN, ANY = "string", "boolean", "any"
UINT16, UINT32, UINT64 = (0, (1 << 16) - 1), (0, (1 << 32) - 1), (0, (1 << 64) - 1)
INT32, INT64 = (-(1 << 31), (1 << 31) - 1), (-(1 << 63), (1 << 63) - 1)
NOBODYS_ID = UINT32[1]
FILE_MODE = (0, 0o177777)  # the schema says 0777; engines pass st_mode, the kind of file and all
POSITIVE = (1, (1 << 63) - 1)
STRINGS = [STRING]

# A shape: STRING, BOOLEAN, a range of integers, a set of words, [shape of each item], {field: shape}. A field with "!"
# is required, "*" is any field.
MAPPINGS = [{"containerID!": UINT32, "hostID!": UINT32, "size!": UINT32}]
HOOKS = [{"path!": STRING, "args": STRINGS, "env": STRINGS, "timeout": POSITIVE}]
MOMENTS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
MOUNT = {
    "destination!": STRING,
    "source": STRING,
    "type": STRING,
    "options": STRINGS,
    "uidMappings": MAPPINGS,
    "gidMappings": MAPPINGS,
}
PROCESS = {
    "args": STRINGS,
    "commandLine": STRING,
    "consoleSize": {"height!": UINT64, "width!": UINT64},
    "cwd!": STRING,
    "env": STRINGS,
    "terminal": BOOLEAN,
    "user": {"uid": UINT32, "gid": UINT32, "umask": UINT32, "additionalGids": [UINT32], "username": STRING},
    "capabilities": {
        "bounding": STRINGS, "permitted": STRINGS, "effective": STRINGS, "inheritable": STRINGS, "ambient": STRINGS,
    },
    "apparmorProfile": STRING,
    "oomScoreAdj": (-1000, 1000),
    "selinuxLabel": STRING,
    "ioPriority": {"class!": frozenset(IO_CLASSES), "priority": INT32},
    "noNewPrivileges": BOOLEAN,
    "scheduler": {
        "policy!": frozenset((*POLICIES, *RESERVED)),
        "nice": INT32,
        "priority": INT32,
        "flags": [frozenset(SCHED_FLAGS)],
        "runtime": UINT64,
        "deadline": UINT64,
        "period": UINT64,
    },
    "rlimits": [{"type!": STRING, "soft!": UINT64, "hard!": UINT64}],
    "execCPUAffinity": {"initial": STRING, "final": STRING},
}  # fmt: skip
DEVICE_NUMBERS = {"major!": INT64, "minor!": INT64}
THROTTLES = [{**DEVICE_NUMBERS, "rate": UINT64}]
RESOURCES = {
    "unified": {"*": STRING},
    "devices": [{"allow!": BOOLEAN, "type": STRING, "major": INT64, "minor": INT64, "access": STRING}],
    "pids": {"limit!": INT64},
    "blockIO": {
        "weight": UINT16,
        "leafWeight": UINT16,
        "throttleReadBpsDevice": THROTTLES,
        "throttleWriteBpsDevice": THROTTLES,
        "throttleReadIOPSDevice": THROTTLES,
        "throttleWriteIOPSDevice": THROTTLES,
        "weightDevice": [{**DEVICE_NUMBERS, "weight": UINT16, "leafWeight": UINT16}],
    },
    "cpu": {
        "cpus": STRING, "mems": STRING, "period": UINT64, "quota": INT64, "burst": UINT64, "realtimePeriod": UINT64,
        "realtimeRuntime": INT64, "shares": UINT64, "idle": INT64,
    },
    "hugepageLimits": [{"pageSize!": STRING, "limit!": UINT64}],
    "memory": {
        "kernel": INT64, "kernelTCP": INT64, "limit": INT64, "reservation": INT64, "swap": INT64,
        "swappiness": UINT64, "disableOOMKiller": BOOLEAN, "useHierarchy": BOOLEAN, "checkBeforeUpdate": BOOLEAN,
    },
    "network": {"classID": UINT32, "priorities": [{"name!": STRING, "priority!": UINT32}]},
    "rdma": {"*": {"hcaHandles": UINT32, "hcaObjects": UINT32}},
}  # fmt: skip
SECCOMP_ACTIONS = frozenset(
    f"SCMP_ACT_{word}"
    for word in ("KILL", "KILL_PROCESS", "KILL_THREAD", "TRAP", "ERRNO", "TRACE", "ALLOW", "LOG", "NOTIFY")
)
SECCOMP = {
    "defaultAction!": SECCOMP_ACTIONS,
    "defaultErrnoRet": UINT32,
    "flags": [
        frozenset(f"SECCOMP_FILTER_FLAG_{f}" for f in ("TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"))
    ],
    "listenerPath": STRING,
    "listenerMetadata": STRING,
    "architectures": STRINGS,
    "syscalls": [
        {
            "names!": STRINGS,
            "action!": SECCOMP_ACTIONS,
            "errnoRet": UINT32,
            "args": [
                {
                    "index!": UINT32,
                    "value!": UINT64,
                    "valueTwo": UINT64,
                    "op!": frozenset(
                        f"SCMP_CMP_{o}" for o in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")
                    ),
                }
            ],
        }
    ],
}
CLOCK = {"secs": INT64, "nanosecs": UINT32}
LINUX = {
    "devices": [
        {
            "type!": frozenset("cbup"), "path!": STRING, "fileMode": FILE_MODE, "major": INT64, "minor": INT64,
            "uid": UINT32, "gid": UINT32,
        }
    ],
    "netDevices": {"*": {"name": STRING}},
    "uidMappings": MAPPINGS,
    "gidMappings": MAPPINGS,
    "namespaces": [{"type!": frozenset(FLAGS), "path": STRING}],
    "resources": RESOURCES,
    "cgroupsPath": STRING,
    "rootfsPropagation": frozenset((*PROPAGATION, "")),  # runc's and crun's word for nothing said
    "seccomp": SECCOMP,
    "sysctl": {"*": STRING},
    "maskedPaths": STRINGS,
    "readonlyPaths": STRINGS,
    "mountLabel": STRING,
    "intelRdt": {
        "closID": STRING, "schemata": STRINGS, "l3CacheSchema": STRING, "memBwSchema": STRING,
        "enableMonitoring": BOOLEAN,
    },
    "memoryPolicy": {"mode": frozenset(MEMORY_MODES), "nodes": STRING, "flags": [frozenset(MEMORY_FLAGS)]},
    "personality": {"domain": frozenset(DOMAINS), "flags": STRINGS},
    "timeOffsets": {"boottime": CLOCK, "monotonic": CLOCK},
}  # fmt: skip
SPEC = {
    "ociVersion!": STRING,
    "hooks": dict.fromkeys(MOMENTS, HOOKS),
    "annotations": {"*": STRING},
    "hostname": STRING,
    "domainname": STRING,
    "mounts": [MOUNT],
    "root": {"path!": STRING, "readonly": BOOLEAN},
    "process": PROCESS,
    "linux": LINUX,
}  # fmt: skip


def check(spec: object, name: str = "config.json", *, planned: bool = True) -> None:
    """Raise InvalidInput for a document that cannot be meant, Unsupported for what Lamina never does.

    The message says which field of *name* it is about, as a path: `process.rlimits[0].soft`. Without *planned* the
    contradictions that compiling the plan finds are left to that.
    """
    check_shape(spec, SPEC, "", name)
    assert isinstance(spec, dict)
    version = str(spec["ociVersion"])
    if version.split(".")[0] != "1":
        raise Unsupported(
            f"read {name}: ociVersion is {version}", remedy="Lamina reads version 1 of the specification"
        )
    if not (spec.get("root") or {}).get("path"):
        raise InvalidInput(f"read {name}: root.path is missing")
    _check_text(spec, name)
    _check_ids(spec, name)
    _check_paths(spec, name)
    _check_namespaces(spec.get("linux") or {}, name)
    if planned and spec.get("process"):
        rehearse(spec)


def check_process(process: object, name: str = "process") -> None:
    """The same for a `process` alone, as `exec --process` takes it."""
    check_shape(process, PROCESS, "", name)
    assert isinstance(process, dict)
    _check_text(process, name)
    _check_user(process, "", name)
    _check_cwd(process, "", name)


def check_shape(value: object, shape: Any, path: str, name: str) -> None:
    """Raise InvalidInput if *value*, at *path* of the document *name*, is not of *shape*."""
    if isinstance(shape, dict):
        _check_object(value, shape, path, name)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise _wrong(value, "a list", path, name)
        for index, item in enumerate(value):
            check_shape(item, shape[0], f"{path}[{index}]", name)
    elif isinstance(shape, tuple):
        low, high = shape
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _wrong(value, f"an integer from {low} to {high}", path, name)
    elif isinstance(shape, frozenset):
        if not isinstance(value, str) or value not in shape:
            raise _wrong(value, "one of " + ", ".join(sorted(shape)), path, name)
    elif shape == STRING and not isinstance(value, str):
        raise _wrong(value, "a string", path, name)
    elif shape == BOOLEAN and not isinstance(value, bool):
        raise _wrong(value, "true or false", path, name)


def _check_object(value: object, shape: dict[str, Any], path: str, name: str) -> None:
    if not isinstance(value, dict):
        raise _wrong(value, "an object", path, name)
    every = shape.get("*")
    for key, of in value.items():
        below = f"{path}.{key}" if path else key
        if every is not None:
            check_shape(of, every, below, name)
            continue
        known = shape.get(f"{key}!", shape.get(key))
        if known is not None and of is not None:
            check_shape(of, known, below, name)
    for key in shape:
        if key.endswith("!") and value.get(key[:-1]) is None:
            below = f"{path}.{key[:-1]}" if path else key[:-1]
            raise InvalidInput(f"read {name}: {below} is missing")


def _wrong(value: object, wanted: str, path: str, name: str) -> InvalidInput:
    shown = repr(value)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return InvalidInput(f"read {name}: {path or 'the document'} is {shown}, and not {wanted}")


def _check_text(document: dict[str, Any], name: str) -> None:
    try:
        _check_strings(document, "", name)
    except RecursionError:  # from Python 3.12 on, what is read may be deeper than functions of Python are
        raise InvalidInput(f"read {name}: nested too deeply") from None


def _check_strings(value: object, path: str, name: str) -> None:
    """No string can contain a NUL: the kernel would see its beginning only. Nor half of a surrogate pair, for which no
    bytes stand; but for the halves that stand for a byte which is not UTF-8 (document.py).
    """
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidInput(f"read {name}: {path} contains a NUL byte")
        try:
            value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise InvalidInput(f"read {name}: {path} is no text: it contains half a character") from None
    if isinstance(value, dict):
        for key, of in value.items():
            _check_strings(key, f"{path} (a name)", name)
            _check_strings(of, f"{path}.{key}" if path else key, name)
    elif isinstance(value, list):
        for index, of in enumerate(value):
            _check_strings(of, f"{path}[{index}]", name)


def _check_ids(spec: Spec, name: str) -> None:
    if spec.get("process"):
        _check_user(spec["process"], "process.", name)
    for index, device in enumerate((spec.get("linux") or {}).get("devices") or []):
        _check_id(device, f"linux.devices[{index}].", name)


def _check_user(process: dict[str, Any], path: str, name: str) -> None:
    user = process.get("user") or {}
    _check_id(user, f"{path}user.", name)
    for index, gid in enumerate(user.get("additionalGids") or []):
        _check_id({"gid": gid}, f"{path}user.additionalGids[{index}] as ", name)


def _check_id(owner: dict[str, Any], path: str, name: str) -> None:
    """-1 is "leave it as it is" to setresuid(2) and chown(2): whoever says it would stay root."""
    for key in ("uid", "gid"):
        if owner.get(key) == NOBODYS_ID:
            raise InvalidInput(f"read {name}: {path}{key} is {NOBODYS_ID}, and that is nobody's number")


def _check_cwd(process: dict[str, Any], path: str, name: str) -> None:
    cwd = process["cwd"]
    if not cwd.startswith("/"):
        raise InvalidInput(f"read {name}: {path}cwd is {cwd!r}, and not an absolute path")
    if not process.get("args"):
        raise InvalidInput(f"read {name}: {path}args is empty", remedy="name a command")


def _check_paths(spec: Spec, name: str) -> None:
    if spec.get("process"):
        _check_cwd(spec["process"], "process.", name)
    linux = spec.get("linux") or {}
    places = []
    for field in ("maskedPaths", "readonlyPaths"):
        places += [(f"linux.{field}[{i}]", path) for i, path in enumerate(linux.get(field) or [])]
    places += [(f"linux.devices[{i}].path", d["path"]) for i, d in enumerate(linux.get("devices") or [])]
    for field, path in places:
        if not path.startswith("/"):
            raise InvalidInput(f"read {name}: {field} is {path!r}, and not an absolute path")


def _check_namespaces(linux: dict[str, Any], name: str) -> None:
    user = next((n for n in linux.get("namespaces") or [] if n["type"] == "user"), None)
    if user is not None and not user.get("path"):
        for field in ("uidMappings", "gidMappings"):
            if not linux.get(field):
                raise InvalidInput(
                    f"read {name}: linux.{field} is missing, and there is a new user namespace"
                )


def rehearse(spec: Spec) -> None:
    """Compile the plan of *spec* on paper, on a host that has everything. Raises what `compile_plan` raises."""
    linux = spec.get("linux") or {}
    bundle = Bundle(spec, b"/bundle/rootfs", b"/bundle/rootfs", directory=b"/bundle")
    places = places_of(bundle)
    joined = [
        Joined(n["type"], 200 + i)
        for i, n in enumerate(linux.get("namespaces") or [])
        if n.get("path") and n["type"] in FLAGS
    ]
    own = sum({FLAGS[n["type"]] for n in linux.get("namespaces") or [] if n["type"] in FLAGS})
    nodes = (*devices_of(spec), *nodes_to_bind(spec, own, mknod=False))
    flags = 0
    if linux.get("seccomp"):
        from lamina.runtime.seccomp.words import check_architectures, check_listener, filter_flags

        check_listener(linux["seccomp"])
        check_architectures(linux["seccomp"])
        flags = filter_flags(linux["seccomp"])
    if linux.get("netDevices"):
        from lamina.runtime.net_devices import check_devices

        check_devices(linux["netDevices"])
    for when in ("initial", "final"):
        affinity_steps(spec["process"], when)
    wiring = Wiring(
        channel=100,
        stdin=101,
        stdout=102,
        stderr=103,
        launcher=104,
        proc=105,
        seccomp=bytes(8) if linux.get("seccomp") else b"",
        seccomp_flags=flags,
        # which of the sources are files is not known: none of these need be
        files=frozenset(place.source for place in places if place.path.startswith(b"/proc/")),
        procfs=frozenset(place.source for place in places),
        id_maps=tuple((place.index, 110) for place in places if place.options.idmap is not None),
        namespaces=tuple(joined),
        modules=frozenset(("apparmor", "selinux")),
        nodes=frozenset(
            (node.path.decode("utf-8", "surrogateescape"), node.kind, node.major, node.minor)
            for node in nodes
        ),
        limits=effective_limits(spec["process"].get("rlimits") or [])[0],
        release=(99, 0),
    )
    compile_plan(bundle, wiring)
