"""What a step that failed means for whoever asked for the container: verb, object, cause, and what to do.

Only for steps that somebody's options, files or limits can make fail; everything else is told as the step itself.
Which part of the specification a step belongs to is in the names of its registers (lamina/runtime/plan).
"""

from __future__ import annotations

import os
from errno import (
    EACCES,
    EINVAL,
    ELOOP,
    EMFILE,
    ENAMETOOLONG,
    ENFILE,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOSPC,
    ENOTDIR,
    EOVERFLOW,
    EPERM,
    EROFS,
)
from stat import S_ISDIR

from lamina.linux.constants import SIOCSIFFLAGS
from lamina.linux.program import Reg
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.linux.program import Step
    from lamina.overlay.spec import MountSpec
    from lamina.runtime.bundle import Bundle

# what takes a capability of the user namespace that the caller is in
PRIVILEGED = frozenset(
    ("setgroups", "setresgid", "setresuid", "unshare", "setns", "mount", "umount2", "open_tree", "fsopen", "fsconfig",
     "fsmount", "move_mount", "mount_setattr", "pivot_root", "chroot", "sethostname", "setdomainname", "capset")
)  # fmt: skip


@value
class Meaning:
    """`message` says verb, object and cause; `remedy` what to do, "" if nothing is known."""

    message: str
    remedy: str = ""


def meaning_of(bundle: Bundle, step: Step, number: int) -> Meaning | None:
    """What it means that *step* of *bundle*'s start failed with errno *number*; None: nothing but what it says."""
    if number == ENOMEM:
        return _memory(bundle)
    if number in (EMFILE, ENFILE):
        cause = "its hard limit of open files does not suffice" if number == EMFILE else os.strerror(number)
        return Meaning(
            f"start: {cause}", "raise it (ulimit -Hn 4096)" if number == EMFILE else "raise fs.file-max"
        )
    names = [str(arg) for arg in step.args if isinstance(arg, Reg)]
    names += [str(step.save)] if step.save is not None else []
    for name in names:
        kind, index = _of_register(name)
        if kind == "cwd":
            # with `cwd.root` it is only opened, elsewhere made as well
            path = str(bundle.spec["process"].get("cwd") or "/")
            return _joined_directory(path, number) if name == "cwd.root" else _working_directory(path, number)
        if kind == "proc" and name in _LABELS:
            return _label(bundle.spec["process"], name, number)
        mounts = bundle.spec.get("mounts") or []
        if kind in ("mount", "target") and 0 <= index < len(mounts):
            refused = step.call == "fsconfig" and number == EINVAL
            return _option(mounts[index], step) if refused else _mount(mounts[index], number)
    if number == EPERM and step.call == "ioctl" and step.args[1] == SIOCSIFFLAGS:
        return Meaning(
            "bring up the loopback device of the container's network namespace: this process may make one, and "
            "nothing in it (it has CAP_SYS_ADMIN, and no CAP_NET_ADMIN)",
            "run it with CAP_NET_ADMIN, or with this host's network (--network host)",
        )
    place, spec = overlay_of(bundle, step)
    if spec is not None:
        return _overlay(spec, place or b"/", number, step.call)
    if number in (EPERM, EACCES) and step.call in PRIVILEGED and _is_mapped(bundle):
        return _without_privileges(step.call)
    return None


# the files of procfs that take labels (plan/labels.py), and which field says them
_LABELS = {
    "proc.self/attr/apparmor/exec": ("AppArmor profile", "apparmorProfile"),
    "proc.self/attr/exec": ("SELinux label", "selinuxLabel"),
}


def _label(process: dict[str, Any], register: str, number: int) -> Meaning:
    """The kernel does not take a label for the process."""
    what, field = _LABELS[register]
    said = f"start with {what} {process.get(field)}"
    if number == ENOENT:
        return Meaning(f"{said}: it is not loaded", "load it with apparmor_parser(8), or name another one")
    if number == EINVAL:
        return Meaning(f"{said}: the kernel does not know it", "see that the host's policy has it")
    if number in (EACCES, EPERM):
        return Meaning(f"{said}: the host's policy does not permit this change")
    return Meaning(f"{said}: {os.strerror(number)}")


def overlay_of(bundle: Bundle, step: Step) -> tuple[bytes | None, MountSpec | None]:
    """The overlay that *step* mounts: its place in the container, None for the root, and its stack; (None, None) for
    any other step.
    """
    if step.call == "mount" and step.args[2] == b"overlay":
        from lamina.overlay.steps import said_of

        for place, spec in ((None, bundle.rootfs), *bundle.overlays):
            if not isinstance(spec, bytes) and step.note == said_of(spec):
                return place, spec
    elif step.call in ("fsconfig", "fsmount"):
        kind, index = _of_register(str(step.args[0]))
        if kind == "overlay" and 0 <= index < len(bundle.overlays):
            return bundle.overlays[index]
        if kind == "root" and not isinstance(bundle.rootfs, bytes):
            return None, bundle.rootfs
    return None, None


def _is_mapped(bundle: Bundle) -> bool:
    namespaces = (bundle.spec.get("linux") or {}).get("namespaces") or []
    return any(namespace.get("type") == "user" for namespace in namespaces)


def _without_privileges(call: str) -> Meaning:
    """A user namespace could be made, and whoever made it is not privileged in it."""
    from lamina.linux.probe_system import read_setting
    from lamina.linux.probe_users import APPARMOR_RESTRICTION

    cause = f"a security module or a filter of system calls forbids {call}(2) in a user namespace"
    if read_setting(APPARMOR_RESTRICTION) == "1":
        cause = (
            "this host lets an ordinary user make a user namespace, but do nothing in it "
            "(AppArmor: kernel.apparmor_restrict_unprivileged_userns is 1)"
        )
    return Meaning(f"start without root: {cause}", "`lamina doctor` says what to change, or run it as root")


