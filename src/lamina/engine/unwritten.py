"""Whether anything was written into an upper directory."""

from __future__ import annotations

import os
from errno import EACCES, ENODATA, ENOTSUP, EPERM

from lamina.engine.layers import is_mark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.overlay.spec import MountSpec


def is_idle(spec: MountSpec) -> bool:
    """Whether nothing was written into the upper of *spec*: it is empty, and its own attributes are those of the
    directory below, but for the times, and for an owner that whoever made it could not give it.
    """
    assert spec.upperdir is not None
    try:
        with os.scandir(spec.upperdir) as entries:
            if next(entries, None) is not None:
                return False
        return is_same_root(spec)
    except PermissionError:
        return False


def is_same_root(spec: MountSpec) -> bool:
    """Whether the upper of *spec* itself has the attributes of the directory below, as far as `is_idle` asks.

    Raises OSError.
    """
    assert spec.upperdir is not None
    try:
        upper, lower = os.stat(spec.upperdir), os.stat(spec.lowerdirs[0])
        if upper.st_mode != lower.st_mode or _shown(spec.upperdir, spec) != _shown(spec.lowerdirs[0], spec):
            return False
    except PermissionError:
        return False
    if (upper.st_uid, upper.st_gid) == (lower.st_uid, lower.st_gid):
        return True
    return os.geteuid() != 0 and (upper.st_uid, upper.st_gid) == (os.geteuid(), os.getegid())


def _shown(directory: bytes, spec: MountSpec) -> dict[str, bytes]:
    """What a mount shows of its attributes."""
    try:
        names = [name for name in os.listxattr(directory) if not is_mark(name, spec.userxattr)]
        return {name: os.getxattr(directory, name) for name in names}
    except OSError as error:
        if error.errno not in (ENOTSUP, EPERM, ENODATA, EACCES):
            raise
        return {}
