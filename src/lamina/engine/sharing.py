"""Namespaces of running containers, and their shared memory, for others that are to share them."""

from __future__ import annotations

import os
from errno import ENOENT, ESRCH
from typing import TYPE_CHECKING

from lamina.engine.keeping import said_of
from lamina.errors import Conflict, Unsupported
from lamina.linux.constants import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    TMPFS_MAGIC,
)
from lamina.linux.descriptors import SOCK_STREAM, duplicate, receive, socketpair
from lamina.linux.fd import Fd, ready
from lamina.linux.files import fstatfs
from lamina.linux.process import pidfd_open
from lamina.linux.program import Reg, Step, Struct, assemble
from lamina.runtime.identity import same_process
from lamina.runtime.plan.waits import hand_over_step
from lamina.runtime.waits import reap
from lamina.store import containers
from lamina.values import value

if TYPE_CHECKING:
    from typing import Any

    from lamina.engine.further import Further
    from lamina.engine.id_maps import IdMaps
    from lamina.engine.translate import Spec
    from lamina.store.containers import Home
    from lamina.store.root import Store

KINDS = ("pid", "uts", "ipc")
SHM = b"/dev/shm"
# the modes of `--ipc` of a container whose namespace others may join, as in docker
_SHAREABLE = ("shareable", "host")


@value
class Shared:
    """What a container shares with others: namespaces by kind, and mounts by their places, all open."""

    namespaces: dict[str, Fd]
    mounts: tuple[tuple[bytes, Fd], ...] = ()


def shared(store: Store, further: Further, maps: IdMaps | None) -> Shared:
    """What of other containers is asked for; *maps* are its own ids'. Raises NotFound, Conflict, Unsupported."""
    found: dict[str, Fd] = {}
    mounts: list[tuple[bytes, Fd]] = []
    owner = None
    for kind in KINDS:
        word, _, reference = getattr(further, kind).partition(":")
        if word != "container":
            continue
        home = containers.find(store, reference)
        said = f"run: {kind} container:{reference}"
        if kind == "ipc":
            _check_shareable(home, said)
        if maps is not None and os.geteuid():
            # what belongs to another user namespace of the user's can only be joined by who is in that
            owner = _one_owner(home, maps, owner, said)
            found["user"] = namespace_of(home, "user", said)
        found[kind] = namespace_of(home, kind, said)
        if kind == "ipc":
            mounts.append((SHM, _shared_memory(home, said)))
    return Shared(found, tuple(mounts))


def _check_shareable(home: Home, said: str) -> None:
    further = said_of(home.asked()).get("further") or {}
    mode = str(further.get("ipc") or "private")
    if mode not in _SHAREABLE and not mode.startswith("container:"):
        raise Conflict(f"{said}: its own is {mode}", remedy="start it with --ipc shareable")


def _one_owner(home: Home, maps: IdMaps, before: str | None, said: str) -> str:
    if home.asked().get("id_maps") != maps.spec():
        raise Unsupported(f"{said}: it has other ids than this one", remedy="give both the same --userns")
    if before not in (None, home.id):
        raise Unsupported(
            f"{said}: namespaces of several containers belong to several user namespaces",
            remedy="share with one container, or run as root",
        )
    return home.id


def namespace_of(home: Home, kind: str, said: str) -> Fd:
    """The namespace *kind* of the container's first process, and of no other process that has its number now.

    *said* begins the error. Raises NotFound, Conflict when it does not run.
    """
    state = home.read("state")
    if state is not None:
        pid = int(state["pid"])
        try:
            with pidfd_open(pid) as pidfd:
                fd = Fd(os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC))
                if _is_it(pid, state, pidfd):  # looked at after it was opened
                    return fd
                fd.close()
        except OSError as error:
            if error.errno not in (ENOENT, ESRCH):
                raise
    raise Conflict(f"{said}: it does not run", remedy="start it first")


