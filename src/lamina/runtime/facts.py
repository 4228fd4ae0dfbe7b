"""What a plan must know of the host, and the descriptors that it needs: looked up before anything runs.

Most starts need little of it: what only some specifications ask for is imported when it is asked for.
"""

from __future__ import annotations

import os
import stat

from lamina.errors import NotFound, Unsupported
from lamina.linux.packed import Reg
from lamina.linux.procfs import cap_last_cap, effective_capabilities, in_first_user_namespace
from lamina.runtime.bundle import Wiring, absolute
from lamina.runtime.rlimits import effective_limits, is_mapped
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from lamina.linux.fd import Fd
    from lamina.runtime.bundle import Bundle, Joined
    from lamina.runtime.seccomp.cache import Filter

# a plan names the descriptors of a start; which numbers they have is said when it is walked
_OPEN = Wiring(
    channel=Reg("channel"), stdin=Reg("stdin"), stdout=Reg("stdout"), stderr=Reg("stderr"), far=Reg("far")
)
PROC = Reg("proc")
_PROC_ROOT_INODE = 1  # linux/proc_fs.h, PROC_ROOT_INO
CAP_SYS_ADMIN, CAP_MKNOD = 21, 27


def facts(
    bundle: Bundle, held: list[Fd], to_come: Mapping[bytes, bool] | None = None, *, flags: bool = True
) -> tuple[Wiring, dict[str, int]]:
    """What the host says to *bundle*, and the values of the registers among it; without *flags* not what the
    specification says of seccomp(2)'s.

    Descriptors that are opened for it are added to *held*. *to_come* are sources of bind mounts that need not be there
    yet, and whether each will be a directory. Raises NotFound, InvalidInput and Unsupported for what is
    not there.
    """
    spec = bundle.spec
    linux = spec.get("linux") or {}
    _check_null()
    files, procfs = _sources(bundle, to_come or {})
    known = process_facts(spec["process"], linux, flags=flags)
    changes: dict[str, Any] = {"files": files, "procfs": procfs}
    opened: dict[str, int] = {}
    if any(namespace.get("path") for namespace in linux.get("namespaces") or []):
        from lamina.runtime.joining import open_namespaces

        changes["namespaces"] = open_namespaces(linux["namespaces"], held)
    changes.update(_devices(bundle, changes.get("namespaces", ()), known))
    if _writes_to_proc(spec):
        from lamina.runtime.trees import own_procfs

        held.append(own_procfs())
        changes["proc"], opened[PROC] = PROC, int(held[-1])
    if _made_by_caller(bundle):
        from lamina.runtime.trees import make_trees

        changes["trees"], changes["id_maps"] = make_trees(bundle, changes.get("namespaces", ()), held, known)
    return replace(known, **changes), opened


def kernel_of(release: str) -> tuple[int, int]:
    """6.1.76-1 -> (6, 1), and 6.6-amd64, as Debian calls the first of a series, -> (6, 6); what is not there is 0."""
    numbers = [part[: len(part) - len(part.lstrip("0123456789"))] for part in release.split(".")[:2]]
    major, minor = (*(int(digits or 0) for digits in numbers), 0)[:2]
    return major, minor


def process_facts(
    process: dict[str, Any], linux: dict[str, Any], *, flags: bool = True, beside: int | None = None
) -> Wiring:
    """What the host says to a process, the first one of a container or a further one, *beside* that process."""
    kernel = kernel_of(os.uname().release)
    permitted, first = effective_capabilities(), in_first_user_namespace()
    known = replace(
        _OPEN,
        limits=effective_limits(process.get("rlimits") or [], permitted, mapped=is_mapped(linux))[0],
        last_cap=cap_last_cap(),
        permitted=permitted,
        # root of another user namespace than the first has the capability, and nothing that it is good for
        mknod=bool(permitted >> CAP_MKNOD & 1) and first,
        setgroups=(first or _may_set_groups("/proc/self"))
        and not _single(linux.get("gidMappings") or [])
        and _may_set_groups_there(linux, beside),
        release=kernel,
        lowerdir_plus=_takes_layers_one_by_one(kernel),
    )
    if process.get("apparmorProfile") or process.get("selinuxLabel") or linux.get("mountLabel"):
        known = replace(known, modules=security_modules())
    if linux.get("seccomp") and flags:
        from lamina.runtime.seccomp.words import filter_flags

        known = replace(known, seccomp_flags=filter_flags(linux["seccomp"]))
    return known


def _may_set_groups(process: str) -> bool:
    """Whether the user namespace of *process* permits setgroups(2), there and in those that are made in it
    (user_namespaces(7)).
    """
    with open(f"{process}/setgroups", "rb", buffering=0) as file:
        return file.read(5) == b"allow"


def _may_set_groups_there(linux: dict[str, Any], beside: int | None) -> bool:
    """Whether the user namespace that is joined does, if one is. A process in it knows: the one *beside*, or the one by
    which it is named; nobody is asked where it has another name.
    """
    joined = [
        str(one["path"]) for one in linux.get("namespaces") or [] if one["type"] == "user" and one.get("path")
    ]
    if not joined:
        return True
    place, _, kind = joined[0].rpartition("/ns/")
    process = place if beside is None else f"/proc/{beside}"
    if beside is None and kind != "user":
        return True
    try:
        return _may_set_groups(process)
    except OSError:  # whoever joins it is told what is wrong with it
        return True


def _takes_layers_one_by_one(kernel: tuple[int, int]) -> bool:
    """Whether this kernel's overlayfs has `lowerdir+`. By its version: asking it costs a file system context."""
    return kernel >= (6, 8)


