"""Doing something below the root of a container, with its own ids and with no more rights than its root has.

    below_root(container, pack, path, write=False)      # pack(root, path)

Of a container that runs it is the root of its first process, with all that is mounted there. Of one that does not it is
its stack with its volumes, mounted for the moment and seen by nobody else (mounted_root.py); whoever writes there holds
the container meanwhile. Where the container has a user namespace, the work is done in a process of ours in one with the
same ids (within.py), as their root: so not even root of this system, led astray by a process of the container, gets at
files that the container's own root could not write to, such as those of the system in a bind mount.
"""

from __future__ import annotations

import os
from contextlib import contextmanager

from lamina.engine.mounted_root import Beside, Standing, Stood
from lamina.errors import Conflict, Corrupt, Unsupported
from lamina.image.apply.ids import IdMap
from lamina.linux.fd import Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from lamina.engine.container import Container
    from lamina.engine.within import Maps
    from lamina.store.lock import Lock

_ROOT = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def below_root(
    container: Container, work: Callable[..., Any], *args: Any, write: bool, files: tuple[int, ...] = ()
) -> Any:
    """`work(root, *files, *args)`: *work* is a function of a module, *args* and the result can be pickled, *root* and
    *files* are descriptors, which may have other numbers there.

    Raises Conflict where the container has just ended, or is in use while it does not run and *write* is wanted;
    Unsupported for one over this system that does not run; MountError, and what *work* raises.
    """
    maps = maps_of(container)
    with opened(container, write=write) as root:
        if maps is None:
            return work(root, *files, *args)
        from lamina.engine.within import inside

        if isinstance(root, Fd):
            return inside(
                maps, there, work, owner_of(maps), None, write, len(files) + 1, *args, files=(root, *files)
            )
        reaching = maps_to_mount(container, maps)
        return inside(reaching, there, work, owner_of(maps), root, write, len(files), *args, files=files)


@contextmanager
def opened(container: Container, *, write: bool) -> Iterator[Fd | Stood]:
    """The root of *container*; what it is made of, where it does not run and only its own ids may mount it."""
    if container.first_process is not None:
        with _turn(container):  # its root is not replaced meanwhile
            found = root_of(container)
            if found is not None:
                with found:
                    yield found
                return
    stood = stood_of(container)
    # where it never ran, mount points are still to be made; over this system the upper lies in the lower, and can only
    # be mounted as an upper, which is one at a time's
    unused = write or container.exit_code is None or not container.image_id
    if not unused:
        with _standing(stood, write=False) as root:
            yield root
        return
    from lamina.engine.holding import Held
    from lamina.store.containers import Home

    with Held(Home(container.store, container.id), "copy files of"), _standing(stood, write=True) as root:
        yield root


def _turn(container: Container) -> Lock:
    from lamina.store.containers import no_such
    from lamina.store.lock import joining

    try:
        return joining(container.store.containers + b"/" + container.id.encode())
    except FileNotFoundError:
        raise no_such(container.id) from None


@contextmanager
def _standing(stood: Stood, *, write: bool) -> Iterator[Fd | Stood]:
    if os.geteuid() != 0:
        yield stood
        return
    with Standing(stood, write=write) as root:
        yield root


def root_of(container: Container) -> Fd | None:
    """The root of the container's first process, and of no other that has its number now. None where it does not run,
    or will in a moment.

    Raises Conflict where it has just ended, or is being started; NotFound.
    """
    from lamina.engine.settling import Process
    from lamina.store.containers import PAUSED, RUNNING

    with Process(container.first_process) as process:
        if process.is_there:
            try:
                root = Fd(os.open(f"/proc/{process.pid}/root", _ROOT))
            except (FileNotFoundError, ProcessLookupError):
                pass
            else:
                if process.is_there:  # looked at after it was opened
                    return root
                root.close()
    if container.state not in (RUNNING, PAUSED):
        return None
    raise Conflict(
        f"copy files of container {container.name}: it has just ended, or is being started",
        remedy="try it again",
    )


def still_runs(container: Container) -> Callable[[], None]:
    """What raises Conflict once the container, if it runs now, has ended: its files are no longer for it to write."""
    from lamina.engine.settling import Process

    process = Process(container.first_process)
    if not process.is_there:
        return lambda: None

    def check() -> None:
        if not process.is_there:
            raise Conflict(
                f"copy to container {container.name}: it has ended meanwhile",
                remedy="copy it again: what was not copied yet is missing",
            )

    return check


