"""Control groups on demand: for a container in the foreground, which begins with none but those of its limits.

Making groups costs a start more than all else (a first write to `cgroup.procs` waits for an RCU grace period), and most
containers in the foreground are never paused. So the verb that needs them makes them (decision 0050), and moves every
process of the container in: into a freezer that is frozen already, so whoever has been moved forks no more, and looks
again until two looks in a row find nobody outside. A number may be another process's by the time it is written; so the
writing is done by a process of ours inside the container's pid namespace, where no number is anybody else's.

The marker `grouped` is there before the groups are, so whoever ends the container knows that there is something to
remove; it says `moving` until everybody is in them, so what somebody began who was killed is finished by the next. What
is frozen meanwhile is said to be paused, as always (engine/pausing). Who groups holds the turn on the container's
directory.
"""

from __future__ import annotations

import os
from errno import EINVAL, ENOENT, ESRCH

from lamina.engine.processes import members
from lamina.engine.settling import Process
from lamina.engine.sharing import namespace_of
from lamina.engine.starting import GROUPS
from lamina.errors import Conflict, KernelError, LaminaError, Unsupported
from lamina.linux.constants import CLONE_NEWPID, CLONE_NEWUSER
from lamina.linux.descriptors import duplicate
from lamina.linux.fd import Fd
from lamina.linux.program import Step, assemble
from lamina.runtime.cgroups import create, find, read_layout, reopen
from lamina.runtime.cgroups.freezer import can_freeze
from lamina.runtime.waits import Watch
from lamina.store.containers import GROUPED_MARK, PAUSED_MARK
from lamina.store.lock import LOCK_EX, turn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.runtime.cgroups import Cgroup
    from lamina.store.containers import Home

MOVING = "moving"
MOST_LOOKS = 100
_MOST_AT_ONCE = 500  # numbers that one helper writes


def grouped(home: Home, said: str, also: tuple[str, ...] = ()) -> Cgroup:
    """The control groups of the running container: all that a container in the background has, and those of the
    controllers *also*, made if they are missing. *said* begins an error. For who holds the turn on its directory.

    Raises Unsupported where this user may make none, or the container shares a pid namespace; Conflict where it does
    not run or does not stand still; KernelError, NotFound.
    """
    state = home.read("state") or {}
    have = reopen(state["cgroup"]) if state.get("cgroup") else None
    missing = _missing(have, also)
    whole = have if have is not None and not missing and can_freeze(have) else None
    if whole is not None and not is_moving(home):
        return whole
    with Process(state) as first:
        if not first.is_there:
            raise Conflict(f"{said}: it is not running", remedy="'lamina start' starts it")
        if os.stat(f"/proc/{first.pid}/ns/pid").st_ino == os.stat("/proc/self/ns/pid").st_ino:
            raise Unsupported(
                f"{said}: it is in no control group that can be frozen, and its processes are not told from others",
                remedy="start it in the background ('lamina run -d'), or without --pid host",
            )
        home.set_mark(GROUPED_MARK, MOVING)
        if whole is not None:
            made = whole  # whoever made them was killed before everybody was in them
        else:
            made, whole = _made(home, have, missing, said)
        paused = home.is_marked(PAUSED_MARK)
        try:
            home.write("state", {**state, "cgroup": whole.record()})
            home.set_mark(PAUSED_MARK)
            _gather(home, first, made, whole, said)
            if not first.is_there:
                raise Conflict(f"{said}: it has just ended")
            if not paused:
                whole.thaw()
                home.drop_mark(PAUSED_MARK)
        except BaseException as failure:
            _give_up(home, made, whole, failure)
            raise
        home.set_mark(GROUPED_MARK)
    return whole


def is_moving(home: Home) -> bool:
    """Whether somebody began to put it into its groups who did not come to the end."""
    return home.mark_text(GROUPED_MARK) == MOVING


def ungroup(home: Home) -> int:
    """The container has ended: remove what was made for it on demand; kills by the kernel for want of memory in it."""
    try:
        with turn(home.path, LOCK_EX):
            record = (home.read("state") or {}).get("cgroup")
            kills = _end(reopen(record)) if record else 0
            return max(kills, end_unwritten(home))
    except FileNotFoundError:
        return 0


def end_unwritten(home: Home) -> int:
    """As `ungroup`, of the groups that somebody made who was killed before he wrote them down, if there are any."""
    return _end(find(_path(home), own_parent=True)) if is_moving(home) else 0


def _end(group: Cgroup) -> int:
    kills = group.oom_kills()
    if can_freeze(group) and group.frozen:
        group.thaw()
    group.kill()
    group.remove()
    return kills


