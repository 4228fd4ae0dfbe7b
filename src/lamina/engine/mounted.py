"""What a container mounts from elsewhere: drawn up without a change (`drawn`), and made ready (`ready`).

A volume that an image declares, or that was asked for without a name, is the container's own: it has the container's id
in its name, so that two starts draw up the same plan, and goes with `--rm` or `rm -v`. What of an image is copied
into a volume is read from its layers, so no link of the image leads outside of them (CVE-2022-23648).
"""

from __future__ import annotations

import os
from errno import EIO, ENOENT

from lamina.engine.layers import resemble
from lamina.engine.options import BIND, OVER, VOLUME, Volume, is_own
from lamina.errors import InvalidInput, KernelError, NotFound
from lamina.linux.constants import (
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
)
from lamina.linux.fd import Fd
from lamina.linux.files import openat2
from lamina.overlay.spec import MountSpec
from lamina.store.root import make_directory
from lamina.store.volumes import data_of
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from lamina.engine.design import Design
    from lamina.engine.id_maps import IdMaps
    from lamina.engine.options import Options
    from lamina.engine.places import Base
    from lamina.engine.translate import Spec
    from lamina.engine.within import Maps
    from lamina.image.apply.ids import IdMap
    from lamina.store.lock import Lock
    from lamina.store.root import Store

# how a volume that an image declares is mounted
DECLARED = ("rbind", "rprivate", "nosuid", "nodev")
# podman's, and where links of theirs lead (/lib to usr/lib): whoever gives these away has lost the machine
_NOT_GIVEN = frozenset(
    (
        b"/ /bin /boot /dev /etc /etc/passwd /etc/pki /etc/shadow /home /lib /lib32 /lib64 /libx32 /media /mnt /opt "
        b"/proc /root /run /sbin /srv /sys /tmp /usr /usr/bin /usr/lib /usr/lib32 /usr/lib64 /usr/libexec /usr/libx32 "
        b"/usr/local /usr/sbin /usr/share /var /var/lib /var/log /var/tmp"
    ).split(b" ")
)


def wanted(store: Store, options: Options, declared: Iterable[str]) -> tuple[Volume, ...]:
    """All volumes of a container: asked for, then other containers', then the image's, each where nothing is yet.

    Raises NotFound for a container that is not there.
    """
    found = {volume.target: volume for volume in options.volumes}
    for name, mode in options.volumes_from:
        for volume in _of_container(store, name):
            words = mode.split(",")
            if "ro" in words:
                from lamina.engine.mount_notation import read_only

                volume = read_only(volume)
            if labels := [word for word in ("z", "Z") if word in words]:
                volume = replace(volume, relabel=labels[0])
            found.setdefault(volume.target, volume)
    for path in declared:
        target = os.fsencode(path)
        found.setdefault(target, Volume(b"", target, DECLARED, VOLUME))
    return tuple(found.values())


def named(identity: str, volumes: tuple[Volume, ...]) -> tuple[Volume, ...]:
    """The same, those without a name called after the container *identity*."""
    return tuple(
        replace(volume, source=identity.encode() + (volume.source or b"-%d" % number))
        if is_own(volume)
        else volume
        for number, volume in enumerate(volumes)
    )


def drawn(store: Store, home: bytes, volumes: tuple[Volume, ...], *, rootless: bool) -> tuple[Volume, ...]:
    """What is mounted in the end: a volume's directory in the store, an overlay with its own layer in *home*."""
    found = []
    for number, volume in enumerate(volumes):
        if volume.kind == VOLUME:
            source = data_of(store, volume.source.decode())
            found.append(replace(volume, source=source))
        elif volume.kind == OVER:
            found.append(
                replace(volume, source=b"overlay", options=_over_options(home, number, volume, rootless))
            )
        else:
            found.append(volume)
    return tuple(found)


def _over_options(home: bytes, number: int, volume: Volume, rootless: bool) -> tuple[str, ...]:
    from lamina.overlay.options import format_options

    place = home + b"/over-%d" % number
    spec = MountSpec((volume.source,), place + b"/upper", place + b"/work", userxattr=rootless)
    return (os.fsdecode(format_options(spec)), *volume.options)