def stood_of(container: Container) -> Stood:
    """What the root of *container*, which does not run, is made of. Raises Unsupported (a user's over this system)."""
    from lamina.engine import own_files
    from lamina.engine.mounted import drawn, volumes_of
    from lamina.engine.options import OVER, TMPFS

    record = container.record
    home = container.store.containers + b"/" + container.id.encode()
    stacks = container.overlays()
    if not stacks:
        raise Corrupt(f"copy files of container {container.name}: its record says nothing of its layers")
    stack = stacks[0][1]
    kept = volumes_of(record.get("volumes") or ())
    closed = bool((record.get("options") or {}).get("read_only"))
    mounts = [] if container.image_id else _of_this_system(container)
    for volume in drawn(container.store, home, kept, rootless=stack.userxattr):
        if volume.kind == TMPFS:
            continue  # it ended with the container, and begins empty
        source = _over(volume.options[0]) if volume.kind == OVER else volume.source
        closed_, idmap = bool({"ro", "rro"} & {*volume.options}), "idmap" in volume.options
        mounts.append(Beside(volume.target, source, volume.subpath, closed_, idmap))
    taken = {volume.target for volume in kept}
    for target, source in own_files.places(home):
        if target not in taken and os.path.lexists(source):
            mounts.append(Beside(target, source, read_only=closed, mapped=True))
    maps = maps_of(container)
    owner = (0, 0) if maps is None else owner_of(maps)
    mapped = maps if record.get("own_ids") and os.geteuid() == 0 else None
    return Stood(stack, tuple(mounts), container.store.merged, closed, owner, mapped)


def _of_this_system(container: Container) -> list[Beside]:
    """What is beside the root of one over this system: its further overlays, what is shown as it is, what is hidden."""
    if os.geteuid() != 0:
        raise Unsupported(
            f"copy files of container {container.name}, which does not run: it is over this system",
            remedy="'lamina diff' shows what it did, 'lamina apply' does it; or start it",
        )
    from lamina.engine.picture import picture

    shown = picture(container.store, rootless=False)
    return [
        *(Beside(place, stack) for place, stack in container.overlays()[1:]),
        *(Beside(path, path, read_only=True) for path in shown.readonly),
        *(Beside(path, container.store.empty, read_only=True) for path in shown.hide),
    ]


def _over(options: str) -> Any:
    from lamina.overlay.options import parse_mount_options

    return parse_mount_options([options]).spec


# -- ids


def maps_of(container: Container) -> Maps | None:
    """The id maps of the container's user namespace, None where it has none."""
    from lamina.engine import within

    kept: Maps | None = container.record.get("id_maps")
    return kept or within.maps_of(container.record)


def maps_to_mount(container: Container, maps: Maps) -> Maps:
    """The id maps with which the root is mounted of one that does not run: its own *maps* need not have the user whom
    the store belongs to.
    """
    from lamina.engine import within

    return within.maps_of(container.record) or maps


def ids_of(maps: Maps | None) -> IdMap | None:
    """Which ids of this system those of the container are; None: the same."""
    if maps is None:
        return None
    uids, gids = (
        tuple((line["containerID"], line["hostID"], line["size"]) for line in maps[key])
        for key in ("uidMappings", "gidMappings")
    )
    return IdMap(uids, gids)


def owner_of(maps: Maps) -> tuple[int, int]:
    """The container's root, as this system counts. Raises InvalidInput where the maps have none."""
    ids = ids_of(maps)
    assert ids is not None
    return ids.uid(0), ids.gid(0)


# -- in the process with these ids


def there(
    work: Callable[..., Any],
    owner: tuple[int, int],
    stood: Stood | None,
    write: bool,
    count: int,
    *args: Any,
) -> Any:
    """As `below_root`, in the namespace. *count* descriptors were handed over, without *stood* the root first."""
    from lamina.engine.within import FIRST_FILE

    files = tuple(range(FIRST_FILE, FIRST_FILE + count))
    if stood is None:
        become(owner)
        return work(*files, *args)
    with Standing(stood, write=write) as root:
        become(owner)
        return work(root, *files, *args)


def become(owner: tuple[int, int]) -> None:
    """Have what is made from now on belong to *owner*, a user of this namespace whose root we are and stay."""
    if (os.geteuid(), os.getegid()) == owner:
        return
    # what is needed later: the container's root need not be able to read where Python lies
    import hashlib  # noqa: F401

    from lamina.linux.constants import PR_SET_PDEATHSIG, SIGKILL
    from lamina.linux.process import prctl

    if os.getgroups():
        _leave_groups()
    os.setegid(owner[1])
    os.seteuid(owner[0])
    prctl(PR_SET_PDEATHSIG, SIGKILL)  # which a change of user takes away


def _leave_groups() -> None:
    """The caller's other groups are none of the container's root's, and would open to it what belongs to them.

    Raises OSError.
    """
    # where an ordinary user has no subordinate ids, nobody may leave groups (user_namespaces(7)): there the container's
    # root is that user, groups and all
    with open("/proc/self/setgroups", "rb", buffering=0) as file:
        if file.read(16).strip() == b"deny":
            return
    os.setgroups(())
