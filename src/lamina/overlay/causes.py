"""What can be wrong with a stack of directories: one question each, answered by looking at them.

Each takes a Case and returns the Cause if that is it, None else. Which question belongs to which errno, and in what
order they are asked, is the table in `refusals`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from errno import EACCES, ELOOP, ENOENT, EOPNOTSUPP
from functools import cached_property

from lamina.overlay.directories import (
    Directory,
    MountTable,
    initial_user_namespace,
    lower_directories,
    writable_directories,
)
from lamina.overlay.options import printable
from lamina.overlay.page import OPTION_PAGE
from lamina.overlay.spec import MOST_LAYERS, MountSpec

_NETWORKS = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "afs", "virtiofs", "lustre", "glusterfs")
# file systems that compare names their own way, or are no place for files
_NO_LAYERS = ("vfat", "msdos", "exfat", "ntfs", "ntfs3", "hfs", "hfsplus", "autofs", "proc")
_STACKED = ("overlay", "ecryptfs", "shiftfs")


@dataclass(frozen=True)
class Cause:
    """What is wrong, and what to do about it."""

    why: str
    remedy: str = ""


class Case:
    """One refusal: what should have been mounted where, and all that the kernel said."""

    def __init__(
        self,
        spec: MountSpec,
        target: bytes | None,
        errno: int,
        messages: Sequence[str],
        call: str,
        *,
        fresh: bool = False,
    ) -> None:
        """*fresh*: the work directory was empty before, so what is in it is of this very mount."""
        self.spec, self.target, self.errno, self.call, self.fresh = spec, target, errno, call, fresh
        # "e overlay: Unknown parameter 'x'": the letter is the severity, before the colon stands the file system
        lines = [printable(message.encode("utf-8", "backslashreplace")) for message in messages]
        self.messages = [re.sub(r"^[ewi] (?:overlay(?:fs)?: )?", "", line) for line in lines]
        self.table = MountTable()

    @cached_property
    def writable(self) -> list[Directory]:
        """upperdir and workdir, as far as given."""
        return writable_directories(self.spec, self.table)

    @cached_property
    def lowers(self) -> list[Directory]:
        """The lower layers, top first, the data-only ones included."""
        return lower_directories(self.spec, self.table)

    @property
    def directories(self) -> list[Directory]:
        """Every directory of the stack, top first."""
        return self.writable + self.lowers

    @property
    def options(self) -> dict[str, str]:
        """The options by name, those with a field of their own included."""
        flags = {"userxattr": self.spec.userxattr, "volatile": self.spec.volatile}
        return dict(self.spec.options) | {name: "" for name, wanted in flags.items() if wanted}


# -- paths -------------------------------------------------------------------------------------------------------


def unreachable(case: Case) -> Cause | None:
    """ENOENT and its like: the first directory, or the mount point, that cannot be looked up."""
    for directory in case.directories:
        if isinstance(directory.found, OSError):
            return _lookup_failed(str(directory), directory.path, directory.found)
    if case.target is not None:
        try:
            os.stat(case.target)
        except OSError as error:
            return _lookup_failed("the mount point", case.target, error)
    return None


def _lookup_failed(name: str, path: bytes, error: OSError) -> Cause:
    if error.errno == ENOENT:
        there = path
        while there and not os.path.lexists(there):
            there, before = os.path.dirname(there), there
            if there == before:
                break
        if there == path:
            return Cause(f"{name} is a symbolic link that leads nowhere", "correct the link")
        where = f" (relative to {printable(os.getcwdb())})" if not path.startswith(b"/") else ""
        return Cause(f"{name} does not exist{where}", "create the directory, or correct the path")
    if error.errno == EACCES:
        return Cause(
            f"{name} cannot be reached: no permission", "every directory above it must be searchable by you"
        )
    return Cause(f"{name}: {os.strerror(error.errno or 0)}", "correct the path")


def not_a_directory(case: Case) -> Cause | None:
    """A file where a directory belongs."""
    for directory in case.directories:
        if directory.kind:
            return Cause(f"{directory} is {directory.kind}, not a directory", "give a directory")
    if case.target is not None and not os.path.isdir(case.target) and os.path.exists(case.target):
        return Cause("the mount point is not a directory", "mount on a directory")
    return None


def foreign_mount_point(case: Case) -> Cause | None:
    """A mount point that is not in the caller's mount namespace."""
    if case.target is None:
        return None
    directory = Directory("the mount point", case.target, case.table)
    if directory.mount_id is None or not case.table.mounts or directory.mount is not None:
        return None
    return Cause(
        "the mount point is of another mount namespace", "enter that mount namespace, and mount there"
    )


