"""What can go wrong while control groups are made, in words that help. Loaded only when something does."""

from __future__ import annotations

import os
from errno import EACCES, EBUSY, EINVAL, ENODEV, ENOENT, EOPNOTSUPP, EPERM, ERANGE, EROFS

from lamina.errors import Conflict, KernelError, Unsupported
from lamina.runtime.cgroups.layout import read_file

_NOT_OURS = (EACCES, EPERM, EROFS)
_ENOTSUPP = 524  # the kernel's own; it has no name outside


def not_made(error: OSError, place: bytes) -> KernelError | Unsupported:
    """A directory that could not be made."""
    if error.errno in _NOT_OURS:
        return Unsupported(
            f"make cgroup {os.fsdecode(place)}: {error.strerror}",
            remedy="run as root, or have the cgroup delegated to this user (see `lamina doctor`)",
        )
    return KernelError("mkdir", error.errno or 0, os.fsdecode(place))


def check_unused(place: bytes) -> None:
    """A group that is there already may be an empty one; in a frozen one the start would never end."""
    if read_file(place + b"/cgroup.procs").strip():
        raise Conflict(
            f"make cgroup {os.fsdecode(place)}: processes live there already",
            remedy="use another cgroupsPath",
        )
    state = read_file(place + b"/freezer.state") or read_file(place + b"/cgroup.freeze")
    if state.strip() not in (b"", b"0", b"THAWED"):
        raise Conflict(f"make cgroup {os.fsdecode(place)}: it is there already, and frozen", remedy="thaw it")


def not_handed_down(place: bytes, controller: str, error: OSError) -> Unsupported:
    """A controller that a v2 group does not hand down to those below it."""
    why = os.strerror(error.errno or 0)
    remedy = "have the cgroup delegated (see `lamina doctor`)"
    if error.errno == EBUSY:
        why = "it has processes of its own, and then may not divide what it has"
        remedy = "move them to a group below it, for example with systemd's DelegateSubgroup="
    elif error.errno == ENOENT:
        why = "the group above it hands none down to it"
    elif error.errno == EOPNOTSUPP:
        why = "it is threaded"
    return Unsupported(
        f"limit {controller}: {os.fsdecode(place)} does not hand it down: {why}", remedy=remedy
    )


def not_written(error: OSError, file: bytes, text: str, what: str) -> KernelError | Unsupported:
    """A limit that the kernel does not take."""
    number = error.errno or 0
    if number in (EOPNOTSUPP, _ENOTSUPP):
        return Unsupported(f"limit {what}: this kernel no longer supports {os.fsdecode(file)}")
    if number in (EACCES, EROFS):
        return Unsupported(
            f"limit {what}: {os.fsdecode(file)} cannot be written: {error.strerror}",
            remedy="run as root, or have the cgroup delegated to this user (see `lamina doctor`)",
        )
    hint, remedy = f"the kernel refuses this {what} limit", ""
    if number == EBUSY and b"/memory." in file:
        hint, remedy = "more than that is in use", "stop something in the container first"
    elif number in (EINVAL, ERANGE) and b"/cpuset." in file:
        kind = file.rpartition(b"/cpuset.")[2]
        above = os.path.dirname(os.path.dirname(file)) + b"/cpuset." + kind
        there = (read_file(above + b".effective") or read_file(above)).strip().decode()
        hint = f"there is {there or 'nothing'}"
        remedy = "'lscpu' says which processors and memory nodes there are"
    elif number == ENODEV:
        hint = "there is no such device"
    elif number == EINVAL and file.endswith((b"memory.limit_in_bytes", b"memory.memsw.limit_in_bytes")):
        hint = "memory and swap together must not be less than memory alone"
    return KernelError(f"write {text} to", number, os.fsdecode(file), hint=hint, remedy=remedy)
