"""The image `host`: this machine, every real file system of it under an overlay of its own.

`compose` decides from the table of mounts what becomes of each; it changes nothing.

    a real file system                 an overlay at its place; without an upper where the host's mount is read-only
    proc, sysfs, cgroup and the like   fresh or absent
    below /proc, /sys, /dev            absent: the container has its own
    a single mounted file, vfat, ...   bound read-only, and named in a warning
    a mounted socket or device,
    what may not be looked at          absent, and named in a warning

In a user namespace the kernel does not let a directory be overlaid from under which a mount was taken away (EINVAL in
clone_private_mount: what was mounted there would come to light). There a directory with mounts below it becomes a
skeleton instead: a small lower directory of our own that has the same entries as mount points, each with an overlay of
its own, or a read-only bind for a file; see `lamina.engine.skeleton`.
"""

from __future__ import annotations

import os
from stat import S_ISDIR, S_ISREG

from lamina.engine.places import CLOSED, DIRECTORY, FILE, GONE, SPECIAL, HostImage, Place
from lamina.errors import Unsupported
from lamina.linux.mountinfo import MountTable, mount_of, prefixes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from lamina.linux.mountinfo import Mount

# Views of the kernel and of other programs rather than files: filesystems(5), and Documentation/filesystems
PSEUDO = frozenset(
    b"autofs binder binfmt_misc bpf cgroup cgroup2 configfs cpuset debugfs devpts devtmpfs dlmfs efivarfs functionfs "
    b"fuse.gvfsd-fuse fuse.lxcfs fuse.portal fusectl gadgetfs hugetlbfs mqueue nfsd nsfs ocfs2_dlmfs pipefs proc "
    b"pstore resctrl rpc_pipefs securityfs selinuxfs smackfs sockfs spufs sysfs tracefs usbfs xenfs".split()
)
# overlayfs.rst: case-insensitive file systems, and those that look names up in ways of their own
NO_LOWER = frozenset(b"adfs affs exfat hfs hfsplus hpfs msdos ntfs ntfs3 umsdos vfat".split())
# no upper: no xattrs, no whiteouts, or looked up remotely (ovl_mount_dir_check)
NO_UPPER = NO_LOWER | frozenset(
    b"9p afs aufs ceph cifs cramfs ecryptfs erofs fuse fuseblk iso9660 nfs nfs4 overlay ramfs romfs shiftfs smb3 "
    b"squashfs udf virtiofs".split()
)
# images that nobody could write to anyway: bound as they are
READ_ONLY_IMAGES = frozenset((b"squashfs", b"erofs", b"iso9660", b"cramfs", b"romfs"))
FRESH = (b"/proc", b"/sys", b"/dev")
# the kernel stacks file systems twice at most (FILESYSTEM_MAX_STACK_DEPTH)
DEEPEST_LOWER = 1
MOST_LEVELS = 8