# -- the shape of the stack ----------------------------------------------------------------------------------------


def too_many(case: Case) -> Cause | None:
    """More lower layers than overlayfs takes."""
    count = len(case.spec.lowerdirs) + len(case.spec.datadirs)
    if count <= MOST_LAYERS:
        return None
    return Cause(
        f"{count} lower layers, the kernel takes {MOST_LAYERS}", "merge some of them into one directory first"
    )


def incomplete(case: Case) -> Cause | None:
    """No lower layer, an upperdir without workdir, or one lower layer alone."""
    spec = case.spec
    if not spec.lowerdirs:
        return Cause("there is no lower layer", "name at least one lowerdir")
    if spec.upperdir is not None and spec.workdir is None:
        return Cause(
            "an upperdir needs a workdir",
            "add an empty directory beside it as workdir",
        )
    if spec.upperdir is None and len(spec.lowerdirs) + len(spec.datadirs) < 2:
        return Cause(
            f"a stack without upperdir needs at least two lower layers, {case.lowers[0]} is the only one",
            "add another layer, or an upperdir and a workdir; or make a read-only bind mount of that directory instead",
        )
    return None


def too_long(case: Case) -> Cause | None:
    """Options that do not fit into mount(2)'s page."""
    return Cause(
        f"mount(2) carries {OPTION_PAGE} bytes of options, these {len(case.directories)} directories need more",
        "use a kernel from 6.8 on, or fewer layers, or shorter paths (relative ones, from a common directory)",
    )


def overlap(case: Case) -> Cause | None:
    """ELOOP: the same directory twice, or a lower layer inside another layer or inside upperdir or workdir."""
    seen: dict[tuple[int, int], Directory] = {}
    for directory in case.directories:
        if directory.identity is not None:
            if (other := seen.get(directory.identity)) is not None:
                return Cause(
                    f"{other} and {directory} are the same directory", "name every directory only once"
                )
            seen[directory.identity] = directory
    for directory in case.lowers:
        for ancestor in directory.ancestors & seen.keys():
            return Cause(
                f"{directory} lies inside {seen[ancestor]}",
                "a lower layer must lie outside the other directories (an upperdir may lie inside a lowerdir)",
            )
    if case.errno == ELOOP and not any(isinstance(d.found, OSError) for d in case.directories):
        return Cause(
            "two of its directories overlap, perhaps through a bind mount",
            "a lower layer must lie outside all other directories of the stack, on its file system as well",
        )
    return None


def work_and_upper(case: Case) -> Cause | None:
    """upperdir and workdir that are not beside each other under one mount."""
    if len(case.writable) < 2:
        return None
    upper, work = case.writable
    if upper.identity == work.identity:
        return Cause(
            f"{upper} and {work} are the same directory", "give workdir an empty directory beside upperdir"
        )
    for inner, outer in ((work, upper), (upper, work)):
        if inner.lies_in(outer):
            return Cause(f"{inner} lies inside {outer}", "put the two beside each other")
    if upper.mount_id is None or upper.mount_id == work.mount_id:
        return None
    assert not isinstance(upper.found, OSError) and not isinstance(work.found, OSError)
    if upper.found.st_dev == work.found.st_dev:
        how = "are on one file system but under two mounts of it (a bind mount?)"
    else:
        how = "are on different file systems"
    return Cause(
        f"{upper} and {work} {how}", "files are moved from workdir to upperdir: put both under the same mount"
    )