def _of_register(name: str) -> tuple[str, int]:
    """`target7.1` is ("target", 7), `root.fs` is ("root", -1)."""
    name = name.partition(".")[0]
    kind = name.rstrip("0123456789")
    return kind, int(name[len(kind) :] or -1)


def _memory(bundle: Bundle) -> Meaning | None:
    memory = ((bundle.spec.get("linux") or {}).get("resources") or {}).get("memory") or {}
    if not memory.get("limit"):
        return None
    return Meaning(
        f"start: the limit of {memory['limit']} bytes of memory does not suffice", "allow more with --memory"
    )


_PATH_CAUSES = {
    ENOTDIR: "a file is in its place, or on the way to it",
    ELOOP: "its symbolic links lead in a circle",
    ENAMETOOLONG: "a name of more than 255 bytes, or a path of more than 4,095",
    EROFS: "it is not there, and the file system around it is read-only",
    EACCES: "no permission to enter or make it",
    EPERM: "no permission to make it",
    ENOSPC: "there is no space to make it",
    EOVERFLOW: "it cannot be made, because its directory belongs to somebody whom this user's containers do not know",
}


def _working_directory(path: str, number: int) -> Meaning | None:
    cause = _PATH_CAUSES.get(number)
    if number == ENOENT:
        cause = "it is not there and cannot be made: a dangling link, or a directory of the kernel's own"
    if cause is None:
        return None
    return Meaning(f"enter working directory {path}: {cause}", "name another directory with --workdir")


def _joined_directory(path: str, number: int) -> Meaning | None:
    """The working directory of a further process of a container."""
    own = {
        ENOENT: "it is not there",
        ENOTDIR: "it is not a directory, or something on the way to it is not",
        ELOOP: "its symbolic links lead in a circle, or pass one of the kernel's own (/proc/self/fd)",
    }
    cause = own.get(number) or _PATH_CAUSES.get(number)
    if cause is None:
        return None
    return Meaning(f"enter working directory {path}: {cause}", "name a directory that is there with --cwd")


def _mount(mount: dict[str, Any], number: int) -> Meaning | None:
    source, target = str(mount.get("source") or ""), str(mount["destination"])
    options = mount.get("options") or []
    if mount.get("type") != "bind" and "bind" not in options and "rbind" not in options:
        return _own_mount(str(mount.get("type")), target, number)
    said = f"mount {source} at {target}"
    is_directory = _is_directory(source)
    if number == ENOSPC:
        return _full(said)
    if is_directory and number == ENOTDIR:
        cause = f"{source} is a directory, and a file is in the place of {target} or on the way to it"
        return Meaning(f"{said}: {cause}", "name a target that is a directory, or is not there")
    if not is_directory and number == EINVAL:
        return Meaning(f"{said}: a file cannot be mounted on a directory", "name a file as the target")
    if number == EINVAL:
        return Meaning(f"{said}: that mount cannot be copied (it is unbindable, or not in sight)")
    if number == ENOENT:
        cause = "a symbolic link in the place of the target leads nowhere"
        return Meaning(f"{said}: {cause}", "name the place that the link should lead to, or another one")
    cause = _PATH_CAUSES.get(number, "")
    return Meaning(f"{said}: {cause}", "name another target") if cause else None


def _own_mount(kind: str, target: str, number: int) -> Meaning | None:
    """A file system of the kernel's, which is mounted in every container."""
    said = f"mount {kind} at {target}"
    causes = {
        ELOOP: f"a link is in the way: {target} must be a real directory for one of the kernel's own file systems",
        ENOTDIR: f"a file is in the place of {target}, or on the way to it",
        ENODEV: f"this kernel has no {kind}",
        EPERM: f"this host does not permit a new {kind}",
    }
    if number == ENOSPC:
        return _full(said)
    if number == ENOENT and kind == "tmpfs":  # which needs nothing that could be missing
        cause = f"a symbolic link in the place of {target}, or on the way to it, leads nowhere"
        return Meaning(f"{said}: {cause}", "name the place that the link should lead to")
    return Meaning(f"{said}: {causes[number]}", "see `lamina doctor`") if number in causes else None


def _option(mount: dict[str, Any], step: Step) -> Meaning:
    """A file system refuses one of its own options: the step's, or all of them together."""
    said = f"mount {mount.get('type')} at {mount['destination']}"
    key, text = step.args[2:4]
    if not isinstance(key, bytes | str):
        return Meaning(f"{said}: the file system refuses its options", "see the options of this mount")
    shown = os.fsdecode(key) + (f"={os.fsdecode(text)}" if isinstance(text, bytes | str) else "")
    return Meaning(f"{said}: the file system refuses the option {shown}", "correct it, or leave it out")


def _full(said: str) -> Meaning:
    return Meaning(f"{said}: there is no room for another mount, or for its place", "raise fs.mount-max")


def _is_directory(path: str) -> bool:
    try:
        return S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return False


def _overlay(spec: MountSpec, place: bytes, number: int, call: str) -> Meaning:
    """A stack that the kernel refused: which directory, and why."""
    from lamina.overlay.refusals import explain_refusal

    # a container's work directory is made for each start
    error = explain_refusal(spec, place, number, call="mount" if call == "mount" else "fsconfig", fresh=True)
    return Meaning(error.message, error.remedy)
