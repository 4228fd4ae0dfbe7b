"""Why the kernel would not mount an overlay: which directory, for what reason, and what to do about it.

mount(2) and fsconfig(2) answer with one of a dozen numbers, most often EINVAL, and the reason goes to the kernel's log,
which few may read. So the directories themselves are looked at: `_CHECKS` is a table of errno and questions, asked in
order; the first that finds something is the reason. `foresee` asks some of them before the mount, where the kernel
would say yes and mean something else: an upper that another overlay writes to, metadata that cannot be kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from errno import (
    E2BIG,
    EACCES,
    EBUSY,
    EINVAL,
    ELOOP,
    EMFILE,
    ENAMETOOLONG,
    ENFILE,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOSPC,
    ENOSYS,
    ENOTDIR,
    EOPNOTSUPP,
    EPERM,
    EROFS,
    ESTALE,
)

from lamina.errors import MountError
from lamina.overlay import causes, privileges
from lamina.overlay.causes import Case, Cause
from lamina.overlay.directories import MountTable
from lamina.overlay.options import printable
from lamina.overlay.spec import MountSpec


def explain_refusal(
    spec: MountSpec,
    target: str | bytes | os.PathLike[str] | None,
    errno: int,
    messages: Sequence[str] = (),
    *,
    call: str = "",
    fresh: bool = False,
) -> MountError:
    """The error to raise when the kernel refused to mount *spec* (on *target*, if that is known already).

    *errno* is what *call* failed with, *messages* the log of the file system context (lamina.linux.mount.fsmessages).
    *fresh*: the work directory was empty before.
    Never raises anything itself, whatever the state of the machine.
    """
    case = Case(spec, None if target is None else os.fsencode(target), errno, messages, call, fresh=fresh)
    return _error(case, _cause(case))


def foresee(spec: MountSpec, target: str | bytes | os.PathLike[str] | None = None) -> MountError | None:
    """What would go wrong with this stack although the kernel mounts it, or which the kernel explains badly.

    - More than 500 layers, or an upperdir without a workdir.
    - An upperdir or workdir that another overlay uses: undefined, says the kernel, and only warns in its log. Explicit
      `index=on` leaves the check to the kernel (EBUSY), explicit `index=off` is its documented way to override it.
    - An upperdir whose file system cannot keep overlayfs' attributes, or in a user namespace without `userxattr`: every
      directory that is removed and made again, or renamed, would fail with EIO or EXDEV.
    - In a user namespace, options for root of the machine: kernels before 6.5 leave them out, and say so in their log.
    """
    case = Case(spec, None if target is None else os.fsencode(target), 0, (), "")
    for case.errno, check in _FORESEEN:
        if cause := _ask(check, case):
            return _error(case, cause)
    return None


def fell_back_to_read_only(spec: MountSpec, target: str | bytes | os.PathLike[str] | None) -> MountError:
    """The error for a stack which the kernel mounted read-only although it has an upperdir."""
    case = Case(spec, None if target is None else os.fsencode(target), EROFS, (), "")
    return _error(case, _cause(case))


def explain_attach(target: str | bytes | os.PathLike[str] | int, errno: int) -> MountError:
    """The error to raise when move_mount(2) refused to attach a mount to *target*, a path or a descriptor."""
    case = Case(MountSpec(lowerdirs=()), _place(target), errno, (), "move_mount")
    return _error(case, _cause(case, _WHEN_ATTACHING))


def explain_umount(target: str | bytes | os.PathLike[str], errno: int) -> MountError:
    """The error to raise when the kernel refused to unmount *target*."""
    shown = printable(os.fsencode(target))
    why, remedy = _WHEN_UNMOUNTING.get(errno, (os.strerror(errno), "the kernel's log (dmesg) may say more"))
    if errno == EINVAL and MountTable().has(os.path.realpath(os.fsencode(target))):
        why = "it came with this user namespace, which may not uncover what lies below"
        remedy = "unmount it where it was mounted"
    return MountError("umount2", errno, shown, message=f"unmount {shown}: {why}", remedy=remedy)


def _place(target: str | bytes | os.PathLike[str] | int) -> bytes:
    if not isinstance(target, int):
        return os.fsencode(target)
    link = f"/proc/self/fd/{int(target)}"
    try:
        return os.fsencode(os.readlink(link))
    except OSError:
        return link.encode()


def _error(case: Case, cause: Cause) -> MountError:
    target = "" if case.target is None else printable(case.target)
    text = f"mount overlay{' on ' if target else ''}{target}: {cause.why}"
    return MountError(case.call or "mount overlay", case.errno, target, message=text, remedy=cause.remedy)


Check = Callable[[Case], Cause | None]


def _ask(check: Check, case: Case) -> Cause | None:
    try:
        return check(case)
    except Exception:  # a diagnosis that fails must not hide the refusal
        return None


def _cause(case: Case, checks: tuple[tuple[frozenset[int], Check], ...] | None = None) -> Cause:
    for errnos, check in _CHECKS if checks is None else checks:
        if case.errno in errnos and (cause := _ask(check, case)):
            return cause
    said = "; ".join(case.messages) or os.strerror(case.errno)
    return Cause(said, "the kernel's log (dmesg) may say more")


_LOOKUP = frozenset((ENOENT, ENOTDIR, EACCES, ELOOP, ENAMETOOLONG))
_CHECKS: tuple[tuple[frozenset[int], Check], ...] = (
    (frozenset((ENODEV, ENOSYS)), privileges.no_overlay),
    (frozenset((EPERM, EACCES)), privileges.not_allowed),
    (frozenset((EPERM,)), privileges.privileged_option),
    (frozenset((E2BIG,)), causes.too_long),
    (frozenset((EINVAL,)), causes.unknown_to_this_kernel),
    (frozenset((EINVAL,)), causes.incomplete),
    (frozenset((EINVAL,)), causes.too_many),
    (_LOOKUP, causes.unreachable),
    (frozenset((ENOTDIR, EINVAL)), causes.not_a_directory),
    (frozenset((EINVAL, EROFS)), causes.unfit_upper),
    (frozenset((EROFS,)), privileges.work_not_writable),
    (frozenset((EINVAL,)), causes.work_and_upper),
    (frozenset((EINVAL,)), causes.left_by_volatile),
    (frozenset((EINVAL,)), causes.conflicting),
    (frozenset((EINVAL,)), causes.not_to_be_cloned),
    (frozenset((EINVAL,)), causes.foreign_mount_point),
    (frozenset((EINVAL,)), causes.unfit_layer),
    (frozenset((EINVAL,)), causes.too_deep),
    (frozenset((EINVAL, ELOOP)), causes.overlap),
    (frozenset((EINVAL,)), causes.network_upper),
    (frozenset((EBUSY,)), causes.in_use),
    (frozenset((EBUSY,)), causes.in_use_elsewhere),
    (frozenset((ESTALE,)), causes.indexed),
    (frozenset((ENOSPC, ENOMEM)), privileges.no_room),
    (frozenset((EMFILE, ENFILE)), privileges.no_descriptors),
)


_WHEN_ATTACHING: tuple[tuple[frozenset[int], Check], ...] = (
    (frozenset((EPERM, EACCES)), privileges.not_allowed),
    (_LOOKUP, causes.unreachable),
    (frozenset((ENOTDIR, EINVAL)), causes.not_a_directory),
    (frozenset((EINVAL,)), causes.foreign_mount_point),
    (frozenset((ENOSPC, ENOMEM)), privileges.no_room),
)

# errno: reason and remedy
_WHEN_UNMOUNTING = {
    EINVAL: ("nothing is mounted there", "see /proc/self/mountinfo for what is mounted where"),
    EBUSY: (
        "it is in use",
        "leave the directory and close its files, or detach it now and let it end by itself",
    ),
    ENOENT: ("there is no such directory", "correct the path"),
    EPERM: ("only root may unmount, or root of the user namespace that mounted it", "run it as root"),
}


def _unless_index_is_set(case: Case) -> Cause | None:
    return None if "index" in case.options else causes.in_use(case)


_FORESEEN: tuple[tuple[int, Check], ...] = (
    (EINVAL, causes.too_many),
    (EINVAL, causes.incomplete),
    (EBUSY, _unless_index_is_set),
    (EPERM, privileges.privileged_option),
    (EPERM, privileges.user_namespace),
    (EOPNOTSUPP, causes.no_xattrs),
)