def ready(
    store: Store,
    home: bytes,
    drawn: Design,
    maps: Callable[[], Maps | None],
    *,
    rootless: bool,
    tell: Callable[[str], None],
) -> list[Lock]:
    """Make what the volumes need to be mounted. *tell* is told what was made on this system, *maps* see `within.reach`.

    The locks that come back keep the store's volumes from being removed, until the container's record names them.
    Raises KernelError, InvalidInput, NotFound.
    """
    held: list[Lock] = []
    try:
        for number, volume in enumerate(drawn.volumes):
            if volume.kind == BIND and volume.create:
                made = make_source(volume.source)
                if made is not None:
                    target = os.fsdecode(volume.target)
                    tell(f"made the directory {os.fsdecode(made)} on this system, for the volume at {target}")
            elif volume.kind == OVER:
                _make_over(home + b"/over-%d" % number, volume.source, rootless)
            elif volume.kind == VOLUME:
                held.append(_hold(store, volume, os.fsdecode(os.path.basename(home))))
                _fill(store, volume, drawn, maps, rootless)
                if drawn.maps is not None and drawn.has_own_ids:
                    _begin(store, volume, drawn.maps, maps)
                if volume.subpath:
                    _check_part(store, volume)
            if volume.chown:
                _give(store, volume, drawn.spec, maps)
            if volume.relabel and (label := drawn.spec["process"].get("selinuxLabel")):
                _relabel(store, volume, label, maps, tell)
    except BaseException:
        for lock in held:
            lock.release()
        raise
    return held


