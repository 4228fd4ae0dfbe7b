"""What mount(2) takes of a stack: one page of options, and flags.

Every start passes here where the kernel has no `lowerdir+`: nothing slow is imported.
"""

from __future__ import annotations

from lamina.errors import InvalidInput
from lamina.linux.constants import (
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_RDONLY,
    MS_STRICTATIME,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.overlay.spec import MountSpec

# mount(2) copies a page and ends it with a NUL: the rest is cut off in silence
OPTION_PAGE = 4095

# attribute, within which mask: the flag of mount(2)
_FLAGS = (
    (MOUNT_ATTR_RDONLY, MOUNT_ATTR_RDONLY, MS_RDONLY),
    (MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSUID, MS_NOSUID),
    (MOUNT_ATTR_NODEV, MOUNT_ATTR_NODEV, MS_NODEV),
    (MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOEXEC, MS_NOEXEC),
    (MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME, MS_NOATIME),
    (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME, MS_STRICTATIME),
    (MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NODIRATIME, MS_NODIRATIME),
    (MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_NOSYMFOLLOW, MS_NOSYMFOLLOW),
)


def mount_flags(attributes: int) -> int:
    """MOUNT_ATTR flags as those of mount(2)."""
    return sum(flag for attribute, mask, flag in _FLAGS if attributes & mask == attribute)


def option_data(spec: MountSpec) -> bytes:
    """*spec* as the options of mount(2), which may be longer than OPTION_PAGE.

    Raises InvalidInput for a spec that cannot be written: no lower layer, an empty path, or one with a NUL byte.
    """
    if not spec.lowerdirs:
        raise InvalidInput("write overlay options: there is no lower directory")
    lowers = b":".join(_escaped(path, b"\\,:") for path in spec.lowerdirs)
    lowers += b"".join(b"::" + _escaped(path, b"\\,:") for path in spec.datadirs)
    parts = [b"lowerdir=" + lowers]
    if spec.upperdir is not None:
        parts.append(b"upperdir=" + _escaped(spec.upperdir, b"\\,"))
    if spec.workdir is not None:
        parts.append(b"workdir=" + _escaped(spec.workdir, b"\\,"))
    parts += [b"userxattr"] * spec.userxattr + [b"volatile"] * spec.volatile
    for key, setting in spec.options:
        if "," in setting:
            setting = f'"{setting}"'
        parts.append((f"{key}={setting}" if setting else key).encode("utf-8", "surrogateescape"))
    return b",".join(parts)


def _escaped(path: bytes, special: bytes) -> bytes:
    """*path* with a backslash before each *special* character, the backslash itself first."""
    if not path or b"\0" in path:
        raise InvalidInput(f"write overlay options: {path!r} is not a path")
    for character in special:
        path = path.replace(b"%c" % character, b"\\%c" % character)
    return path
