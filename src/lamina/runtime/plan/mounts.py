"""The mounts of the specification as steps: each is made detached, then attached by descriptor.

https://github.com/opencontainers/runtime-spec/blob/main/config.md#mounts and #linux-mount-options
"""

from __future__ import annotations

from lamina.errors import InvalidInput
from lamina.linux.constants import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    FSCONFIG_CMD_CREATE,
    FSCONFIG_SET_FLAG,
    FSCONFIG_SET_STRING,
    FSMOUNT_CLOEXEC,
    FSOPEN_CLOEXEC,
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
    MS_PRIVATE,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
)
from lamina.linux.program import Reg, Step
from lamina.runtime.plan.paths import attach_step, attribute_step, target_steps
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# option: (attributes to set, attributes to clear); with an "r" in front the whole tree below (rro, rnosuid, ...)
_ATTRIBUTES = {
    "ro": (MOUNT_ATTR_RDONLY, 0),
    "rw": (0, MOUNT_ATTR_RDONLY),
    "nosuid": (MOUNT_ATTR_NOSUID, 0),
    "suid": (0, MOUNT_ATTR_NOSUID),
    "nodev": (MOUNT_ATTR_NODEV, 0),
    "dev": (0, MOUNT_ATTR_NODEV),
    "noexec": (MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, MOUNT_ATTR_NOEXEC),
    "nosymfollow": (MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, MOUNT_ATTR_NOSYMFOLLOW),
    "nodiratime": (MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, MOUNT_ATTR_NODIRATIME),
    "noatime": (MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME),
    "atime": (0, MOUNT_ATTR__ATIME),
    "strictatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME),
    "nostrictatime": (0, MOUNT_ATTR__ATIME),
    "relatime": (0, MOUNT_ATTR__ATIME),
    "norelatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME),
    "defaults": (0, 0),
}
_PROPAGATION = {
    "private": (MS_PRIVATE, 0),
    "rprivate": (MS_PRIVATE, AT_RECURSIVE),
    "slave": (MS_SLAVE, 0),
    "rslave": (MS_SLAVE, AT_RECURSIVE),
    "shared": (MS_SHARED, 0),
    "rshared": (MS_SHARED, AT_RECURSIVE),
    "unbindable": (MS_UNBINDABLE, 0),
    "runbindable": (MS_UNBINDABLE, AT_RECURSIVE),
}
# where an image must not point elsewhere by a link
_KERNELS_OWN = frozenset(("proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"))


@value
class Options:
    """A mount's options, sorted by who understands them."""

    set: int = 0
    clear: int = 0
    set_below: int = 0
    clear_below: int = 0
    propagation: tuple[int, int] | None = None
    bind: int | None = None
    data: tuple[tuple[str, str], ...] = ()


def parse_options(options: list[str]) -> Options:
    """Sort mount *options* into attributes, propagation, bind, and what the file system itself understands."""
    attributes = [0, 0, 0, 0]
    propagation = bind = None
    data = []
    for option in options:
        deep = option[1:] if option.startswith("r") and option not in _ATTRIBUTES else ""
        if option in _ATTRIBUTES or deep in _ATTRIBUTES:
            add, remove = _ATTRIBUTES[deep or option]
            at = 2 if deep else 0
            attributes[at] = attributes[at] & ~remove | add
            attributes[at + 1] = attributes[at + 1] & ~add | remove
        elif option in _PROPAGATION:
            propagation = _PROPAGATION[option]
        elif option in ("bind", "rbind"):
            bind = AT_RECURSIVE if option == "rbind" else 0
        else:
            key, _, text = option.partition("=")
            data.append((key, text))
    return Options(
        set=attributes[0],
        clear=attributes[1],
        set_below=attributes[2],
        clear_below=attributes[3],
        propagation=propagation,
        bind=bind,
        data=tuple(data),
    )


def option_names() -> list[str]:
    """Every mount option that is not a file system's own."""
    deep = ["r" + name for name in _ATTRIBUTES if name != "defaults" and "r" + name not in _ATTRIBUTES]
    return sorted({*_ATTRIBUTES, *deep, *_PROPAGATION, "bind", "rbind"})


