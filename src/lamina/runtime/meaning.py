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

from lamina.linux.program import Reg
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.linux.program import Step
    from lamina.runtime.bundle import Bundle


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
            return _working_directory(str(bundle.spec["process"].get("cwd") or "/"), number)
        mounts = bundle.spec.get("mounts") or []
        if kind in ("mount", "target") and 0 <= index < len(mounts):
            return _mount(mounts[index], number)
        if kind in ("root", "overlay") and step.call in ("fsconfig", "fsmount"):
            return _overlay(bundle, index, number)
    return None


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
    return Meaning(f"{said}: {causes[number]}", "see `lamina doctor`") if number in causes else None


def _full(said: str) -> Meaning:
    return Meaning(f"{said}: there is no room for another mount, or for its place", "raise fs.mount-max")


def _is_directory(path: str) -> bool:
    try:
        return S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return False


def _overlay(bundle: Bundle, index: int, number: int) -> Meaning | None:
    """A stack that the kernel refused: which directory, and why."""
    spec, place = (bundle.rootfs, b"/") if index < 0 else bundle.overlays[index][::-1]
    if isinstance(spec, bytes):
        return None
    from lamina.overlay.refusals import explain_refusal

    error = explain_refusal(spec, place, number, call="fsconfig")
    return Meaning(error.message, error.remedy)