def join_network(store: Store, spec: Spec, network: str, maps: IdMaps | None) -> tuple[Fd, ...]:
    """Have the container of *spec*, whose own ids *maps* are, join a network namespace: that of `container:NAME`, or at
    the path of `ns:PATH`. The descriptors that *spec* names now.

    Raises NotFound, Conflict, InvalidInput, Unsupported, KernelError.
    """
    word, _, which = network.partition(":")
    if word != "container":
        joined = {"network": _network_at(which)}
    else:
        home, said = containers.find(store, which), f"run: network {network}"
        joined = {}
        if maps is not None and os.geteuid():
            # as with those of `shared`: only who is in its user namespace may join it
            _one_owner(home, maps, None, said)
            joined["user"] = namespace_of(home, "user", said)
        joined["network"] = namespace_of(home, "net", said)
    linux = spec["linux"]
    for entry in linux["namespaces"]:
        if entry["type"] == "user" and "path" in entry and "user" in joined:
            _check_same(entry["path"], joined["user"], f"run: network {network}")
        elif entry["type"] in joined:
            entry["path"] = f"/proc/self/fd/{int(joined[entry['type']])}"
    if "user" in joined:  # whose ids it has, the other container's namespace says
        for key in ("uidMappings", "gidMappings"):
            linux.pop(key, None)
    return tuple(joined.values())


def _check_same(path: str, fd: Fd, said: str) -> None:
    one, other = os.stat(path), os.fstat(fd)
    if (one.st_dev, one.st_ino) != (other.st_dev, other.st_ino):
        raise Unsupported(
            f"{said}: namespaces of several containers belong to several user namespaces",
            remedy="share with one container, or run as root",
        )


def _network_at(path: str) -> Fd:
    from lamina.errors import InvalidInput, KernelError
    from lamina.linux.constants import CLONE_NEWNET
    from lamina.linux.namespaces import ns_type

    try:
        fd = Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        raise KernelError(
            "open network namespace",
            error.errno or 0,
            path,
            remedy="'ip netns list' shows those in /run/netns",
        ) from error
    try:
        if ns_type(fd) == CLONE_NEWNET:
            return fd
    except OSError:
        pass
    fd.close()
    raise InvalidInput(
        f"run: network ns:{path}: it is no network namespace", remedy="such as /run/netns/NAME"
    )


def _is_it(pid: int, state: dict[str, Any], pidfd: Fd) -> bool:
    return same_process(pid, state) and not ready(0, pidfd)


def _shared_memory(home: Home, said: str) -> Fd:
    """A copy of the mount at the container's /dev/shm, attached nowhere.

    Mounts of another mount namespace are copied by who is in it: a helper, with our memory copied, not shared. What
    that finds there is the container's doing, so it is looked at: no link is followed, nothing but a tmpfs will do.
    """
    ours, theirs = map(Fd, socketpair(SOCK_STREAM))
    enter = [(namespace_of(home, "mnt", said), CLONE_NEWNS)]
    if os.geteuid():
        enter.insert(0, (namespace_of(home, "user", said), CLONE_NEWUSER))
    try:
        with theirs, Fd(duplicate(theirs, 3)) as channel:
            program = assemble(_copying(), ("channel",)).fill({"channel": int(channel)}, {})
            child = program.spawn(0, enter=tuple((int(fd), kind) for fd, kind in enter))
        with child.pidfd:
            reap(child.pidfd)
        numbers = receive(ours, 1)[0] if child.failure() is None else []
    finally:
        for fd, _ in enter:
            fd.close()
        ours.close()
    found = Fd(numbers[0]) if numbers else None
    if found is not None and fstatfs(found).type == TMPFS_MAGIC:
        return found
    if found is not None:
        found.close()
    raise Conflict(f"{said}: it has no shared memory at /dev/shm", remedy="start it with --ipc shareable")


def _copying() -> list[Step]:
    how = Struct(
        "open_how",
        "QQQ",
        (os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS),
    )
    place, tree, channel = Reg("place"), Reg("tree"), Reg("channel")
    return [
        Step("openat2", AT_FDCWD, SHM, how, 24, save=place),
        Step("open_tree", place, b"", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH, save=tree),
        Step("dup3", tree, 0, 0),
        hand_over_step(channel, 0, note="hand the shared memory over"),
    ]