def _missing(have: Cgroup | None, also: tuple[str, ...]) -> tuple[str, ...]:
    """Controllers that a container in the background has groups of, or that are asked for, and this one not."""
    if have is None:
        return (*GROUPS, *also)
    layout = read_layout()
    there = {layout.v1.get(name) for name in have.paths} - {None}  # several controllers may be one hierarchy
    return tuple(
        name
        for name in (*GROUPS, *also)
        if name not in have.paths and name in layout.v1 and layout.v1[name] not in there
    )


def _made(home: Home, have: Cgroup | None, controllers: tuple[str, ...], said: str) -> tuple[Cgroup, Cgroup]:
    """Those that were made, and these with those that it has."""
    group = create(_path(home), {}, own_parent=True, also=controllers)
    if group is not None:
        whole = group if have is None else _both(have, group)
        if can_freeze(whole):
            group.close()
            return group, whole
        group.close()
        group.remove()
    raise Unsupported(
        f"{said}: it is in no control group that can be frozen, and this user may make none",
        remedy="run it as somebody who may make control groups; see 'lamina doctor'",
    )


def _path(home: Home) -> str:
    """Where its groups are; one that began without any has no place for them in its record."""
    from lamina.engine.design import cgroup_path

    return str(home.asked().get("cgroup") or "") or cgroup_path(home.id)


def _both(one: Cgroup, other: Cgroup) -> Cgroup:
    record = one.record()
    more = other.record()
    return reopen(
        {**record, "paths": {**more["paths"], **record["paths"]}, "made": [*record["made"], *more["made"]]}
    )


def _give_up(home: Home, group: Cgroup, whole: Cgroup, failure: BaseException) -> None:
    """It did not come to it: who is in the groups goes on, and whoever ends the container removes them."""
    try:
        whole.thaw()
        home.drop_mark(PAUSED_MARK)
        group.remove_unused()
    except (OSError, LaminaError) as second:
        failure.add_note(f"while letting it go on: {second}")


# -- moving its processes


def _gather(home: Home, first: Process, group: Cgroup, whole: Cgroup, said: str) -> None:
    """Move all of them into *group*, of the *whole* which is frozen then. Raises Conflict, KernelError."""
    enter = [(namespace_of(home, "pid", said), CLONE_NEWPID)]
    if os.geteuid():
        enter.insert(0, (namespace_of(home, "user", said), CLONE_NEWUSER))
    places = list(dict.fromkeys(group.paths.values()))
    files = [Fd(os.open(place + b"/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)) for place in places]
    try:
        whole.freeze()
        clean = 0
        for _ in range(MOST_LOOKS):
            outside = _outside(first.pid, places)
            clean = 0 if outside else clean + 1
            if clean == 2:
                return
            if outside:
                _move(outside[:_MOST_AT_ONCE], files, [(int(fd), kind) for fd, kind in enter])
    finally:
        for fd in (*files, *(fd for fd, _ in enter)):
            fd.close()
    raise Conflict(f"{said}: its processes come and go faster than they can be held", remedy="try it again")


def _outside(first: int, places: list[bytes]) -> list[int]:
    """Those that are not in all of the groups, by their numbers in the namespace of the *first* one."""
    level = len(_numbers(first)) - 1
    inside: set[int] | None = None
    for place in places:
        with open(place + b"/cgroup.procs", "rb", buffering=0) as file:
            there = set(map(int, file.readall().split()))
        inside = there if inside is None else inside & there
    found = []
    for pid in members(first, {}) - (inside or set()):
        numbers = _numbers(pid)
        if len(numbers) > level >= 0 and not _is_zombie(pid):
            found.append(numbers[level])
    return found


def _numbers(pid: int) -> list[int]:
    """Its numbers in every pid namespace it is in, ours first: proc_pid_status(5), NSpid. None when it is gone."""
    try:
        with open(f"/proc/{pid}/status", "rb", buffering=0) as status:
            for line in status.read(1 << 14).splitlines():
                if line.startswith(b"NSpid:"):
                    return list(map(int, line.split()[1:]))
    except OSError:
        pass
    return []


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return file.read(4096).rpartition(b") ")[2][:1] in (b"Z", b"X", b"")
    except OSError:
        return True


def _move(numbers: list[int], files: list[Fd], enter: list[tuple[int, int]]) -> None:
    """Write the numbers into the files, in the container's pid namespace. What ended meanwhile is passed over."""
    held = [Fd(duplicate(fd, 3)) for fd in files]
    try:
        steps = [
            Step("write", int(fd), text, len(text), tolerate=(ESRCH, EINVAL, ENOENT))
            for fd in held
            for text in (b"%d\n" % number for number in numbers)
        ]
        child = assemble(steps).spawn(0, enter=tuple(enter))
    finally:
        for fd in held:
            fd.close()
    watch = Watch()
    with child.pidfd:
        watch.ready(child.pid, child.pidfd)  # somebody in there may have stopped it
        watch.reap(child.pidfd)
    if (failed := child.failure()) is not None:
        raise KernelError(
            "move into a control group", failed[1], f"process {numbers[failed[0] % len(numbers)]}"
        )
