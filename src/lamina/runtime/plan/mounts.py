"""The mounts of the specification as steps: each is made detached, then attached by descriptor.

https://github.com/opencontainers/runtime-spec/blob/main/config.md#mounts and #linux-mount-options
"""

from __future__ import annotations

from errno import ENOENT
from os import O_CLOEXEC, O_DIRECTORY, O_PATH

from lamina.errors import InvalidInput, LaminaError
from lamina.linux.constants import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    F_DUPFD_CLOEXEC,
    FSCONFIG_CMD_CREATE,
    FSCONFIG_CMD_RECONFIGURE,
    FSCONFIG_SET_FLAG,
    FSCONFIG_SET_STRING,
    FSMOUNT_CLOEXEC,
    FSOPEN_CLOEXEC,
    FSPICK_CLOEXEC,
    FSPICK_EMPTY_PATH,
    MOUNT_ATTR_RDONLY,
    MS_I_VERSION,
    MS_PRIVATE,
    MS_SHARED,
    MS_SLAVE,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    RESOLVE_NO_SYMLINKS,
)
from lamina.linux.program import Reg, Step
from lamina.runtime.bundle import absolute
from lamina.runtime.destinations import components, destination_of
from lamina.runtime.plan.options import Options, parse_options, refuse_for_bind
from lamina.runtime.plan.paths import (
    INSIDE,
    attach_step,
    attribute_step,
    how,
    idmap_step,
    open_step,
    target_steps,
)
from lamina.runtime.plan.waits import lend_steps
from lamina.runtime.waits import COPY_UP, LETTERS, TAKE_MODE, Wait
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from lamina.runtime.bundle import Bundle, Wiring

_KERNELS_OWN = frozenset(("proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"))
# where they belong, an image must not point elsewhere by a link; a tmpfs at /var/run is one at /run
_THEIRS = frozenset((b"proc", b"sys", b"dev"))
# mount(2), linux/mount.h, in place of MOUNT_ATTR_*
_LONGEST_DATA = 4095


@value
class Place:
    """What the steps of one mount have in common: the entry itself, its number, and what it says. `part` is the
    directory within the source that is shown, b"" for all of it.
    """

    destination: str
    fstype: str
    source: bytes
    options: Options
    save: Reg
    target: Reg
    index: int
    part: bytes = b""

    @property
    def path(self) -> bytes:
        """The destination as the kernel takes it."""
        return self.destination.encode("utf-8", "surrogateescape")

    @property
    def bound(self) -> bool:
        """Whether it shows something that is mounted already."""
        return self.options.bind is not None or self.fstype == "bind"


def place_of(mount: dict[str, Any], index: int, directory: bytes = b"") -> Place:
    """Read one entry of `mounts`; *directory* is where relative sources of bind mounts belong. Raises InvalidInput."""
    options = parse_options(mount.get("options") or [])
    destination = destination_of(mount)
    fstype = mount.get("type") or ("bind" if options.bind is not None else "")
    if fstype == "none" and options.bind is not None:
        fstype = "bind"
    source = str(mount.get("source") or "").encode("utf-8", "surrogateescape")
    if fstype == "bind" or options.bind is not None:
        if not source and not options.remount:
            raise InvalidInput(f"bind at {destination}: it has no source")
        source = absolute(source, directory)
    if not fstype and not options.remount:
        raise InvalidInput(f"mount at {destination}: neither a type nor the option bind")
    if (mount.get("uidMappings") or mount.get("gidMappings")) and options.idmap is None:
        options = parse_options([*(mount.get("options") or []), "idmap"])
    return Place(destination, fstype, source, options, Reg(f"mount{index}"), Reg(f"target{index}"), index)