def _check_null() -> None:
    null = os.stat("/dev/null")
    if not stat.S_ISCHR(null.st_mode) or null.st_rdev != os.makedev(1, 3):
        raise Unsupported(
            "mask paths: /dev/null of this host is not the null device", remedy="repair /dev/null"
        )


def _sources(bundle: Bundle, to_come: Mapping[bytes, bool]) -> tuple[frozenset[bytes], frozenset[bytes]]:
    """Of the sources of bind mounts: those that are not directories, and those that are a procfs."""
    files, procfs = set(), set()
    for mount in bundle.spec.get("mounts") or []:
        if not is_bound(mount) or "remount" in (mount.get("options") or []):
            continue
        source = absolute(os.fsencode(str(mount.get("source") or "")), bundle.directory)
        if source in to_come:
            if not to_come[source]:
                files.add(source)
            continue
        try:
            status = os.stat(source)
        except OSError as error:
            raise NotFound(
                f"mount {os.fsdecode(source)} at {mount['destination']}: {error.strerror}",
                remedy="name a source that is there, and that this user may see",
            ) from error
        if not stat.S_ISDIR(status.st_mode):
            files.add(source)
        elif status.st_ino == _PROC_ROOT_INODE and _is_procfs(source):
            procfs.add(source)
    return frozenset(files), frozenset(procfs)


def is_bound(mount: dict[str, Any]) -> bool:
    """Whether its source is a path of the host."""
    options = mount.get("options") or []
    return mount.get("type") == "bind" or "bind" in options or "rbind" in options


def _is_procfs(path: bytes) -> bool:
    from lamina.linux.constants import PROC_SUPER_MAGIC
    from lamina.linux.files import statfs

    return statfs(path).type == PROC_SUPER_MAGIC


def _single(mappings: list[dict[str, int]]) -> bool:
    """Whether an ordinary user maps a group of its own only: then setgroups(2) is off (user_namespaces(7))."""
    return bool(mappings) and os.geteuid() != 0 and sum(m["size"] for m in mappings) == 1


def _devices(bundle: Bundle, joined: tuple[Joined, ...], known: Wiring) -> dict[str, Any]:
    """The host's device nodes that will be bound: each must be what the specification says it is."""
    linux = bundle.spec.get("linux") or {}
    foreign = {namespace.kind for namespace in joined if namespace.fd < 0}
    kinds = {namespace["type"] for namespace in linux.get("namespaces") or []} - foreign
    if known.mknod and "user" not in kinds and not linux.get("devices"):
        return {}
    fresh = any(
        m["destination"] == "/dev" and m.get("type") == "tmpfs" for m in bundle.spec.get("mounts") or []
    )
    if fresh and not linux.get("devices"):  # its nodes are the default ones, which need no look
        return {}
    from lamina.runtime.plan.namespaces import FLAGS
    from lamina.runtime.plan.rootfs import nodes_to_bind

    nodes = set()
    own = sum(FLAGS[kind] for kind in kinds if kind in FLAGS)
    for node in nodes_to_bind(bundle.spec, own, mknod=known.mknod):
        path = os.fsdecode(node.path)
        try:
            status = os.stat(path)
        except OSError as error:
            raise NotFound(f"bind device {path} of this host: {error.strerror}") from error
        kind = "c" if stat.S_ISCHR(status.st_mode) else "b" if stat.S_ISBLK(status.st_mode) else ""
        if kind != node.kind or status.st_rdev != os.makedev(node.major, node.minor):
            raise Unsupported(
                f"make device {path}: a user namespace may not, and this host's {path} is not "
                f"{node.kind} {node.major}:{node.minor}"
            )
        nodes.add((path, node.kind, node.major, node.minor))
    return {"nodes": frozenset(nodes)}


def _writes_to_proc(spec: dict[str, Any]) -> bool:
    process, linux = spec["process"], spec.get("linux") or {}
    wishes = (
        process.get("apparmorProfile"), process.get("selinuxLabel"), linux.get("sysctl"), linux.get("timeOffsets"),
    )  # fmt: skip
    return process.get("oomScoreAdj") is not None or any(wishes)


def security_modules() -> frozenset[str]:
    """Which of the security modules that take labels run: "apparmor", "selinux"."""
    found = set()
    try:
        with open("/sys/module/apparmor/parameters/enabled", "rb", buffering=0) as enabled:
            if enabled.read(1) == b"Y":
                found.add("apparmor")
    except OSError:
        pass
    if os.path.exists("/sys/fs/selinux/enforce"):
        found.add("selinux")
    return frozenset(found)


def _made_by_caller(bundle: Bundle) -> bool:
    """Whether mounts must be made before the new process is in its user namespace, or have their ids mapped."""
    linux = bundle.spec.get("linux") or {}
    user = any(n["type"] == "user" for n in linux.get("namespaces") or [])
    if (user and effective_capabilities() >> CAP_SYS_ADMIN & 1) or bundle.outer is not None or bundle.given:
        return True
    return any(
        m.get("uidMappings") or m.get("gidMappings") or {"idmap", "ridmap"} & set(m.get("options") or [])
        for m in bundle.spec.get("mounts") or []
    )


def own_filter(bundle: Bundle, cache: bytes | None) -> Filter | None:
    """The filter of `linux.seccomp`, kept in the directory *cache* if there is one. Raises InvalidInput."""
    seccomp = (bundle.spec.get("linux") or {}).get("seccomp")
    if not seccomp:
        return None
    from lamina.runtime.seccomp.cache import Filter, filter_for
    from lamina.runtime.seccomp.words import check_listener

    check_listener(seccomp)
    if cache is not None:
        return filter_for(seccomp, cache)
    from lamina.runtime.seccomp.compiler import compile_filter

    return Filter(b"", b"", lambda: compile_filter(seccomp))
