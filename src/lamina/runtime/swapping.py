"""The root of a container that runs, replaced by another mount while its processes stand still: as system calls.

A process of ours in the container's mount namespace walks them (linux/program.py), and goes on with it whatever happens
to us. The old root is made read-only, which the kernel refuses while anybody has a file open for writing by it. The new
one is attached over it; what is mounted in the old one is moved, each to the same place in the new; pivot_root(2) has
the two change places, and with them the root and the working directory of every process that is at the root of the old
one; the old one is unmounted. Where a step is refused, those before it are undone.

Overlays at other places are replaced in the same way, from within a root of their own (chroot(2)).
"""

from __future__ import annotations

import os
from errno import EAGAIN, ENOENT, EPERM
from os import O_CLOEXEC, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_PATH, O_WRONLY

from lamina.errors import KernelError
from lamina.linux.constants import (
    AT_EMPTY_PATH,
    CLONE_NEWNS,
    MNT_DETACH,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_T_EMPTY_PATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
)
from lamina.linux.fd import Fd
from lamina.linux.files import openat2
from lamina.linux.program import Out, Reg, Step, Struct
from lamina.runtime.plan.paths import how
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lamina.linux.mountinfo import Mount

    Undoable = tuple[Step, list[Step]]

ANY = tuple(range(1, 128))
CLOSING = "make the old root read-only"
SIG_SETMASK, EVERY_SIGNAL = 2, b"\xff" * 8
POLLIN = 1
_BY_DESCRIPTOR = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
_EXACTLY = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS
_PLACE = O_PATH | O_NOFOLLOW
# how long replacing may take, which takes a millisecond: the pipe may be a child's that has nothing to do with it
_WALKING = Struct("timespec", "qq", (2, 0))
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


def undisturbed_steps() -> list[Step]:
    """What is sent to all of our process group is not for a process that has to come to its end: neither what a
    terminal sends, nor SIGKILL.
    """
    return [
        Step("rt_sigprocmask", SIG_SETMASK, EVERY_SIGNAL, None, len(EVERY_SIGNAL)),
        Step("setsid", tolerate=(EPERM,)),
    ]


@value
class Moved:
    """A mount in the old root, the mount point for it in the new one, and the path of both from the root on."""

    path: bytes
    mount: int
    target: int | Reg


@value
class Swapped:
    """The mount *old*, which is *closed* (read-only) or not, is replaced by *new*, which is attached nowhere; all are
    descriptors.
    """

    old: int
    new: int | Reg
    closed: bool = False
    moved: tuple[Moved, ...] = ()


@value
class Write:
    """Text to be written to a descriptor."""

    fd: int
    text: bytes


def swap_steps(
    namespace: int, places: Sequence[Swapped], finally_: Sequence[Write], before: Sequence[Step] = ()
) -> tuple[list[Step], int]:
    """The steps, and how many of them, from the first on, must not fail: after a failure those behind undo.

    *namespace* is the container's mount namespace, *places* are parents first, and *finally_* is written once all is
    done: the container goes on. *before* is done first, where these are the caller's own mounts.
    """
    plan: list[Undoable] = [(step, []) for step in (*undisturbed_steps(), *before)]
    plan.append((Step("setns", namespace, CLONE_NEWNS, note="the container's mount namespace"), []))
    plan += [_closing(place) for place in places if not place.closed]
    for number, place in enumerate(places):
        plan += _place_steps(place, number)
    after: list[Step] = []
    for place in places:
        after.append(Step("fchdir", place.new, tolerate=ANY, skip=1))
        after.append(Step("umount2", b".", MNT_DETACH, tolerate=ANY, note="let go of the old root"))
    after += [Step("write", one.fd, one.text, len(one.text), tolerate=ANY) for one in finally_]
    after.append(Step("getpid", note="it has come to the end"))
    return _with_ways_back(plan, after), len(plan)


