"""The overlays of a container replaced by others, while it stands still (restacking.py says why, and in what order).

Without root the new ones are mounted in the container's user namespace, as its first ones were, in a mount namespace of
their own from where they are moved.
"""

from __future__ import annotations

import os
from contextlib import suppress
from errno import EBUSY, EINVAL, ENOENT
from stat import S_ISDIR

from lamina.engine.standstill import Standstill
from lamina.errors import Conflict, KernelError, LaminaError
from lamina.linux.constants import (
    AT_EMPTY_PATH,
    AT_STATX_DONT_SYNC,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    CLONE_VFORK,
    CLONE_VM,
    FSCONFIG_CMD_RECONFIGURE,
    FSCONFIG_SET_FLAG,
    FSPICK_EMPTY_PATH,
    MOUNT_ATTR__ATIME,
    MS_PRIVATE,
    MS_REC,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    STATX_MNT_ID,
    STATX_TYPE,
)
from lamina.linux.fd import Fd
from lamina.linux.files import openat2, statx
from lamina.linux.mount import fsconfig, fspick
from lamina.linux.mountinfo import read_mountinfo
from lamina.linux.program import Reg, Step, assemble
from lamina.overlay import mount as overlays
from lamina.overlay.steps import overlay_steps
from lamina.runtime.holders import Found, Holder, Old, command_of, look, mapped, may_mount, said, table
from lamina.runtime.plan.paths import how
from lamina.runtime.redirecting import Moving, is_possible, why_not
from lamina.runtime.swapping import (
    CLOSING,
    Moved,
    Swapped,
    attributes_of,
    came_to_the_end,
    mount_point,
    swap_steps,
)
from lamina.store.durable import sync_file_system
from lamina.store.tree import remove_tree
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamina.engine.within import Maps
    from lamina.linux.files import Statx
    from lamina.linux.mountinfo import Mount
    from lamina.linux.packed import Program
    from lamina.overlay.spec import MountSpec
    from lamina.runtime.holders import Directory
    from lamina.store.containers import Home

    Stacks = Sequence[tuple[bytes, MountSpec]]

MOST_MOUNTS = 200
_EXACTLY = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS
_PLACE = os.O_PATH | os.O_NOFOLLOW
_VOLATILE = frozenset((b"volatile", b"fsync=volatile"))  # before Linux 6.6, and since


