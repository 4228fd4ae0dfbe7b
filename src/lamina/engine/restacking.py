"""The root of a container that runs, replaced by a new overlay on top of what it has written so far.

What it wrote becomes a layer that never changes again, and costs the same whatever its size: no file is touched. While
the container stands still (standstill.py)

* whoever would notice is looked for in /proc (runtime/holders.py);
* the old overlay is made read-only. The kernel refuses that as long as anybody could write there, by whatever
  descriptor, mapping or request under way (mnt_hold_writers in fs/namespace.c), and nobody can from then on. So that a
  layer does not change rests on the kernel's own account. Where processes of it may mount, its whole file system is, by
  whatever mount of it (sb_prepare_remount_readonly), which takes longer the more names of files the kernel remembers;
* the new overlay is mounted, what is mounted in the old one is moved to it, and the two change places
  (runtime/swapping.py).

Where somebody holds on to the old root it is as *consistency* says. Decisions 0059 and 0060.
"""

from __future__ import annotations

import os
from errno import EBUSY, EINVAL, ENOENT
from stat import S_ISDIR
from time import monotonic, sleep

from lamina.engine.standstill import Standstill
from lamina.errors import Conflict, InvalidInput, KernelError, LaminaError
from lamina.linux.constants import (
    AT_EMPTY_PATH,
    CLONE_VFORK,
    CLONE_VM,
    FSCONFIG_CMD_RECONFIGURE,
    FSCONFIG_SET_FLAG,
    FSPICK_EMPTY_PATH,
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    STATX_MNT_ID,
)
from lamina.linux.fd import Fd
from lamina.linux.files import openat2, statx
from lamina.linux.mount import fsconfig, fspick
from lamina.linux.mountinfo import read_mountinfo
from lamina.linux.program import Step, assemble
from lamina.overlay import mount as overlays
from lamina.runtime.holders import Found, Holder, Old, command_of, look, mapped, may_mount, said
from lamina.runtime.redirecting import Moving, is_possible, why_not
from lamina.runtime.swapping import CLOSING, Moved, Swapped, came_to_the_end, swap_steps
from lamina.store.durable import sync_file_system
from lamina.store.tree import remove_tree
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lamina.engine.within import Maps
    from lamina.linux.mountinfo import Mount
    from lamina.overlay.spec import MountSpec
    from lamina.runtime.holders import Directory
    from lamina.store.containers import Home

    Stacks = Sequence[tuple[bytes, MountSpec]]

AUTO, REFUSE, COPY, WAIT = "auto", "refuse", "copy", "wait"
CONSISTENCIES = (AUTO, REFUSE, COPY, WAIT)
PATIENCE = 10.0  # how long `wait` waits, in seconds
MOST_NAMED = 5
_EXACTLY = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS
_PLACE = os.O_PATH | os.O_NOFOLLOW
_VOLATILE = frozenset((b"volatile", b"fsync=volatile"))  # before Linux 6.6, and since
# proc_pid_mountinfo(5), field 6
_ATTRIBUTES = {
    b"ro": MOUNT_ATTR_RDONLY,
    b"nosuid": MOUNT_ATTR_NOSUID,
    b"nodev": MOUNT_ATTR_NODEV,
    b"noexec": MOUNT_ATTR_NOEXEC,
    b"noatime": MOUNT_ATTR_NOATIME,
    b"nodiratime": MOUNT_ATTR_NODIRATIME,
    b"nosymfollow": MOUNT_ATTR_NOSYMFOLLOW,
}


@value
class Restacked:
    """`swapped`: whether the root was replaced (else what had been written was copied), `holders` who kept it from
    being; of one that was replaced, whose working directory could not follow. `seconds` is how long it stood still.
    """

    swapped: bool
    holders: tuple[Holder, ...] = ()
    seconds: float = 0.0