def new_mount_steps(
    fstype: str,
    save: Reg,
    *,
    attributes: int = 0,
    data: tuple[tuple[str, str], ...] = (),
    source: str | bytes = "",
) -> list[Step]:
    """Steps that leave a new instance of a file system, attached nowhere, in the register *save*."""
    context = Reg(f"{save}.fs")
    steps = [Step("fsopen", fstype, FSOPEN_CLOEXEC, save=context)]
    if source:
        steps.append(Step("fsconfig", context, FSCONFIG_SET_STRING, b"source", source, 0))
    steps += _data_steps(context, data)
    steps.append(Step("fsconfig", context, FSCONFIG_CMD_CREATE, None, None, 0))
    steps.append(Step("fsmount", context, FSMOUNT_CLOEXEC, attributes, save=save))
    return steps


def _data_steps(context: Reg, data: tuple[tuple[str, str], ...]) -> list[Step]:
    return [
        Step("fsconfig", context, FSCONFIG_SET_STRING, key, text, 0)
        if text
        else Step("fsconfig", context, FSCONFIG_SET_FLAG, key, None, 0)
        for key, text in data
    ]


def clone_steps(source: bytes, save: Reg, recursive: int, part: bytes = b"") -> list[Step]:
    """Steps that leave a copy of the mount at the host's *source*, attached nowhere, in the register *save*. With
    *part* it is of a directory there, from which no link leads out.
    """
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | recursive
    if part:
        top, inside = Reg(f"{save}.top"), Reg(f"{save}.part")
        return [
            Step("openat", AT_FDCWD, source, O_PATH | O_DIRECTORY | O_CLOEXEC, 0, save=top),
            Step("openat2", top, part, how(O_PATH | O_DIRECTORY, INSIDE), 24, save=inside),
            Step("open_tree", inside, b"", flags | AT_EMPTY_PATH, save=save),
        ]
    return [Step("open_tree", AT_FDCWD, source, flags, save=save)]


def places_of(bundle: Bundle) -> tuple[Place, ...]:
    """Read `mounts`. Raises InvalidInput."""
    mounts = bundle.spec.get("mounts") or []
    found = tuple(place_of(mount, index, bundle.directory) for index, mount in enumerate(mounts))
    if not bundle.parts:
        return found
    parts = dict(bundle.parts)
    return tuple(replace(place, part=parts.get(place.path, b"")) for place in found)


def early_steps(places: Sequence[Place], wiring: Wiring) -> list[Step]:
    """Copy the mounts that keep their connection with the host's: before ours are cut off from it."""
    made = {name for name, _ in wiring.trees}
    steps = []
    for place in places:
        if _connected(place) and place.save not in made:
            steps += clone_steps(place.source, place.save, recursion(place), place.part)
            steps[-1].note = f"bind {_shown(place.source)}, connected with the host's"
    return steps


def _connected(place: Place) -> bool:
    propagation = place.options.propagation
    return (
        place.bound
        and not place.options.remount
        and bool(propagation and propagation[0] & (MS_SHARED | MS_SLAVE))
    )


def recursion(place: Place) -> int:
    """AT_RECURSIVE, or 0 for a bind mount that shows what is mounted below its source not as well."""
    return AT_RECURSIVE if place.options.bind is None else place.options.bind