def came_to_the_end(results: Sequence[int], needed: int, places: int, finally_: int) -> bool:
    """Whether the process that walked `swap_steps` was not killed on the way."""
    return results[needed + 2 * places + finally_] > 0


def _closing(place: Swapped) -> Undoable:
    def attributes(set_: int, clear: int) -> Struct:
        return Struct("mount_attr", "QQQQ", (set_, clear, 0, 0))

    closed, opened = attributes(MOUNT_ATTR_RDONLY, 0), attributes(0, MOUNT_ATTR_RDONLY)
    return (
        Step("mount_setattr", place.old, b"", AT_EMPTY_PATH, closed, 32, note=CLOSING),
        [Step("mount_setattr", place.old, b"", AT_EMPTY_PATH, opened, 32)],
    )


def _place_steps(place: Swapped, number: int) -> Iterator[Undoable]:
    off = [Step("fchdir", place.new), Step("umount2", b".", MNT_DETACH)]
    over = Step(
        "move_mount", place.new, b"", place.old, b"", _BY_DESCRIPTOR, note="the new root, over the old"
    )
    yield Step("fchdir", place.old), []
    yield Step("chroot", b"."), []
    yield over, off
    for index, moved in enumerate(place.moved):
        back = Reg(f"back{number}.{index}")
        found = Step("openat2", place.old, moved.path, how(O_PATH | O_NOFOLLOW, _EXACTLY), 24, save=back)
        found.skip = 1  # where nothing is found there is nothing to move to
        note = f"move /{moved.path.decode(errors='backslashreplace')}"
        yield (
            Step("move_mount", moved.mount, b"", moved.target, b"", _BY_DESCRIPTOR, note=note),
            [found, Step("move_mount", moved.mount, b"", back, b"", _BY_DESCRIPTOR)],
        )
    yield Step("fchdir", place.new), []
    again = [Step("fchdir", place.new), Step("chroot", b"."), Step("fchdir", place.old)]
    yield Step("pivot_root", b".", b"."), [*again, Step("pivot_root", b".", b".")]


@value
class Half:
    """A place, by its path from the container's root on (b"" for that itself), where the new overlay lies on the old
    one, with the mounts at the paths *moved* (from the place on) in it already; or, *pivoted*, the old one on the new.
    """

    path: bytes
    pivoted: bool
    moved: tuple[bytes, ...] = ()


def mending_steps(namespace: int, root: int, halves: Sequence[Half], closed: Sequence[bytes]) -> list[Step]:
    """What makes of each of *halves*, parents first, the new one where it was *pivoted*, else the old one; and the
    places at the paths *closed* writable again. All of them must be done.

    *namespace* is the container's mount namespace, *root* its root.
    """
    steps = [*undisturbed_steps(), Step("setns", namespace, CLONE_NEWNS)]
    for number, half in enumerate(halves):
        top, old = Reg(f"top{number}"), Reg(f"old{number}")
        # from the root itself no path leads to what lies on it, but ".." does (follow_dotdot in fs/namei.c)
        above = half.path or (b"." if half.pivoted else b"..")
        steps.append(Step("openat2", root, above, how(_PLACE, RESOLVE_IN_ROOT), 24, save=top))
        if not half.pivoted:
            if half.path:  # what it lies on is seen once it is put aside
                steps.append(Step("move_mount", top, b"", root, b"", _BY_DESCRIPTOR))
            steps.append(Step("openat2", root, half.path or b".", how(_PLACE, _EXACTLY), 24, save=old))
            for index, path in enumerate(half.moved):
                mount, place = Reg(f"mount{number}.{index}"), Reg(f"place{number}.{index}")
                inside = how(_PLACE, _EXACTLY | RESOLVE_NO_XDEV)
                steps += [
                    Step("openat2", top, path, how(_PLACE, _EXACTLY), 24, save=mount),
                    Step("openat2", old, path, inside, 24, save=place),
                    Step("move_mount", mount, b"", place, b"", _BY_DESCRIPTOR),
                ]
        steps += [Step("fchdir", top), Step("umount2", b".", MNT_DETACH)]
    for number, path in enumerate(closed):
        place = Reg(f"closed{number}")
        writable = Struct("mount_attr", "QQQQ", (0, MOUNT_ATTR_RDONLY, 0, 0))
        steps += [
            Step("openat2", root, path or b".", how(_PLACE, _EXACTLY), 24, save=place),
            Step("mount_setattr", place, b"", AT_EMPTY_PATH, writable, 32),
        ]
    return steps


