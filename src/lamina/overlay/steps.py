"""A stack of directories as steps of a start's plan: nothing is mounted here."""

from __future__ import annotations

from os.path import commonpath, dirname

from lamina.errors import InvalidInput, Unsupported
from lamina.linux.constants import (
    AT_FDCWD,
    FSCONFIG_CMD_CREATE,
    FSCONFIG_SET_FLAG,
    FSCONFIG_SET_STRING,
    FSMOUNT_CLOEXEC,
    FSOPEN_CLOEXEC,
    MNT_DETACH,
    MOUNT_ATTR_RDONLY,
    MOVE_MOUNT_F_EMPTY_PATH,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
)
from lamina.linux.program import Reg, Step
from lamina.overlay.spec import renamed, string_value
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamina.overlay.spec import MountSpec


def overlay_steps(
    spec: MountSpec, save: Reg, *, attributes: int = 0, lowerdir_plus: bool = True, scratch: bytes = b""
) -> list[Step]:
    """Steps that leave the mounted stack, attached nowhere, in the register *save*.

    *attributes* are MOUNT_ATTR flags. Where the kernel has no `lowerdir+` (before 6.8), mount(2) is used on the
    directory *scratch*, and the stack is taken off from there. The steps may change the working directory. Raises
    InvalidInput for relative paths, Unsupported when mount(2) cannot carry the stack.
    """
    for path in (*spec.lowerdirs, *spec.datadirs, spec.upperdir or b"/", spec.workdir or b"/"):
        if not path.startswith(b"/"):
            raise InvalidInput(f"mount overlay of {_names(spec)}: {path!r} is not an absolute path")
    if not lowerdir_plus:
        return _old_steps(spec, save, attributes, scratch)
    if spec.takes_two:
        return _nested_steps(spec, save, attributes, scratch)
    return [*_told(spec, save, spec.lowerdirs), *_made(save, attributes)]


def _nested_steps(spec: MountSpec, save: Reg, attributes: int, scratch: bytes) -> list[Step]:
    """The lowest layer first, through an overlay that the kernel takes for another file system. Its second layer is an
    empty file system: overlayfs wants two, and nothing that is kept lies outside of the first.

    Both are attached to *scratch* meanwhile, where there is one: before Linux 6.15 no layer may be attached nowhere.
    """
    empty, base = Reg(f"{save}.empty"), Reg(f"{save}.base")
    lowest = replace(spec, lowerdirs=spec.lowerdirs[-1:], upperdir=None, workdir=None, volatile=False)
    context = Reg(f"{empty}.fs")
    steps = [
        Step("fsopen", b"tmpfs", FSOPEN_CLOEXEC, save=context, note=f"nothing, below {_names(lowest)}"),
        Step("fsconfig", context, FSCONFIG_CMD_CREATE, None, None, 0),
        Step("fsmount", context, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY, save=empty),
        *_attached(empty, scratch),
        *_told(lowest, base, lowest.lowerdirs, below=empty),
        *_made(base, MOUNT_ATTR_RDONLY),
        *_attached(base, scratch),
        *_told(spec, save, spec.lowerdirs[:-1], below=base),
        *_made(save, attributes),
    ]
    return steps + [Step("umount2", scratch, MNT_DETACH)] * (2 if scratch else 0)


def _attached(tree: Reg, scratch: bytes) -> list[Step]:
    if not scratch:
        return []
    return [Step("move_mount", tree, b"", AT_FDCWD, scratch, MOVE_MOUNT_F_EMPTY_PATH)]


def _told(spec: MountSpec, save: Reg, lowers: Sequence[bytes], below: Reg | None = None) -> list[Step]:
    """A file system context that knows everything of the stack; the mount in *below* is under the layers *lowers*."""
    context = Reg(f"{save}.fs")
    steps = [Step("fsopen", b"overlay", FSOPEN_CLOEXEC, save=context, note=said_of(spec))]
    steps.append(Step("fsconfig", context, FSCONFIG_SET_STRING, b"source", b"overlay", 0))
    for directory in lowers:
        steps += _directory(context, b"lowerdir+", directory)
    if below is not None:
        steps += [
            Step("fchdir", below),
            Step("fsconfig", context, FSCONFIG_SET_STRING, b"lowerdir+", b".", 0),
        ]
    for directory in spec.datadirs:
        steps += _directory(context, b"datadir+", directory)
    if spec.upperdir is not None and spec.workdir is not None:
        steps += _directory(context, b"upperdir", spec.upperdir)
        steps += _directory(context, b"workdir", spec.workdir)
    for key, text in _options(spec):
        if text:
            steps.append(Step("fsconfig", context, FSCONFIG_SET_STRING, key.encode(), text.encode(), 0))
        else:
            steps.append(Step("fsconfig", context, FSCONFIG_SET_FLAG, key.encode(), None, 0))
    return steps