# -- file systems --------------------------------------------------------------------------------------------------


def unfit_upper(case: Case) -> Cause | None:
    """An upperdir or workdir on an overlay, or on something read-only."""
    for directory in case.writable:
        if directory.fstype == "overlay":
            return Cause(
                f"{directory} is on an overlay itself",
                "put upperdir and workdir on an ordinary file system, such as a volume or a tmpfs",
            )
        if directory.read_only:
            return Cause(
                f"{directory} is on a read-only file system", "put upperdir and workdir on a writable one"
            )
    return None


def network_upper(case: Case) -> Cause | None:
    """An upperdir or workdir on a network: overlayfs takes one only if it has all that a local one has."""
    for directory in case.writable:
        if directory.fstype in _NETWORKS or directory.fstype.startswith("fuse"):
            return Cause(
                f"{directory} is on {directory.fstype}, which lacks what an upperdir needs",
                "put upperdir and workdir on a local file system such as ext4, xfs, btrfs or tmpfs",
            )
    return None


def unfit_layer(case: Case) -> Cause | None:
    """A layer on a file system that compares names in its own way, or is no place for files."""
    remedy = "copy it to a file system such as ext4, xfs, btrfs or tmpfs"
    for directory in case.directories:
        if directory.fstype in _NO_LAYERS:
            return Cause(f"{directory} is on {directory.fstype}, which cannot be part of an overlay", remedy)
    for message in case.messages:
        if found := re.search(r"(case-insensitive )?.*filesystem on (.+) not supported", message):
            what = "that ignores case" if found[1] else "that overlayfs does not support"
            return Cause(f"{found[2]} is on a file system {what}", remedy)
    return None


def no_xattrs(case: Case) -> Cause | None:
    """An upperdir whose file system cannot keep overlayfs' attributes."""
    family = "user" if case.spec.userxattr else "trusted"
    for directory in case.writable[:1]:
        if directory.fstype in _STACKED:  # which is the reason, and `unfit_upper` says so
            return None
        try:
            os.getxattr(directory.path, f"{family}.overlay.opaque")
        except OSError as error:
            if error.errno == EOPNOTSUPP:
                return Cause(
                    f"{directory} is on {directory.fstype or 'a file system'} that keeps no {family}.* attributes",
                    "put upperdir and workdir on a file system that does, such as ext4, xfs, btrfs or a recent tmpfs",
                )
    return None


def too_deep(case: Case) -> Cause | None:
    """A layer that is on an overlay on an overlay already."""
    for directory in case.lowers:
        if directory.fstype in _STACKED:
            return Cause(
                f"{directory} is on {directory.fstype}, and too many file systems would lie upon each other (two may)",
                f"name the layers of that {directory.fstype} instead of the directory where they are merged",
            )
    return None


def not_to_be_cloned(case: Case) -> Cause | None:
    """overlayfs takes a private copy of each layer's mount, as `mount --bind` would: not of every mount it may."""
    for directory in case.directories:
        if directory.mount_id is not None and case.table.mounts and directory.mount is None:
            return Cause(
                f"{directory} is on a mount of another mount namespace",
                "reach it by a path of this mount namespace",
            )
        if directory.mount is not None and b"unbindable" in directory.mount.propagation:
            return Cause(
                f"{directory} is on an unbindable mount, {printable(directory.mount.mount_point)}",
                f"mount --make-private {printable(directory.mount.mount_point)}",
            )
        if not initial_user_namespace() and (inner := case.table.below(directory.real)):
            return Cause(
                f"{directory} has mounts below it ({printable(inner[0])}{', ...' if len(inner) > 1 else ''}),"
                " which this user namespace may not lift",
                "give directories without mounts below them, and stack what is mounted there on its own",
            )
    return None


# -- other overlays ------------------------------------------------------------------------------------------------