def mount_steps(
    place: Place, wiring: Wiring, *, data: tuple[tuple[str, str], ...] = ()
) -> tuple[list[Step], list[Wait]]:
    """One entry of the specification's `mounts`, and where it needs the parent. *data* are more options for it."""
    options = place.options
    if options.remount:
        return _remount_steps(place), []
    if place.bound:
        return _bind_steps(place, wiring), []
    if options.copy_up and place.fstype != "tmpfs":
        raise InvalidInput(f"mount at {place.destination}: only a tmpfs takes the option tmpcopyup")
    # below a new mount there is nothing yet: what is for the whole tree is for it
    attributes = options.set | options.set_below
    given = [(flag, "") for flag in options.superblock] + [*options.data, *data]
    if attributes & MOUNT_ATTR_RDONLY and place.fstype not in _KERNELS_OWN:
        given.append(("ro", ""))
    takes_mode = place.fstype == "tmpfs" and all(key != "mode" for key, _ in given)
    last = attributes & MOUNT_ATTR_RDONLY if takes_mode or options.copy_up else 0  # so far it is written to
    attributes &= ~last
    if place.fstype == "overlay":
        steps = _overlay_steps(place, given, attributes, wiring)
    elif options.iversion:
        steps = _old_steps(place, given, attributes)
    else:
        steps = new_mount_steps(
            place.fstype, place.save, attributes=attributes, data=tuple(given), source=place.source
        )
    steps[0].note = f"{place.fstype} -> {place.destination}"
    if options.propagation:
        steps += _propagation_steps(place.save, *options.propagation)
    steps += _idmap_steps(place, wiring)
    plain = place.fstype == "tmpfs" and components(place.path)[0] not in _THEIRS
    links = plain or place.fstype not in _KERNELS_OWN
    waits = []
    if takes_mode:
        steps += _mode_steps(place, wiring.channel, links=links)
        waits.append(Wait(TAKE_MODE, place.destination))
    steps += target_steps(place.path, place.target, directory=True, links=links)
    if options.copy_up:
        steps += _copy_up_steps(place, wiring.channel)
        waits.append(Wait(COPY_UP, place.destination))
    if last:
        steps.append(attribute_step(place.save, last))
    return [*steps, attach_step(place.save, place.target)], waits


def _mode_steps(place: Place, channel: int | Reg, *, links: bool) -> list[Step]:
    """Have the parent give the tmpfs the mode of the directory that it covers, as runc and crun do. Where there is none
    yet it keeps its own: then it is handed over in the place of that.
    """
    covered = Reg(f"{place.save}.covered")
    resolve = INSIDE if links else INSIDE | RESOLVE_NO_SYMLINKS
    flags = O_PATH | O_DIRECTORY
    found = open_step(place.path, covered, flags=flags, resolve=resolve, tolerate=(ENOENT,), leap=1)
    again = Step("fcntl", place.save, F_DUPFD_CLOEXEC, 3, save=covered)
    note = f"the mode of {place.destination}, for its tmpfs"
    return [found, again, *lend_steps(channel, (place.save, covered), LETTERS[TAKE_MODE], note)]


def _propagation_steps(save: Reg | int, propagation: int, below: int) -> list[Step]:
    return [attribute_step(save, 0, propagation=propagation, recursive=below)]


def _idmap_steps(place: Place, wiring: Wiring) -> list[Step]:
    """Map the ids of a detached mount, where the caller has not done it in a tree that it made."""
    if place.options.idmap is None:
        return []
    namespace = dict(wiring.id_maps).get(place.index)
    if namespace is None:
        raise LaminaError(
            f"mount at {place.destination}: no user namespace for its id maps was given to the plan"
        )
    step = idmap_step(place.save, namespace, recursive=place.options.idmap)
    step.note = f"map the ids of {place.destination}"
    return [step]


def _bind_steps(place: Place, wiring: Wiring) -> list[Step]:
    options = place.options
    what = f"bind {_shown(place.source)} at {place.destination}"
    refuse_for_bind(options, what)
    tree: Reg | int = dict(wiring.trees).get(place.save, place.save)
    propagation, below = options.propagation or (MS_PRIVATE, AT_RECURSIVE)
    steps: list[Step] = []
    if tree is place.save:
        if not _connected(place):
            steps += clone_steps(place.source, place.save, recursion(place), place.part)
        steps += _idmap_steps(place, wiring)
    elif propagation == MS_SHARED:
        # as in a new user namespace's copy of the mounts: it sees what the host mounts, the host not what it mounts
        steps += _propagation_steps(tree, MS_SLAVE, below)
    steps += _propagation_steps(tree, propagation, below)
    readonly = " [readonly]" if options.set & MOUNT_ATTR_RDONLY else ""
    steps[0].note = f"bind {_shown(place.source)} -> {place.destination}{readonly}"
    if options.set or options.clear:
        steps.append(attribute_step(tree, options.set, options.clear))
    if options.set_below or options.clear_below:
        steps.append(attribute_step(tree, options.set_below, options.clear_below, recursive=AT_RECURSIVE))
    steps += target_steps(place.path, place.target, directory=place.source not in wiring.files)
    return [*steps, attach_step(tree, place.target)]