def _check_part(store: Store, volume: Volume) -> None:
    """Whether that directory is in the volume. What is mounted in the end is looked up within it once more (Bundle)."""
    name, part = volume.source.decode(), os.fsdecode(volume.subpath)
    inside = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
    with Fd(os.open(data_of(store, name), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as top:
        try:
            openat2(top, volume.subpath, os.O_PATH | os.O_DIRECTORY, resolve=inside).close()
        except KernelError as error:
            raise NotFound(
                f"mount {part} of volume {name} at {os.fsdecode(volume.target)}: {error.strerror}",
                remedy="make the directory in the volume first",
            ) from error


def record_of(volumes: Iterable[Volume]) -> list[dict[str, Any]]:
    """The volumes as the record of a container keeps them; `name` is one of the store's."""
    return [
        {
            "name" if volume.kind == VOLUME else "source": os.fsdecode(volume.source),
            "target": os.fsdecode(volume.target),
            "options": list(volume.options),
            "kind": volume.kind,
            "subpath": os.fsdecode(volume.subpath),
            **{flag: given for flag, given in _flags(volume).items() if given != _USUAL[flag]},
            **({"relabel": volume.relabel} if volume.relabel else {}),
        }
        for volume in volumes
    ]


def volumes_of(record: Iterable[dict[str, Any]]) -> tuple[Volume, ...]:
    """The way back from `record_of`. A volume of the store is not filled once more."""
    return tuple(
        Volume(
            os.fsencode(entry["name"] if entry["kind"] == VOLUME else entry["source"]),
            os.fsencode(entry["target"]),
            tuple(entry["options"]),
            entry["kind"],
            **{flag: bool(entry.get(flag, usual)) for flag, usual in _USUAL.items()},
            subpath=os.fsencode(entry.get("subpath") or ""),
            relabel=str(entry.get("relabel") or ""),
        )
        for entry in record
    )


_USUAL = {"create": True, "copy": True, "chown": False}


def _flags(volume: Volume) -> dict[str, bool]:
    return {"create": volume.create, "copy": volume.copy, "chown": volume.chown}


def _of_container(store: Store, reference: str) -> list[Volume]:
    """The volumes of another container, for `--volumes-from`. Raises NotFound."""
    from lamina.store.containers import find

    return [
        Volume(
            os.fsencode(entry.get("name") or entry.get("source") or ""),
            os.fsencode(entry["target"]),
            tuple(entry["options"]),
            entry["kind"],
            subpath=os.fsencode(entry.get("subpath") or ""),
        )
        for entry in find(store, reference).asked().get("volumes") or ()
        if entry["kind"] in (BIND, VOLUME)
    ]


def own_volumes(record: dict[str, Any] | None) -> list[str]:
    """The names of the volumes that go with the container of this *record*."""
    if not record:
        return []
    names = [str(entry.get("name") or "") for entry in record.get("volumes") or ()]
    return [name for name in names if name.startswith(f"{record.get('id')}-")]


def _hold(store: Store, volume: Volume, identity: str) -> Lock:
    from lamina.store.volumes import hold

    name = volume.source.decode()
    own = name.startswith(f"{identity}-")
    return hold(store, name, create=True, anonymous=own)


def _fill(
    store: Store, volume: Volume, drawn: Design, maps: Callable[[], Maps | None], rootless: bool
) -> None:
    """Fill a volume that is empty with what the image has at its place: one process does, others wait for it.

    A file beside the volume's data is locked meanwhile. It says that somebody began, so that what was left half done is
    done again. Over the host a volume begins empty: nobody means all of /home by a volume there.
    """
    base, data = drawn.base, data_of(store, volume.source.decode())
    mark = os.path.dirname(data) + b"/filling"
    if not (volume.copy and base.id) or volume.subpath or not _may_have(base, volume.target):
        _leave_as_it_is(mark)
        return
    from lamina.engine.filling import fill
    from lamina.engine.within import reach
    from lamina.store import lock

    if not _is_empty(data) and not os.path.lexists(
        mark
    ):  # in this order: the mark is there first and goes last
        return
    place = base.image.places[0]
    held = lock.take(mark, lock.LOCK_EX, create=True)
    assert held is not None
    with held:
        begun = os.fstat(held.fd).st_size > 0
        if begun or _is_empty(data):
            os.write(held.fd, b"begun\n")
            try:
                lowers, ids = (place.lower, *place.below), _becoming(volume, drawn)
                reach(maps, fill, data, lowers, rootless, os.fsdecode(volume.target), ids, again=begun)
            except OSError as error:
                raise KernelError(
                    "fill volume",
                    error.errno or EIO,
                    volume.source.decode(),
                    hint=f"at {os.fsdecode(volume.target)}",
                ) from error
        os.unlink(mark)


def _becoming(volume: Volume, drawn: Design) -> IdMap | None:
    """What the owners of an image's files become in a volume that is shown as it is: ids of this machine."""
    if drawn.maps is None or not drawn.bundle.mapped or "idmap" in volume.options:
        return None
    from lamina.image.apply.ids import IdMap

    return IdMap(drawn.maps.uids, drawn.maps.gids)


def _begin(store: Store, volume: Volume, ids: IdMaps, maps: Callable[[], Maps | None]) -> None:
    """A volume that is new and empty belongs to the container's root, as in podman."""
    from lamina.engine.within import reach

    data = data_of(store, volume.source.decode())
    try:
        found = os.stat(data)
        if found.st_uid == os.geteuid() and "idmap" not in volume.options and _is_empty(data):
            reach(maps, os.chown, data, *ids.root)
    except PermissionError:
        pass  # it is another user's already


def _leave_as_it_is(mark: bytes) -> None:
    """Forget that a filling broke off: who mounts the volume without one may write into it, and what he writes is not
    to be taken for half a copy by the next start that would fill it. Who fills it just now is waited for.
    """
    if not os.path.lexists(mark):
        return
    from lamina.store import lock

    try:
        held = lock.take(mark, lock.LOCK_EX)
    except FileNotFoundError:
        return
    assert held is not None
    with held:
        os.unlink(mark)


def _may_have(base: Base, target: bytes) -> bool:
    """Whether the image has anything at *target*, or a link on the way there; a look at each layer, no more."""
    place = base.image.places[0]
    beneath = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
    for lower in (place.lower, *place.below):
        with Fd(os.open(lower, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as layer:
            try:
                openat2(layer, target.lstrip(b"/"), os.O_PATH, resolve=beneath).close()
            except KernelError as error:
                if error.errno == ENOENT:
                    continue
            return True
    return False


def _is_empty(directory: bytes) -> bool:
    with os.scandir(directory) as found:
        return next(found, None) is None


def _make_over(place: bytes, lower: bytes, rootless: bool) -> None:
    """The layer over a directory of the host; it stays if it is there. Raises OSError, InvalidInput."""
    if os.path.lexists(place + b"/work"):
        return
    if not os.path.isdir(lower):
        raise InvalidInput(f"run: volume {os.fsdecode(lower)}: O takes a directory, and there is none")
    make_directory(place, 0o700, exist_ok=True)
    make_directory(place + b"/upper", 0o700, exist_ok=True)
    resemble(place + b"/upper", lower, userxattr=rootless)
    make_directory(place + b"/work", 0o700)


def _give(store: Store, volume: Volume, spec: Spec, maps: Callable[[], Maps | None]) -> None:
    """`U`: make the container's user the owner of the source, and of everything in it."""
    from lamina.engine.filling import give
    from lamina.engine.within import reach

    source = _own_source(store, volume, "and is not given away by U")
    user = spec["process"]["user"]
    uid = _outside(user["uid"], spec["linux"].get("uidMappings"))
    gid = _outside(user["gid"], spec["linux"].get("gidMappings"))
    try:
        reach(maps, give, source, uid, gid)
    except OSError as error:
        raise KernelError("change owner", error.errno or EIO, os.fsdecode(source)) from error


def _own_source(store: Store, volume: Volume, why: str) -> bytes:
    """Where the files of the volume are. Raises InvalidInput, which says *why*, where it is the system's own place."""
    if volume.kind == VOLUME:
        return data_of(store, volume.source.decode())
    source = os.path.realpath(volume.source)
    if volume.kind == BIND:
        if source in _NOT_GIVEN:
            raise InvalidInput(f"run: volume {os.fsdecode(source)}: it is the system's, {why}")
        if source in _homes():
            raise InvalidInput(
                f"run: volume {os.fsdecode(source)}: it is somebody's home, {why}",
                remedy="name a directory in it",
            )
    return source


def _homes() -> set[bytes]:
    """podman's: the caller's home, whatever it is called by, and that of whom sudo(8) did this for."""
    import pwd

    found = [os.environ.get("HOME")]
    for who in (os.environ.get("SUDO_USER"), os.getuid()):
        try:
            if who is not None:
                found.append((pwd.getpwnam(who) if isinstance(who, str) else pwd.getpwuid(who)).pw_dir)
        except KeyError:
            continue
    return {os.path.realpath(os.fsencode(home)) for home in found if home}


def _relabel(
    store: Store,
    volume: Volume,
    label: str,
    maps: Callable[[], Maps | None],
    tell: Callable[[str], None],
) -> None:
    """`z`, `Z`: label the source and everything in it for a process of that *label*."""
    from lamina.engine.relabelling import file_label, is_there, relabel
    from lamina.engine.within import reach

    if not is_there():
        return
    source = _own_source(store, volume, f"and is not labelled by {volume.relabel}")
    try:
        if not reach(maps, relabel, source, file_label(label, shared=volume.relabel == "z")):
            tell(f"{os.fsdecode(source)} is on a file system without SELinux labels: it has its own")
    except OSError as error:
        raise KernelError("label", error.errno or EIO, os.fsdecode(source)) from error


def _outside(inside: int, mappings: list[dict[str, int]] | None) -> int:
    """What the id *inside* is out here."""
    for line in mappings or ():
        if line["containerID"] <= inside < line["containerID"] + line["size"]:
            return line["hostID"] + inside - line["containerID"]
    return inside


def make_source(path: bytes) -> bytes | None:
    """As Docker does: the source of a volume that is not there becomes a directory, of mode 755 whatever the umask, and
    so do those on the way to it. Gives the topmost one that was made, None if nothing was.
    """
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path.rstrip(b"/"))
    made = None
    try:
        for place in reversed(missing):
            try:
                os.mkdir(place, 0o700)
            except FileExistsError:  # somebody else made it meanwhile
                continue
            made = made or place
            os.chmod(place, 0o755)
        return made
    except OSError as error:
        raise KernelError(
            "make volume source",
            error.errno or 5,
            os.fsdecode(missing[0]),
            remedy="name a file or directory that is there",
        ) from error
