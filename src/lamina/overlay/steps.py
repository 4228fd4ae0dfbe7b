"""A stack of directories as steps of a start's plan: nothing is mounted here."""

from __future__ import annotations

from os import O_CLOEXEC, O_PATH

from lamina.errors import Unsupported
from lamina.linux.constants import (
    AT_FDCWD,
    FSCONFIG_CMD_CREATE,
    FSCONFIG_SET_FD,
    FSCONFIG_SET_FLAG,
    FSCONFIG_SET_STRING,
    FSMOUNT_CLOEXEC,
    FSOPEN_CLOEXEC,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    OPEN_TREE_CLOEXEC,
)
from lamina.linux.program import Reg, Step
from lamina.overlay.spec import string_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.overlay.spec import MountSpec

# mount(2) takes one page of options and cuts the rest off in silence
OPTION_PAGE = 4095

_OLD_FLAGS = (
    (MOUNT_ATTR_RDONLY, MS_RDONLY),
    (MOUNT_ATTR_NOSUID, MS_NOSUID),
    (MOUNT_ATTR_NODEV, MS_NODEV),
    (MOUNT_ATTR_NOEXEC, MS_NOEXEC),
)


def overlay_steps(
    spec: MountSpec, save: Reg, *, attributes: int = 0, lowerdir_plus: bool = True, scratch: bytes = b""
) -> list[Step]:
    """Steps that leave the mounted stack, attached nowhere, in the register *save*.

    *attributes* are MOUNT_ATTR flags. Where the kernel has no `lowerdir+` (before 6.8), mount(2) is used on the
    directory *scratch*, and the stack stays attached there until it is moved. Raises Unsupported when that way cannot
    carry the stack.
    """
    if not lowerdir_plus:
        return _old_steps(spec, save, attributes, scratch)
    context = Reg(f"{save}.fs")
    steps = [Step("fsopen", b"overlay", FSOPEN_CLOEXEC, save=context, note=f"overlay of {_names(spec)}")]
    steps.append(Step("fsconfig", context, FSCONFIG_SET_STRING, b"source", b"overlay", 0))
    for directory in spec.lowerdirs:
        steps += _directory(context, b"lowerdir+", directory)
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
    steps.append(Step("fsconfig", context, FSCONFIG_CMD_CREATE, None, None, 0, note="mount the overlay"))
    steps.append(Step("fsmount", context, FSMOUNT_CLOEXEC, attributes, save=save))
    return steps


def _names(spec: MountSpec) -> str:
    lowers = ":".join(d.decode("utf-8", "backslashreplace") for d in spec.lowerdirs[:3])
    more = f" and {len(spec.lowerdirs) - 3} more" if len(spec.lowerdirs) > 3 else ""
    upper = f" under {spec.upperdir.decode('utf-8', 'backslashreplace')}" if spec.upperdir else ", read-only"
    return f"{lowers}{more}{upper}"


def _directory(context: Reg, key: bytes, path: bytes) -> list[Step]:
    if (text := string_value(key, path)) is not None:
        return [Step("fsconfig", context, FSCONFIG_SET_STRING, key, text, 0)]
    held = Reg(f"{context}.dir")
    return [
        Step("openat", AT_FDCWD, path, O_PATH | O_CLOEXEC, 0, save=held),
        Step("fsconfig", context, FSCONFIG_SET_FD, key, None, held),
        Step("close", held),
    ]


def _options(spec: MountSpec) -> list[tuple[str, str]]:
    options = list(spec.options)
    if spec.userxattr:
        options.append(("userxattr", ""))
    if spec.volatile:
        options.append(("volatile", ""))
    return options


def _escape(path: bytes) -> bytes:
    """For the option page: overlayfs splits at colons, mount(2) at commas, both unescape a backslash."""
    for special in (b"\\", b":", b","):
        path = path.replace(special, b"\\" + special)
    return path


def _old_steps(spec: MountSpec, save: Reg, attributes: int, scratch: bytes) -> list[Step]:
    lowers = b":".join(map(_escape, spec.lowerdirs)) + b"".join(b"::" + _escape(d) for d in spec.datadirs)
    fields = [b"lowerdir=" + lowers]
    if spec.upperdir is not None and spec.workdir is not None:
        fields += [b"upperdir=" + _escape(spec.upperdir), b"workdir=" + _escape(spec.workdir)]
    fields += [f"{key}={text}".encode() if text else key.encode() for key, text in _options(spec)]
    data = b",".join(fields)
    if len(data) > OPTION_PAGE:
        raise Unsupported(
            f"mount overlay of {_names(spec)}: its options take {len(data)} bytes, mount(2) carries {OPTION_PAGE}",
            remedy="use a kernel from 6.8 on, fewer layers or shorter paths",
        )
    flags = sum(old for new, old in _OLD_FLAGS if attributes & new)
    return [
        Step("mount", b"overlay", scratch, b"overlay", flags, data, note=f"overlay of {_names(spec)}"),
        Step("open_tree", AT_FDCWD, scratch, OPEN_TREE_CLOEXEC, save=save),
    ]