def _made(save: Reg, attributes: int) -> list[Step]:
    context = Reg(f"{save}.fs")
    return [
        Step("fsconfig", context, FSCONFIG_CMD_CREATE, None, None, 0, note="mount the overlay"),
        Step("fsmount", context, FSMOUNT_CLOEXEC, attributes, save=save),
    ]


def said_of(spec: MountSpec) -> str:
    """The note on the step that mounts *spec*."""
    return f"overlay of {_names(spec)}"


def _names(spec: MountSpec) -> str:
    lowers = ":".join(d.decode("utf-8", "backslashreplace") for d in spec.lowerdirs[:3])
    more = f" and {len(spec.lowerdirs) - 3} more" if len(spec.lowerdirs) > 3 else ""
    upper = f" under {spec.upperdir.decode('utf-8', 'backslashreplace')}" if spec.upperdir else ", read-only"
    return f"{lowers}{more}{upper}"


def _directory(context: Reg, key: bytes, path: bytes) -> list[Step]:
    if (text := string_value(key, path)) is not None:
        return [Step("fsconfig", context, FSCONFIG_SET_STRING, key, text, 0)]
    # longer than a string may be; descriptors are taken from Linux 6.13 on only, "here" always was
    return [Step("chdir", path), Step("fsconfig", context, FSCONFIG_SET_STRING, key, b".", 0)]


def _options(spec: MountSpec) -> list[tuple[str, str]]:
    options = list(spec.options)
    if spec.userxattr:
        options.append(("userxattr", ""))
    if spec.volatile:
        options.append(("volatile", ""))
    return options


def _old_steps(spec: MountSpec, save: Reg, attributes: int, scratch: bytes) -> list[Step]:
    from lamina.overlay.page import OPTION_PAGE, mount_flags, option_data

    if spec.takes_two:
        raise Unsupported(
            f"mount overlay of {_names(spec)}: its lowest layer contains the others, which takes Linux 6.8",
            remedy="keep the store on another file system (--root)",
        )
    steps: list[Step] = []
    data = option_data(spec)
    if len(data) > OPTION_PAGE:
        here, data = _shortest(spec)
        steps.append(Step("chdir", here, note="shorter names for the layers"))
    if len(data) > OPTION_PAGE:
        raise Unsupported(
            f"mount overlay of {_names(spec)}: its options take {len(data)} bytes, mount(2) carries {OPTION_PAGE}",
            remedy="use a kernel from 6.8 on, fewer layers or shorter paths",
        )
    flags = mount_flags(attributes)
    return [
        *steps,
        Step("mount", b"overlay", scratch, b"overlay", flags, data, note=said_of(spec)),
        # a mount cannot be moved onto itself (ELOOP), nor to what is below it: from here on it is attached nowhere
        Step("open_tree", AT_FDCWD, scratch, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC, save=save),
        Step("umount2", scratch, MNT_DETACH),
    ]


def _below(spec: MountSpec, here: bytes) -> MountSpec:
    """The same stack for who is in the directory *here*: "/" has no shorter name, and what is in it needs none."""
    return spec if here == b"/" else renamed(spec, lambda path: path.removeprefix(here + b"/"))


def _shortest(spec: MountSpec) -> tuple[bytes, bytes]:
    """The working directory with which the options are shortest, and those options."""
    from lamina.overlay.page import option_data

    layers = [*spec.lowerdirs, *spec.datadirs]
    writable = [path for path in (spec.upperdir, spec.workdir) if path is not None]
    found = []
    for below in (layers + writable, layers, writable or layers):
        here = commonpath(below)
        here = dirname(here) if here in below else here  # "" would be no name
        found.append((here, option_data(_below(spec, here))))
    return min(found, key=lambda candidate: len(candidate[1]))