def restack(
    home: Home,
    before: Stacks,
    after: Stacks,
    *,
    consistency: str = AUTO,
    ready: Callable[[], None],
    copy: Callable[[], None] | None = None,
    patience: float = PATIENCE,
) -> Restacked:
    """Have the container, which runs or is paused, stand on *after* instead of *before*: both are (place, stack) in the
    same order, parents first; a place that stays has the same stack in both.

    *ready* is called once, while it stands still, to make the directories of *after*; *copy* where the root is not to
    be replaced, or cannot be, to copy what was written, while it stands still as well. *consistency* is one of
    CONSISTENCIES: `auto` copies where somebody holds on to the old root, `refuse` raises Conflict, `wait` tries again
    for *patience* seconds first, `copy` never replaces it. Without *copy*, `auto` is `refuse`.

    What is in the uppers of *before* is on the disk then, unless they are volatile. Raises InvalidInput, Conflict,
    Unsupported, NotFound, TimeoutExpired, MountError, KernelError: the container then goes on as before.
    """
    if consistency not in CONSISTENCIES or (consistency == COPY and copy is None):
        raise InvalidInput(
            f"consistency {consistency!r} is not known", remedy=f"one of {', '.join(CONSISTENCIES)}"
        )
    words = f"take the state of container {home.asked()['name']}"
    end, pause, prepared = monotonic() + patience, 0.001, False
    while True:
        with Standstill(home, words) as still, _Swap(still, before, after) as swap:
            still.stop(swap.undo(), swap.held())
            if not prepared:
                ready()
                prepared = True
            holders = () if consistency == COPY else swap.try_it()
            if swap.done:
                still.go_on()
                seconds = monotonic() - still.began
                holders = swap.finish()
                swap.sync()
                return Restacked(True, holders, seconds)
            if copy is not None and consistency in (AUTO, COPY):
                copy()
            still.go_on()
            swap.finish()
            if copy is not None and consistency in (AUTO, COPY):
                return Restacked(False, holders, monotonic() - still.began)
        if consistency != WAIT or monotonic() > end:
            raise _refusal(words, holders, waited=patience if consistency == WAIT else None)
        sleep(min(pause, max(0.0, end - monotonic())))
        pause = min(2 * pause, 0.05)


def swapped_to(home: Home, after: Stacks) -> bool | None:
    """Whether the container's root is that of *after*, for who finds that somebody was killed in between; None where it
    does not run. Raises KernelError.
    """
    from lamina.engine.settling import Process

    with Process(home.read("state")) as first:
        if not first.is_there:
            return None
        mounts = read_mountinfo(first.pid)
        if not first.is_there:
            return None
    # by name: which number an upper has is the container's own, and where it is seen is not always where it is
    now = {mount.mount_point: _upper_of(mount) for mount in mounts if mount.fstype == b"overlay"}
    return any(
        spec.upperdir is not None and now.get(at) == os.path.basename(spec.upperdir) for at, spec in after
    )


def _upper_of(mount: Mount) -> bytes:
    for option in mount.super_options:
        if option.startswith(b"upperdir="):
            return os.path.basename(option)
    return b""


def _refusal(words: str, holders: Sequence[Holder], waited: float | None) -> Conflict:
    named = "; ".join(map(str, holders[:MOST_NAMED]))
    more = f"; and {len(holders) - MOST_NAMED} more" if len(holders) > MOST_NAMED else ""
    still = "" if waited is None else f", after {waited:g} seconds still"
    return Conflict(
        f"{words}: in use{still}: {named}{more}",
        remedy="--consistency copy copies what was written; or stop the container first",
    )