def _with_ways_back(plan: Sequence[Undoable], after: Sequence[Step]) -> list[Step]:
    """*plan*, *after*, and then what undoes the steps of *plan*, the last one's first. A step that fails goes on there
    where what was done before it is undone; who has come to the end of *after* passes all that over.
    """
    begin = len(plan) + len(after)
    backward: list[Step] = []
    where = [0] * len(plan)  # what undoes the steps before this one
    for index in reversed(range(len(plan))):
        where[index] = begin + len(backward) + len(plan[index][1])
        backward += plan[index][1]
    for index, (step, _) in enumerate(plan):
        step.tolerate, step.skip = ANY, where[index] - index - 1
    for step in backward:
        step.tolerate = ANY
    steps = [*(step for step, _ in plan), *after, *backward]
    after[-1].leap = len(backward)
    return steps


def guard_steps(
    watch: int, busy: int, we: int, held: Sequence[int], undo: Sequence[Step], finally_: Sequence[Write]
) -> list[Step]:
    """What another process does if we end, however that happens, before we say that it need not: *undo*, and then what
    has the container go on; who walks `swap_steps` just then comes to his end first, for he has the other end of the
    pipe *busy*. *watch* is the reading end of another one, which does not block, and *we* a pidfd of ours: a
    child that our program forks meanwhile has the other ends of the pipes as well, and may outlive us. But for these,
    and the descriptors *held*, it has nothing open. What it holds is let go when it ends, which may take a while (an
    unmounted file system).
    """
    for step in undo:
        step.tolerate = ANY
    used = [arg for step in undo for arg in step.args[:1] if isinstance(arg, int)]
    kept = sorted({watch, busy, we, *held, *used, *(one.fd for one in finally_)})
    gaps = [(low + 1, high - 1) for low, high in zip([-1, *kept], [*kept, 1 << 31], strict=True)]
    return [
        *undisturbed_steps(),
        *(Step("close_range", low, high, 0) for low, high in gaps if low <= high),
        Step("ppoll", _either(watch, we), 2, None, None, 0, note="until we end, or say that all is well"),
        Step("read", watch, Out(8), 1, want=0, tolerate=(EAGAIN,), note="what we said"),
        Step(
            "ppoll",
            _either(busy),
            1,
            _WALKING,
            None,
            0,
            tolerate=ANY,
            note="who replaces it comes to the end",
        ),
        *undo,
        *(Step("write", one.fd, one.text, len(one.text), tolerate=ANY) for one in finally_),
    ]


def _either(*fds: int) -> Struct:
    """struct pollfd, for each: whether there is something to read."""
    fields = [field for fd in fds for field in (fd, POLLIN, 0)]
    return Struct("pollfd", "ihh" * len(fds), tuple(fields))


def attributes_of(mount: Mount) -> int:
    """The MOUNT_ATTR flags of a mount that is there."""
    found = sum(_ATTRIBUTES.get(word, 0) for word in mount.options)
    return found if {b"noatime", b"relatime"} & {*mount.options} else found | MOUNT_ATTR_STRICTATIME


def mount_point(root: int, path: bytes, *, directory: bool) -> Fd:
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
        with openat2(root, above, _PLACE | O_DIRECTORY, resolve=inside) as parent:
            try:
                if directory or number < len(names) - 1:
                    os.mkdir(name, 0o755, dir_fd=parent)
                else:
                    os.close(os.open(name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0o644, dir_fd=parent))
            except FileExistsError:
                continue
    return openat2(root, path, _PLACE, resolve=inside)