def in_use(case: Case) -> Cause | None:
    """An upperdir or workdir of a mounted overlay that this process sees."""
    for directory in case.writable:
        if directory.identity and (found := case.table.overlay_using(directory.identity)):
            role, mount = found
            return Cause(
                f"{directory} is in use, as the {role} of the overlay on {printable(mount.mount_point)}",
                f"unmount {printable(mount.mount_point)} first, or give each mount an upperdir and workdir of its own",
            )
    return None


def in_use_elsewhere(case: Case) -> Cause | None:
    """EBUSY without such an overlay in sight."""
    return Cause(
        "upperdir or workdir is in use by another overlay, perhaps in another mount namespace",
        "end what uses it, or give each mount an upperdir and workdir of its own",
    )


def left_by_volatile(case: Case) -> Cause | None:
    """A workdir marked by a volatile mount, or by a feature of a newer kernel."""
    for directory in case.writable:
        if directory.role != "workdir":
            continue
        marks = os.path.join(directory.path, b"work", b"incompat")
        for mark in os.listdir(marks):
            place = printable(os.path.join(marks, mark))
            if mark == b"volatile" and case.fresh:
                continue
            if mark == b"volatile":
                return Cause(
                    f"{directory} was mounted volatile before: if the machine crashed, its upperdir may be damaged",
                    f"if it was unmounted in order, rm -r {place} and mount again; else take a fresh upperdir",
                )
            return Cause(
                f"{directory} has been used with a feature unknown to this kernel, {printable(mark)}",
                f"mount it with the kernel that made {place}, or give an empty workdir",
            )
    return None


def indexed(case: Case) -> Cause | None:
    """ESTALE: the index, or the upperdir's origin, belongs to other directories."""
    return Cause(
        "upperdir or workdir was used with other directories before, and index=on (or nfs_export=on) holds them to it",
        "mount the same directories as then, or with index=off, or give an empty upperdir and workdir",
    )


# -- options -------------------------------------------------------------------------------------------------------

# (option, value), (option, value): not both
_CONFLICTS = (
    (("metacopy", "on"), ("redirect_dir", "off")),
    (("metacopy", "on"), ("redirect_dir", "follow")),
    (("metacopy", "on"), ("redirect_dir", "nofollow")),
    (("nfs_export", "on"), ("index", "off")),
    (("nfs_export", "on"), ("metacopy", "on")),
    (("userxattr", ""), ("redirect_dir", "on")),
    (("userxattr", ""), ("redirect_dir", "follow")),
    (("userxattr", ""), ("metacopy", "on")),
    (("userxattr", ""), ("verity", "on")),  # before 6.16
    (("userxattr", ""), ("verity", "require")),
    (("verity", "on"), ("metacopy", "off")),
    (("verity", "require"), ("metacopy", "off")),
    (("verity", "on"), ("redirect_dir", "off")),
    (("verity", "require"), ("redirect_dir", "off")),
)


def setting_of(option: tuple[str, str]) -> str:
    """An option as it is written."""
    return "=".join(filter(None, option))


def unknown_to_this_kernel(case: Case) -> Cause | None:
    """An option or a value that only other kernels have."""
    for message in case.messages:
        if found := re.search(r"(Unknown parameter|Bad value for) '(.+)'", message):
            what = (
                f"no option {found[2]}"
                if found[1] == "Unknown parameter"
                else f"no such setting of {found[2]}"
            )
            return Cause(
                f"this kernel's overlayfs has {what}", f"leave {found[2]} away, or use a newer kernel"
            )
    return None


def conflicting(case: Case) -> Cause | None:
    """Two options, explicitly given, that exclude each other."""
    items = case.options.items()
    for one, other in _CONFLICTS:
        if one in items and other in items:
            return Cause(
                f"{setting_of(one)} and {setting_of(other)} exclude each other", "leave one of them away"
            )
    if case.spec.datadirs and case.options.get("metacopy") != "on":
        return Cause("data-only layers need metacopy=on on this kernel", "add metacopy=on")
    return None