class _Swap:
    """The places of a container whose overlay is another one in *after*. For a `with`, while it stands still."""

    def __init__(self, still: Standstill, before: Stacks, after: Stacks) -> None:
        self.still = still
        self.done = False
        self.changed = [
            (at, new)
            for (at, old), (_, new) in zip(before, after, strict=True)
            if old is not new and old != new
        ]
        self._fds: list[Fd] = []
        self._old: list[Fd] = []
        self._writable: list[Fd] = []  # contexts that make an old overlay writable again
        self._closed: list[Fd] = []  # those of these that were made read-only
        self._new: list[Fd] = []
        self._mounts: list[Mount] = []
        self._places: list[Mount] = []  # what is mounted there now
        self._obstacles: list[Holder] = []
        self._moving: list[Moving] = []

    def __enter__(self) -> _Swap:
        if os.geteuid():
            self._obstacles.append(Holder(0, "", "", "a root that only root of this machine can replace"))
            return self
        try:
            for at, _ in self.changed:
                self._old.append(
                    self._keep(openat2(self.still.root, at.lstrip(b"/") or b".", _PLACE, resolve=_EXACTLY))
                )
            for old in self._old:
                self._writable.append(self._context(old, b"rw"))
        except KernelError as error:
            self._fds.clear()
            self._old.clear()
            self._writable.clear()
            if error.errno not in (EINVAL, ENOENT):
                raise
            first = self.still.first.pid  # its first process is in a root of its own making
            self._obstacles.append(Holder(first, command_of(first), "", "a root of its own"))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if not self.done:
                self.back()
            if self._moving:  # it was interrupted
                self.still.go_on()
                self.finish()
        finally:
            for fd in reversed(self._fds):
                fd.close()

    def undo(self) -> list[Step]:
        """What another process does if we end before it is done."""
        return [Step("fsconfig", int(fd), FSCONFIG_CMD_RECONFIGURE, None, None, 0) for fd in self._writable]

    def held(self) -> list[int]:
        """What of it keeps the old overlays alive."""
        return [*map(int, self._old)]

    def sync(self) -> None:
        """What was written is on the disk, unless it need not be. Raises KernelError."""
        if all(_VOLATILE & {*place.super_options} for place in self._places):
            return
        with Fd(os.open(self.still.home.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as place:
            sync_file_system(place, what="state")

    def back(self) -> None:
        """It is not to be: what was made read-only is writable again. Raises KernelError."""
        while self._closed:
            fsconfig(self._closed.pop(), FSCONFIG_CMD_RECONFIGURE, None, None)

    def try_it(self) -> tuple[Holder, ...]:
        """Replace the root, or say who is in the way; then nothing has changed. Raises MountError, KernelError."""
        if self._obstacles or not self.changed:
            self.done = not self._obstacles
            return tuple(self._obstacles)
        self._mounts = read_mountinfo(self.still.first.pid)
        self._places = [self._mount_of(fd) for fd in self._old]
        devices = frozenset((one.major, one.minor) for one in self._places)
        every = [one for one in self._mounts if (one.major, one.minor) in devices]
        old = Old(devices, frozenset(one.id for one in every), frozenset(one.id for one in self._places))
        holders = self._in_the_way(every)
        directories: tuple[Directory, ...] = ()
        if not holders:
            holders, directories = self._holders(old)
        if not holders:
            self._mount()
            holders = self._follow(directories)
        if not holders:
            holders = self._replace(old)
        if holders:
            self.back()
        return tuple(holders)

    def finish(self) -> tuple[Holder, ...]:
        """Once it goes on: have those follow whose working directory was in the old root. Who could not is named; for
        them everything there is read-only, and as it was.
        """
        left = []
        while self._moving:
            moving = self._moving.pop()
            if not self.done:
                moving.let_go()
            elif why := moving.move():
                one = moving.one
                left.append(
                    Holder(
                        one.pid,
                        command_of(one.pid),
                        said(one.path),
                        f"its working directory ({why}) in the old",
                    )
                )
        return tuple(left)

    # -- who is in the way

    def _in_the_way(self, every: list[Mount]) -> list[Holder]:
        found = [
            Holder(0, "", said(one.mount_point), "its root mounted once more, at")
            for one in every
            if one not in self._places
        ]
        return found + [
            Holder(0, "", said(one.mount_point), "mounts that are connected with others, at")
            for one in self._places
            if one.propagation
        ]

    def _holders(self, old: Old) -> tuple[list[Holder], tuple[Directory, ...]]:
        pids = {self.still.first.pid, *self.still.group.processes()} - {0}
        found: Found = look(pids, self.still.first.pid, self.still.root, old)
        holders = [*found.holders]
        if may_mount(pids) or not self._is_filtered():
            holders += self._escaped(pids)
            if not self._close():
                holders += self._writers(old)
        return holders, found.directories

    def _is_filtered(self) -> bool:
        """Whether its filter of system calls is ours, which lets nobody make namespaces who may not mount."""
        state = self.still.home.read("state") or {}
        linux: dict[str, object] = (state.get("joining") or {}).get("linux") or {}
        return linux.get("defaultFilter") is not None

    def _writers(self, old: Old) -> list[Holder]:
        """Who it is, when the kernel says that somebody may write."""
        pids = {self.still.first.pid, *self.still.group.processes()} - {0}
        unseen = "a file open for writing, or deleted, that no descriptor shows"
        return mapped(pids, old) or [Holder(0, "", "", unseen)]

    def _follow(self, directories: Sequence[Directory]) -> list[Holder]:
        """Hold those whose working directory has to be moved, before they go on; or those with whom that cannot be."""
        found = []
        for one in directories:
            try:
                why = self._unmovable(one)
                if not why:
                    self._moving.append(Moving(one))
                    continue
            except OSError as error:
                why = os.strerror(error.errno or 0)
            holds = f"its working directory ({why}) in"
            found.append(Holder(one.pid, command_of(one.pid), said(one.path), holds))
        return found

    def _unmovable(self, one: Directory) -> str:
        if not is_possible():
            return "only root can move it, on x86-64"
        if self.still.paused:
            return "the container is paused"
        which = next(index for index, place in enumerate(self._places) if place.id == one.mount)
        at = self._places[which].mount_point.rstrip(b"/")
        try:
            path = one.path[len(at) :].lstrip(b"/") or b"."
            openat2(self._new[which], path, _PLACE | os.O_DIRECTORY, resolve=_EXACTLY).close()
        except KernelError as error:
            return f"afterwards it is not there: {error.strerror}"
        return why_not(one)

    def _close(self) -> bool:
        """Make the old overlays read-only; False where somebody may write to one."""
        for old, writable in zip(self._old, self._writable, strict=True):
            try:
                fsconfig(self._context(old, b"ro"), FSCONFIG_CMD_RECONFIGURE, None, None)
            except KernelError as error:
                if error.errno != EBUSY:
                    raise
                return False
            self._closed.append(writable)
        return True

    def _escaped(self, pids: set[int]) -> list[Holder]:
        """Processes of its pid namespace that are in other groups, and do not stand still."""
        first = self.still.first.pid
        space = os.stat(f"/proc/{first}/ns/pid").st_ino
        if space == os.stat("/proc/self/ns/pid").st_ino:
            return []
        found = []
        for name in os.listdir("/proc"):
            try:
                if not name.isdigit() or int(name) in pids or os.stat(f"/proc/{name}/ns/pid").st_ino != space:
                    continue
            except OSError:  # gone, or a zombie
                continue
            found.append(Holder(int(name), "", "", "left the container's control groups"))
        return found

    # -- replacing it

    def _mount(self) -> None:
        for (_, spec), place in zip(self.changed, self._places, strict=True):
            if spec.workdir is not None and os.listdir(spec.workdir):  # of a try before
                remove_tree(spec.workdir)
                os.mkdir(spec.workdir, 0o700)
            spec = replace(spec, volatile=bool(_VOLATILE & {*place.super_options}))
            asked = self.still.home.asked()
            if asked.get("own_ids"):
                new = self._mapped(spec, asked["id_maps"], _attributes(place))
            else:
                new = overlays.create(spec, attributes=_attributes(place))
            self._new.append(self._keep(new))

    def _mapped(self, spec: MountSpec, maps: Maps, attributes: int) -> Fd:
        """As `overlays.create`, seen with the ids of the container's user namespace."""
        from lamina.engine.roots import owner_of
        from lamina.linux.mount import mount_setattr
        from lamina.runtime.bundle import Bundle
        from lamina.runtime.facts import process_facts
        from lamina.runtime.stacks import mapped_stacks

        place = f"/proc/{self.still.first.pid}/ns/user"
        with Fd(os.open(place, os.O_RDONLY | os.O_CLOEXEC)) as namespace:
            bundle = Bundle(spec={}, rootfs=spec, merged=self.still.home.store.merged, mapped=True)
            ((_, new),) = mapped_stacks(bundle, namespace, owner_of(maps), process_facts({}, {}))
        mount_setattr(new, "", AT_EMPTY_PATH, attr_set=attributes, attr_clr=MOUNT_ATTR__ATIME)
        return new

    def _replace(self, old_ones: Old) -> list[Holder]:
        swapped: list[Swapped] = []
        for (at, _), old, new, place in zip(self.changed, self._old, self._new, self._places, strict=True):
            moved = []
            for child in [one for one in self._mounts if one.parent == place.id and one.id != place.id]:
                found = self._movable(old, new, at, child)
                if found is None:
                    return [Holder(0, "", said(child.mount_point), "several mounts on each other, at")]
                moved.append(found)
            swapped.append(Swapped(int(old), int(new), b"ro" in place.options, tuple(moved)))
        return self._walk(swapped, old_ones)

    def _movable(self, old: Fd, new: Fd, at: bytes, child: Mount) -> Moved | None:
        path = child.mount_point[len(at.rstrip(b"/")) :].lstrip(b"/")
        if not path:
            return None
        mount = self._keep(openat2(old, path, _PLACE, resolve=_EXACTLY))
        if self._id_of(mount) != child.id:
            return None
        directory = S_ISDIR(os.fstat(mount).st_mode)
        return Moved(path, int(mount), int(self._keep(_mount_point(new, path, directory=directory))))

    def _walk(self, swapped: list[Swapped], old: Old) -> list[Holder]:
        namespace = self._keep(
            Fd(os.open(f"/proc/{self.still.first.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))
        )
        if not self.still.first.is_there:
            raise self.still.has_ended()
        steps, needed = swap_steps(int(namespace), swapped, self.still.finally_)
        child = assemble(steps).spawn(CLONE_VM | CLONE_VFORK)
        with child.pidfd:
            try:
                os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
            except ChildProcessError:
                pass  # somebody in this program waits for any child
        results = child.outcome().results
        child.settle()
        failed = next((index for index in range(needed) if results[index] < 0), None)
        if failed is None:
            if not came_to_the_end(results, needed, len(swapped), len(self.still.finally_)):
                raise LaminaError(
                    f"{self.still.said}: who replaced its root was killed in between",
                    remedy="restart the container if some of its mounts are missing",
                )
            self.done = self.still.went_on = True
            return []
        why = f"{steps[failed].note or steps[failed].call}: {os.strerror(-results[failed])}"
        undone = [index for index in range(needed, len(steps)) if results[index] < 0]
        if undone:
            raise LaminaError(
                f"{self.still.said}: {why}; and {steps[undone[0]].call} to undo it: {os.strerror(-results[undone[0]])}",
                remedy="some of its mounts are missing: restart the container",
            )
        if steps[failed].note == CLOSING and -results[failed] == EBUSY:
            return self._writers(old)
        return [Holder(0, "", "", f"a root that cannot be replaced ({why})")]

    # -- descriptors

    def _keep(self, fd: Fd) -> Fd:
        self._fds.append(fd)
        return fd

    def _context(self, old: Fd, flag: bytes) -> Fd:
        context = self._keep(fspick(old, b"", FSPICK_EMPTY_PATH))
        fsconfig(context, FSCONFIG_SET_FLAG, flag, None)
        return context

    def _id_of(self, fd: Fd) -> int:
        return statx(fd, b"", AT_EMPTY_PATH, STATX_MNT_ID).mnt_id

    def _mount_of(self, fd: Fd) -> Mount:
        identity = self._id_of(fd)
        for mount in self._mounts:
            if mount.id == identity:
                return mount
        raise Conflict(f"{self.still.said}: its root is not where it began")


def _attributes(mount: Mount) -> int:
    """The MOUNT_ATTR flags of a mount that is there."""
    found = sum(_ATTRIBUTES.get(word, 0) for word in mount.options)
    return found if {b"noatime", b"relatime"} & {*mount.options} else found | MOUNT_ATTR_STRICTATIME


def _mount_point(root: int, path: bytes, *, directory: bool) -> Fd:
    """*path* below *root*; what is missing of it is made, as a start does. Raises KernelError."""
    inside = _EXACTLY | RESOLVE_NO_XDEV
    try:
        return openat2(root, path, _PLACE, resolve=inside)
    except KernelError as error:
        if error.errno != ENOENT:
            raise
    names = path.split(b"/")
    for number, name in enumerate(names):
        above = b"/".join(names[:number]) or b"."
        with openat2(root, above, _PLACE | os.O_DIRECTORY, resolve=inside) as parent:
            try:
                if directory or number < len(names) - 1:
                    os.mkdir(name, 0o755, dir_fd=parent)
                else:
                    os.close(
                        os.open(
                            name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=parent
                        )
                    )
            except FileExistsError:
                continue
    return openat2(root, path, _PLACE, resolve=inside)