def kind_of(path: bytes) -> str:
    """What the host's *path* is: directory, file, special, closed (may not be looked at), gone."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return GONE
    except OSError:
        return CLOSED
    return DIRECTORY if S_ISDIR(mode) else FILE if S_ISREG(mode) else SPECIAL


def below(path: bytes, directory: bytes) -> bool:
    """Whether *path* lies strictly below *directory*; both absolute and normalised."""
    return path != directory and path.startswith(directory if directory == b"/" else directory + b"/")


def at_or_below(path: bytes, directory: bytes) -> bool:
    """Whether *path* is *directory* or lies below it."""
    return path == directory or below(path, directory)


def visible(mounts: Sequence[Mount]) -> list[Mount]:
    """The mounts that can be reached by their path, parents first; those which others cover are left out."""
    known = {mount.id for mount in mounts}
    children: dict[int, list[Mount]] = {}
    top = None
    for mount in mounts:
        if mount.parent in known and mount.parent != mount.id:
            children.setdefault(mount.parent, []).append(mount)
        elif mount.mount_point == b"/":
            top = mount
    if top is None:
        raise Unsupported(
            "compose image host: the root directory of this process is no mount (a chroot?)",
            remedy="run Lamina outside the chroot",
        )
    seen: list[Mount] = []
    waiting = [top]
    # not a call of itself for each: somebody may have mounted over the same place again and again
    while waiting:
        mount = waiting.pop()
        on_it = children.get(mount.id, [])
        if over := [child for child in on_it if child.mount_point == mount.mount_point]:
            waiting.append(over[-1])
            continue
        seen.append(mount)
        places = {child.mount_point: child for child in on_it}  # of two at the same place the later covers
        shown = [place for place in sorted(places) if not any(one in places for one in _above(place))]
        waiting += [places[place] for place in reversed(shown)]
    return seen


def _above(path: bytes) -> list[bytes]:
    """The directories above an absolute *path*."""
    return list(prefixes(path))[:-1] if path != b"/" else []


def compose(
    mounts: Sequence[Mount],
    *,
    hide: Sequence[bytes] = (),
    refused: Mapping[bytes, str] | None = None,
    rootless: bool = False,
    kind: Callable[[bytes], str] = kind_of,
) -> HostImage:
    """The image of a host with these *mounts*, in which the directories *hide* cannot be seen.

    *refused* are places of which the kernel has said that they cannot be overlaid, and why. *rootless* for use in a
    user namespace. Raises Unsupported when the root cannot be overlaid.
    """
    seen = visible(mounts)
    judge = _Judge(mounts, kind, refused or {})
    for mount in seen:
        judge.judge(mount)
    root = seen[0]
    if judge.verdicts[root.id] != OVERLAY:
        raise Unsupported(
            f"compose image host: the root file system ({root.fstype.decode(errors='replace')}) cannot be overlaid",
            remedy=judge.warnings[-1] if judge.warnings else "",
        )
    verdicts = {mount.mount_point: judge.verdicts[mount.id] for mount in seen}
    if rootless:
        from lamina.engine.skeleton import compose_with_skeletons

        image = compose_with_skeletons(seen, mounts, verdicts, hide, refused or {})
        return HostImage(
            image.places, image.readonly, _hidden(hide, seen, verdicts, kind), image.stubs,
            (*judge.warnings, *image.warnings),
        )  # fmt: skip
    return HostImage(
        places=tuple(
            Place(m.mount_point, m.mount_point, writable=not m.read_only or m is root)
            for m in seen
            if judge.verdicts[m.id] == OVERLAY
        ),
        readonly=tuple(m.mount_point for m in seen if judge.verdicts[m.id] == READ_ONLY),
        hide=_hidden(hide, seen, verdicts, kind),
        warnings=tuple(judge.warnings),
    )


OVERLAY, READ_ONLY, ABSENT, COVERED = "overlay", "read-only", "absent", "covered"


class _Judge:
    """Decides for one mount after the other, parents first, what becomes of it."""

    def __init__(
        self, mounts: Sequence[Mount], kind: Callable[[bytes], str], refused: Mapping[bytes, str]
    ) -> None:
        self.kind, self.refused, self.depths = kind, refused, _Depths(mounts)
        self.verdicts: dict[int, str] = {}
        self.stacked: dict[int, int] = {mount.id: mount.parent for mount in mounts}
        self.warnings: list[str] = []

    def judge(self, mount: Mount) -> None:
        self.verdicts[mount.id] = self._verdict(mount)

    def _above(self, mount: Mount) -> str:
        """The verdict on the mount that this one is reached through."""
        parent = mount.parent
        while parent not in self.verdicts:
            if parent not in self.stacked or self.stacked[parent] == parent:
                return OVERLAY
            parent = self.stacked[parent]
        return self.verdicts[parent]

    def _verdict(self, mount: Mount) -> str:
        place, fstype = mount.mount_point, mount.fstype
        above = self._above(mount)
        if any(at_or_below(place, fresh) for fresh in FRESH) or fstype in PSEUDO:
            return ABSENT
        if above in (READ_ONLY, COVERED):
            return COVERED  # comes with the one above, which is bound with all that is below it
        if above == ABSENT:
            return self._leave_out(mount, "what it is mounted on is not there")
        kind = self.kind(place)
        if kind in (CLOSED, GONE):
            return self._leave_out(mount, "it may not be looked at")
        if kind == SPECIAL:
            return self._leave_out(mount, "a socket or device of the host")
        if kind == FILE:
            return self._bind(mount, "a single file cannot be overlaid")
        if place in self.refused:
            return self._bind(mount, self.refused[place])
        if fstype in NO_LOWER:
            return self._bind(mount, "this kind of file system cannot be overlaid")
        if fstype == b"overlay" and self.depths.of(mount) > DEEPEST_LOWER:
            return self._bind(mount, "an overlay of overlays cannot be overlaid again")
        if fstype in READ_ONLY_IMAGES and place != b"/":
            return READ_ONLY
        return OVERLAY

    def _leave_out(self, mount: Mount, why: str) -> str:
        self.warnings.append(f"{_name(mount)} is not there: {why}")
        return ABSENT

    def _bind(self, mount: Mount, why: str) -> str:
        self.warnings.append(f"{_name(mount)} is read-only: {why}")
        return READ_ONLY


def _name(mount: Mount) -> str:
    return (
        f"{mount.mount_point.decode('utf-8', 'backslashreplace')} ({mount.fstype.decode(errors='replace')})"
    )


def stack_depth(mount: Mount, mounts: Sequence[Mount]) -> int:
    """How many file systems *mount* stacks: 0 for an ordinary one, 1 for an overlay of ordinary ones.

    A guess from the directories that are named in its options; those of another mount namespace cannot be followed.
    """
    return _Depths(mounts).of(mount)


class _Depths:
    """Each mount is looked at once: there may be a thousand overlays of twenty layers, and names of another mount
    namespace may lead from one to another and back.
    """

    def __init__(self, mounts: Sequence[Mount]) -> None:
        self.table = MountTable(mounts)
        self.known: dict[int, int] = {}

    def of(self, mount: Mount, level: int = 0) -> int:
        if mount.fstype != b"overlay" or level > MOST_LEVELS:
            return 0
        if mount.id not in self.known:
            self.known[mount.id] = 1  # of one that leads back to itself
            below = {one.id: one for one in map(self.table.mount_of, _layers(mount)) if one is not None}
            below.pop(mount.id, None)
            self.known[mount.id] = 1 + max((self.of(one, level + 1) for one in below.values()), default=0)
        return self.known[mount.id]


def _layers(mount: Mount) -> Iterator[bytes]:
    """The absolute paths of directories that the overlay *mount* names."""
    for option in mount.super_options:
        key, _, text = option.partition(b"=")
        if key in (b"lowerdir", b"upperdir", b"lowerdir+"):
            yield from (directory for directory in text.split(b":")[:500] if directory.startswith(b"/"))


def _hidden(
    hide: Sequence[bytes], seen: Sequence[Mount], verdicts: dict[bytes, str], kind: Callable[[bytes], str]
) -> tuple[bytes, ...]:
    """Every place at which a directory of *hide* shows: bind mounts may show it more than once."""
    places, table = set(), MountTable(seen)
    for directory in hide:
        home = table.mount_of(directory)
        if home is None:
            continue
        inside = _join(home.root, _relative(directory, home.mount_point))
        for mount in seen:
            if (mount.major, mount.minor) != (home.major, home.minor):
                continue
            if below(mount.root, inside):  # a part of it
                place = mount.mount_point
            elif at_or_below(inside, mount.root):
                place = _join(mount.mount_point, _relative(inside, mount.root))
            else:
                continue
            # of a mount that is a single file, or is not there, nothing shows
            if (
                table.mount_of(place) is mount
                and verdicts[mount.mount_point] != ABSENT
                and kind(mount.mount_point) == DIRECTORY
            ):
                places.add(place)
    return tuple(sorted(p for p in places if not any(below(p, other) for other in places)))


def _relative(path: bytes, directory: bytes) -> bytes:
    return path[len(directory) :].lstrip(b"/")


def _join(directory: bytes, relative: bytes) -> bytes:
    return directory.rstrip(b"/") + b"/" + relative if relative else directory


def check_store(path: bytes, mounts: Sequence[Mount]) -> None:
    """Raises Unsupported when the store at *path* lies where no writable layer can be kept."""
    mount = mount_of(path, list(mounts))
    if mount is None:
        return
    fstype = mount.fstype
    if fstype in NO_UPPER or fstype.startswith(b"fuse.") or fstype in PSEUDO:
        raise Unsupported(
            f"keep a writable layer in {os.fsdecode(path)}: {fstype.decode(errors='replace')} cannot hold the upper "
            "directory of an overlay",
            remedy="put the store on ext4, xfs, btrfs or tmpfs with --root or LAMINA_ROOT",
        )
    if mount.read_only:
        raise Unsupported(
            f"keep a writable layer in {os.fsdecode(path)}: the file system is mounted read-only",
            remedy="put the store elsewhere with --root or LAMINA_ROOT",
        )
