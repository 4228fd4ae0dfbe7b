"""Steps for reading: names of calls and flags instead of numbers, as strace(1) writes them."""

from __future__ import annotations

import errno
import os

from lamina.linux import constants
from lamina.linux.capabilities import capability_name
from lamina.linux.constants import AT_EMPTY_PATH, AT_FDCWD, AT_RECURSIVE
from lamina.linux.program import Blank, Hole, Out, Reg, Step, Strings, Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LONGEST_TEXT = 200


def _open_flags(value: int) -> str:
    access = "" if value & (os.O_WRONLY | os.O_RDWR | os.O_PATH) else "O_RDONLY|"
    return (access + constants.flag_names("O_", value)).removesuffix("|0")


def _flags(prefix: str) -> Callable[[int], str]:
    return lambda value: constants.flag_names(prefix, value)


def _one(prefix: str) -> Callable[[int], str]:
    return lambda value: constants.constant_name(prefix, value)


def _tree(value: int) -> str:
    own = [n for n, bit in (("AT_EMPTY_PATH", AT_EMPTY_PATH), ("AT_RECURSIVE", AT_RECURSIVE)) if value & bit]
    rest = value & ~(AT_EMPTY_PATH | AT_RECURSIVE)
    return "|".join([*([constants.flag_names("OPEN_TREE_", rest)] if rest else []), *own]) or "0"


def _request(value: int) -> str:
    """Of ioctl(2): the requests of sockets are 0x89xx (asm-generic/sockios.h)."""
    return constants.constant_name("SIOC" if value >> 8 == 0x89 else "TIOC", value)


def _fd(value: int) -> str:
    return "AT_FDCWD" if value == AT_FDCWD else str(value)


_octal: Callable[[int], str] = oct
# how the integers of a call's arguments are named, by position
_NAMES: dict[str, dict[int, Callable[[int], str]]] = {
    "openat": {0: _fd, 2: _open_flags, 3: _octal},
    "openat2": {0: _fd},
    "mkdirat": {0: _fd, 2: _octal},
    "mknodat": {0: _fd, 2: _octal, 3: hex},
    "mount": {3: _flags("MS_")},
    "umount2": {1: _flags("MNT_")},
    "fsopen": {1: _flags("FSOPEN_")},
    "fsconfig": {1: _one("FSCONFIG_")},
    "fsmount": {1: _flags("FSMOUNT_"), 2: _flags("MOUNT_ATTR_")},
    "move_mount": {0: _fd, 2: _fd, 4: _flags("MOVE_MOUNT_")},
    "open_tree": {0: _fd, 2: _tree},
    "mount_setattr": {0: _fd, 2: _tree},
    "execveat": {0: _fd, 4: _flags("AT_")},
    "unshare": {0: _flags("CLONE_NEW")},
    "prctl": {0: _one("PR_")},
    "prlimit64": {1: _one("RLIMIT_")},
    "umask": {0: _octal},
    "dup3": {2: _flags("O_")},
    "keyctl": {0: _one("KEYCTL_")},
    "seccomp": {0: _one("SECCOMP_SET_MODE_")},
    "ioctl": {1: _request},
    "socket": {0: _one("AF_"), 1: _flags("SOCK_")},
    "setns": {0: _fd, 1: _flags("CLONE_NEW")},
    "fspick": {0: _fd, 2: _flags("FSPICK_")},
    "fchownat": {0: _fd, 4: _flags("AT_SYMLINK_")},
    "fcntl": {1: _one("F_")},
}


def _text(data: bytes) -> str:
    if len(data) > LONGEST_TEXT:
        return f"<{len(data)} bytes>"
    text = data.decode("utf-8", "backslashreplace")
    return '"' + "".join(c if c.isprintable() else repr(c)[1:-1] for c in text).replace('"', '\\"') + '"'


def _structure(item: Struct) -> str:
    if item.name == "open_how":
        flags, mode, resolve = (int(f) for f in item.fields)  # type: ignore[arg-type]
        creating = f", {oct(mode)}" if mode else ""
        return f"{{{_open_flags(flags)}{creating}, {constants.flag_names('RESOLVE_', resolve)}}}"
    if item.name == "mount_attr":
        add, remove, propagation, userns = (int(f) for f in item.fields)  # type: ignore[arg-type]
        parts = [f"+{constants.flag_names('MOUNT_ATTR_', add)}"] if add else []
        parts += [f"-{constants.flag_names('MOUNT_ATTR_', remove)}"] if remove else []
        parts += [constants.flag_names("MS_", propagation)] if propagation else []
        parts += [f"as {userns}"] if userns else []
        return "{" + " ".join(parts) + "}"
    if item.name == "rlimit64":
        return "{" + ", ".join("unlimited" if f == 2**64 - 1 else str(f) for f in item.fields) + "}"
    if item.name in ("cap_data", "cap_header"):
        return "{" + ", ".join(hex(f) for f in item.fields if isinstance(f, int)) + "}"
    return "{" + ", ".join(_argument(f, None) for f in item.fields) + "}"


def _argument(item: object, name: Callable[[int], str] | None) -> str:
    if item is None:
        return "NULL"
    if isinstance(item, (Blank, Hole, Reg)):
        return repr(item)
    if isinstance(item, str):
        return _text(item.encode("utf-8", "surrogateescape"))
    if isinstance(item, bytes):
        return _text(item)
    if isinstance(item, Strings):
        return "[" + ", ".join(map(_text, item)) + "]"
    if isinstance(item, Struct):
        return _structure(item)
    if isinstance(item, Out):
        return f"<room for {int(item)}>"
    if isinstance(item, int):
        return name(item) if name is not None else str(item)
    raise TypeError(type(item))


def describe(step: Step) -> str:
    """One step in one line: the call, what happens to its result, which errors are no errors, and what it is for."""
    names = dict(_NAMES.get(step.call, {}))
    if step.call == "prctl" and step.args[0] == constants.PR_CAPBSET_DROP:
        names[1] = capability_name
    text = f"{step.call}({', '.join(_argument(a, names.get(i)) for i, a in enumerate(step.args))})"
    if step.save is not None:
        text += f" -> {step.save!r}"
    if step.want is not None:
        text += f" = {step.want}"
    if step.leap:
        text += f"; then {step.leap} steps on"
    if step.tolerate:
        allowed = "|".join(errno.errorcode.get(e, str(e)) for e in step.tolerate)
        text += f"; {allowed}: {f'{step.skip} steps on' if step.skip else 'go on'}"
    return f"{text}    # {step.note}" if step.note else text


def describe_plan(flags: int, steps: Sequence[Step], enter: Sequence[tuple[int, int]] = ()) -> str:
    """A whole plan: how the process is made, then its steps, numbered as error messages count them.

    *enter* are the namespaces that a helper joins before that.
    """
    lines = [f"setns({fd}, {constants.flag_names('CLONE_NEW', kind)})    # the helper" for fd, kind in enter]
    lines += [f"clone3({constants.flag_names('CLONE_', flags)})"]
    width = len(str(len(steps)))
    lines += [f"{number:{width}} {describe(step)}" for number, step in enumerate(steps, 1)]
    return "\n".join(lines)