def new_mount_steps(
    fstype: str, save: Reg, *, attributes: int = 0, data: tuple[tuple[str, str], ...] = (), source: str = ""
) -> list[Step]:
    """Steps that leave a new instance of a file system, attached nowhere, in the register *save*."""
    context = Reg(f"{save}.fs")
    steps = [Step("fsopen", fstype, FSOPEN_CLOEXEC, save=context)]
    if source:
        steps.append(Step("fsconfig", context, FSCONFIG_SET_STRING, b"source", source, 0))
    for key, text in data:
        if text:
            steps.append(Step("fsconfig", context, FSCONFIG_SET_STRING, key, text, 0))
        else:
            steps.append(Step("fsconfig", context, FSCONFIG_SET_FLAG, key, None, 0))
    steps.append(Step("fsconfig", context, FSCONFIG_CMD_CREATE, None, None, 0))
    steps.append(Step("fsmount", context, FSMOUNT_CLOEXEC, attributes, save=save))
    return steps


def clone_steps(source: bytes, save: Reg, recursive: int) -> list[Step]:
    """Steps that leave a copy of the mount at the host's *source*, attached nowhere, in the register *save*."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | recursive
    return [Step("open_tree", AT_FDCWD, source, flags, save=save)]


def mount_steps(mount: dict[str, Any], index: int, files: frozenset[bytes]) -> list[Step]:
    """One entry of the specification's `mounts`. *files* are the bind sources that are not directories."""
    destination = mount["destination"]
    place = destination.encode("utf-8", "surrogateescape")
    options = parse_options(mount.get("options") or [])
    fstype = mount.get("type") or ("bind" if options.bind is not None else "")
    source = str(mount.get("source") or "")
    save, target = Reg(f"mount{index}"), Reg(f"target{index}")
    if options.bind is not None or fstype == "bind":
        return _bind_steps(source, place, options, save, target, files)
    if not fstype:
        raise InvalidInput(f"mount at {destination}: neither a type nor the option bind")
    if fstype == "cgroup":
        raise InvalidInput(f"mount at {destination}: cgroup mounts are compiled apart")
    steps = new_mount_steps(fstype, save, attributes=options.set, data=options.data, source=source)
    steps[0].note = f"{fstype} -> {destination}"
    if options.propagation:
        steps.append(
            attribute_step(save, 0, propagation=options.propagation[0], recursive=options.propagation[1])
        )
    steps += target_steps(place, target, directory=True, links=fstype not in _KERNELS_OWN)
    steps.append(attach_step(save, target))
    return steps


def _bind_steps(
    source: str, place: bytes, options: Options, save: Reg, target: Reg, files: frozenset[bytes]
) -> list[Step]:
    path = source.encode("utf-8", "surrogateescape")
    if options.data:
        raise InvalidInput(
            f"bind {source} at {place.decode(errors='replace')}: a bind mount takes no option {options.data[0][0]!r}"
        )
    steps = clone_steps(path, save, AT_RECURSIVE if options.bind is None else options.bind)
    readonly = " [readonly]" if options.set & MOUNT_ATTR_RDONLY else ""
    steps[0].note = f"bind {source} -> {place.decode(errors='backslashreplace')}{readonly}"
    propagation, below = options.propagation or (MS_PRIVATE, AT_RECURSIVE)
    steps.append(attribute_step(save, 0, propagation=propagation, recursive=below))
    if options.set or options.clear:
        steps.append(attribute_step(save, options.set, options.clear))
    if options.set_below or options.clear_below:
        steps.append(attribute_step(save, options.set_below, options.clear_below, recursive=AT_RECURSIVE))
    steps += target_steps(place, target, directory=path not in files)
    steps.append(attach_step(save, target))
    return steps


def readonly_steps(path: Reg, save: Reg) -> list[Step]:
    """What is open as *path* gets a read-only mount of itself on top."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE | AT_EMPTY_PATH
    return [
        Step("open_tree", path, b"", flags, save=save),
        attribute_step(save, MOUNT_ATTR_RDONLY, recursive=AT_RECURSIVE),
        attach_step(save, path),
    ]