class Swap:
    """The places of a container whose overlay is another one in *after*. For a `with`, while it stands still."""

    def __init__(self, still: Standstill, before: Stacks, after: Stacks) -> None:
        self.still = still
        self.done = False
        self._unsure = False  # whether the new overlays are mounted
        pairs = [
            (at, old, new)
            for (at, old), (_, new) in zip(before, after, strict=True)
            if old is not new and old != new
        ]
        self.changed = [(at, new) for at, _, new in pairs]
        self._uppers = [old.upperdir for _, old, _ in pairs]
        self._fds: list[Fd] = []
        self._old: list[Fd] = []
        self._writable: list[Fd] = []  # contexts that make an old overlay writable again
        self._closed: list[Fd] = []  # those of these that were made read-only
        self._new: list[Fd] = []
        self._steps: list[list[Step]] = []  # or what mounts them, each in a register: within a user namespace
        self._mounts: list[Mount] = []
        self._places: list[Mount] = []  # what is mounted there now
        self._obstacles: list[Holder] = []
        self._moving: list[Moving] = []
        self._rootless = os.geteuid() != 0

    def __enter__(self) -> Swap:
        if self._rootless and self.still.home.asked().get("own_ids"):
            self._obstacles.append(
                Holder(0, "", "", "ids of its own, which only root of this machine can map")
            )
            return self
        try:
            for at, _ in self.changed:
                self._old.append(
                    self._keep(openat2(self.still.root, at.lstrip(b"/") or b".", _PLACE, resolve=_EXACTLY))
                )
            for old in () if self._rootless else self._old:
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
            if not self.done and not self._unsure:
                # whoever comes after somebody was killed goes by that (rewinding.settle)
                with suppress(OSError):
                    self._forget_tries()

    def undo(self) -> list[Step]:
        """What another process does if we end before it is done."""
        return [Step("fsconfig", int(fd), FSCONFIG_CMD_RECONFIGURE, None, None, 0) for fd in self._writable]

    def held(self) -> list[int]:
        """What of it keeps the old overlays alive."""
        return [*map(int, self._old)]

    def sync(self) -> bool:
        """What was written, or copied, is on the disk, unless it need not be; whether it is. Raises KernelError."""
        if self._places and all(_VOLATILE & {*place.super_options} for place in self._places):
            return False
        if all(spec.volatile for _, spec in self.changed):
            return False
        with Fd(os.open(self.still.home.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as place:
            sync_file_system(place, what="state")
        return True

    def back(self) -> None:
        """It is not to be: what was made read-only is writable again. Raises KernelError."""
        while self._closed:
            fsconfig(self._closed.pop(), FSCONFIG_CMD_RECONFIGURE, None, None)

    def try_it(self) -> tuple[Holder, ...]:
        """Replace the root, or say who is in the way; then nothing has changed. Raises MountError, KernelError."""
        if self._obstacles or not self.changed:
            self.done = not self._obstacles
            return tuple(self._obstacles)
        self._mounts = table(read_mountinfo, self.still.first.pid)
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
        if may_mount(pids) or not is_filtered(self.still.home):
            holders += self._escaped(pids)
            if self._rootless:
                holders.append(
                    Holder(0, "", "", "processes that may mount, which takes root of this machine")
                )
            elif not self._close():
                holders += self._writers(old)
        return holders, found.directories

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
                    self._moving.append(Moving(one, plain=is_filtered(self.still.home)))
                    continue
            except OSError as error:
                why = os.strerror(error.errno or 0)
            holds = f"its working directory ({why}) in"
            found.append(Holder(one.pid, command_of(one.pid), said(one.path), holds))
        return found

    def _unmovable(self, one: Directory) -> str:
        if not is_possible():
            return "only on x86-64 it can be moved"
        if self.still.paused:
            return "the container is paused"
        # in none of them: it was in one that was replaced before, and did not follow; taken for the root's
        known = (index for index, place in enumerate(self._places) if place.id == one.mount)
        which = next(known, 0 if self.changed[0][0] == b"/" else None)
        at = b"" if which is None else self._places[which].mount_point.rstrip(b"/")
        if any(is_below(one.path, mount.mount_point, at) for mount in self._mounts):
            return "something is mounted over it"
        if self._rootless:  # it is mounted later; on top of what is there, everything that is there stays
            on_top = which is None or self._uppers[which] in self.changed[which][1].lowerdirs[:1]
            return (
                why_not(one) if on_top else "only root of this machine can say whether it is there afterwards"
            )
        try:
            path = one.path[len(at) :].lstrip(b"/") or b"."
            tree = self.still.root if which is None else self._new[which]
            openat2(tree, path, _PLACE | os.O_DIRECTORY, resolve=_EXACTLY).close()
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
        self._forget_tries()
        for (_, spec), place in zip(self.changed, self._places, strict=True):
            spec = replace(spec, volatile=bool(_VOLATILE & {*place.super_options}))
            asked = self.still.home.asked()
            if self._rootless:
                number = Reg(f"new{len(self._steps)}")
                self._steps.append(overlay_steps(spec, number, attributes=attributes_of(place)))
                continue
            if asked.get("own_ids"):
                new = self._mapped(spec, asked["id_maps"], attributes_of(place))
            else:
                new = overlays.create(spec, attributes=attributes_of(place))
            self._new.append(self._keep(new))

    def _forget_tries(self) -> None:
        """The new overlays have never been mounted: nothing of that is left in their work directories."""
        for _, spec in self.changed:
            if spec.workdir is not None and os.path.lexists(spec.workdir) and os.listdir(spec.workdir):
                remove_tree(spec.workdir)
                os.mkdir(spec.workdir, 0o700)

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
        for number, ((at, _), old, place) in enumerate(
            zip(self.changed, self._old, self._places, strict=True)
        ):
            new = Reg(f"new{number}") if self._rootless else self._new[number]
            moved: list[Moved] = []
            children = [one for one in self._mounts if one.parent == place.id and one.id != place.id]
            if len(children) > MOST_MOUNTS:
                return [Holder(0, "", said(at), f"more than {MOST_MOUNTS} mounts in")]
            for child in children:
                found = self._movable(old, new, at, child, len(moved))
                if found is None:
                    why = "a mount that is covered or has lost its place, at"
                    return [Holder(0, "", said(child.mount_point), why)]
                moved.append(found)
            root = new if isinstance(new, Reg) else int(new)
            swapped.append(Swapped(int(old), root, b"ro" in place.options, tuple(moved)))
        return self._walk(swapped, old_ones)

    def _movable(self, old: Fd, new: Fd | Reg, at: bytes, child: Mount, number: int) -> Moved | None:
        path = child.mount_point[len(at.rstrip(b"/")) :].lstrip(b"/")
        if not path:
            return None
        try:
            mount = self._keep(openat2(old, path, _PLACE, resolve=_EXACTLY))
        except KernelError:  # where it is mounted has no name any more
            return None
        if self._id_of(mount) != child.id:
            return None
        if isinstance(new, Reg):
            target = Reg(f"{new}.{number}")
            inside = how(_PLACE, _EXACTLY | RESOLVE_NO_XDEV)
            self._steps[int(new[3:])].append(Step("openat2", new, path, inside, 24, save=target))
            return Moved(path, int(mount), target)
        directory = S_ISDIR(self._looked_at(mount).mode)
        return Moved(path, int(mount), int(self._keep(mount_point(new, path, directory=directory))))

    def _walk(self, swapped: list[Swapped], old: Old) -> list[Holder]:
        namespace = self._keep(
            Fd(os.open(f"/proc/{self.still.first.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))
        )
        if not self.still.first.is_there:
            raise self.still.has_ended()
        steps, needed = swap_steps(int(namespace), swapped, self.still.finally_, self._within())
        self._unsure = True
        results = spawned(assemble(steps), self.still.first.pid)
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
        self._unsure = False
        if steps[failed].note == CLOSING and -results[failed] == EBUSY:
            return self._writers(old)
        return [Holder(0, "", "", f"a root that cannot be replaced ({why})")]

    def _within(self) -> list[Step]:
        """What mounts the new overlays in the container's user namespace, in a mount namespace of their own."""
        if not self._rootless:
            return []
        private = Step("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
        return [Step("unshare", CLONE_NEWNS), private, *(step for steps in self._steps for step in steps)]

    # -- descriptors

    def _keep(self, fd: Fd) -> Fd:
        self._fds.append(fd)
        return fd

    def _context(self, old: Fd, flag: bytes) -> Fd:
        context = self._keep(fspick(old, b"", FSPICK_EMPTY_PATH))
        fsconfig(context, FSCONFIG_SET_FLAG, flag, None)
        return context

    def _id_of(self, fd: Fd) -> int:
        return self._looked_at(fd).mnt_id

    def _looked_at(self, fd: Fd) -> Statx:
        """Without asking a file system whose server stands still with the container (FUSE): it would never answer."""
        return statx(fd, b"", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_MNT_ID | STATX_TYPE)

    def _mount_of(self, fd: Fd) -> Mount:
        identity = self._id_of(fd)
        for mount in self._mounts:
            if mount.id == identity:
                return mount
        raise Conflict(f"{self.still.said}: its root is not where it began")


def spawned(program: Program, first: int) -> Sequence[int]:
    """What came of each step of *program*, walked by a process of its own: without root in the user namespace of the
    process *first*.
    """
    if os.geteuid() == 0:
        child = program.spawn(CLONE_VM | CLONE_VFORK)
    else:
        # it has a copy of our memory, and cannot be traced by who is in that namespace (linux/runner.py)
        with Fd(os.open(f"/proc/{first}/ns/user", os.O_RDONLY | os.O_CLOEXEC)) as namespace:
            child = program.spawn(0, enter=((int(namespace), CLONE_NEWUSER),))
    with child.pidfd:
        try:
            os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
        except ChildProcessError:
            pass  # somebody in this program waits for any child
    results = child.outcome().results
    child.settle()
    return results


def is_filtered(home: Home) -> bool:
    """Whether its filter of system calls is ours, which lets nobody make namespaces who may not mount."""
    state = home.read("state") or {}
    linux: dict[str, object] = (state.get("joining") or {}).get("linux") or {}
    return linux.get("defaultFilter") is not None


def is_below(path: bytes, mount_point: bytes, place: bytes) -> bool:
    """Whether *path*, which is in the mount at *place*, leads through a mount that is further down: to another file."""
    return len(mount_point) > max(len(place), 1) and (path + b"/").startswith(mount_point + b"/")