def _overlay_steps(place: Place, given: list[tuple[str, str]], attributes: int, wiring: Wiring) -> list[Step]:
    """A stack of directories in the kernel's own words: read and escaped as mount(8) does, then as any other stack."""
    from lamina.overlay.options import parse_options as parse_overlay
    from lamina.overlay.steps import overlay_steps

    text = ",".join(f"{key}={text}" if text else key for key, text in given if key != "ro")
    stack = parse_overlay([text])
    if not wiring.lowerdir_plus:
        raise InvalidInput(
            f"mount overlay at {place.destination}: this kernel has no lowerdir+ (6.8)",
            remedy="have it mounted beforehand, and bind it",
        )
    return overlay_steps(stack, place.save, attributes=attributes)


def _old_steps(place: Place, given: list[tuple[str, str]], attributes: int) -> list[Step]:
    """By mount(2), the only one with this flag: on top of our own copy of "/", from where it is taken at once."""
    data = ",".join(f"{key}={text}" if text else key for key, text in given).encode(
        "utf-8", "surrogateescape"
    )
    if len(data) > _LONGEST_DATA:
        raise InvalidInput(f"mount at {place.destination}: more than {_LONGEST_DATA} bytes of options")
    steps = [
        Step("mount", place.source or b"none", b"/", place.fstype, MS_I_VERSION, data or None),
        Step("open_tree", AT_FDCWD, b"/..", OPEN_TREE_CLOEXEC, save=place.save),
    ]
    return [*steps, attribute_step(place.save, attributes)] if attributes else steps


def _copy_up_steps(place: Place, channel: int | Reg) -> list[Step]:
    """Have the parent fill the tmpfs with what it is going to cover."""
    note = f"copy {place.destination} into its tmpfs"
    return lend_steps(channel, (place.save, place.target), LETTERS[COPY_UP], note)


def _remount_steps(place: Place) -> list[Step]:
    """Change what is mounted at the destination, by descriptor (CVE-2026-115521): with `bind` this mount, without the
    file system as well. What no option names stays as it is.
    """
    options, held = place.options, place.target
    steps = [open_step(place.path, held, flags=O_PATH, note=f"remount {place.destination}")]
    flags = [*((flag, "") for flag in options.superblock), *options.data]
    if options.bind is None:
        if options.set & MOUNT_ATTR_RDONLY or options.clear & MOUNT_ATTR_RDONLY:
            flags.append(("ro" if options.set & MOUNT_ATTR_RDONLY else "rw", ""))
    else:
        refuse_for_bind(options, f"remount {place.destination}")
    if flags:
        context = Reg(f"{place.save}.fs")
        steps.append(Step("fspick", held, b"", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH, save=context))
        steps += _data_steps(context, tuple(flags))
        steps.append(Step("fsconfig", context, FSCONFIG_CMD_RECONFIGURE, None, None, 0))
    if options.set or options.clear:
        steps.append(attribute_step(held, options.set, options.clear))
    if options.set_below or options.clear_below:
        steps.append(attribute_step(held, options.set_below, options.clear_below, recursive=AT_RECURSIVE))
    if options.propagation:
        steps += _propagation_steps(held, *options.propagation)
    return steps


def readonly_steps(path: Reg, save: Reg) -> list[Step]:
    """What is open as *path* gets a read-only mount of itself on top."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE | AT_EMPTY_PATH
    return [
        Step("open_tree", path, b"", flags, save=save),
        attribute_step(save, MOUNT_ATTR_RDONLY, recursive=AT_RECURSIVE),
        attach_step(save, path),
    ]


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
