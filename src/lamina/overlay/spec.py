"""What an overlay mount consists of, as a value: whoever knows what to mount returns one, one place mounts it."""

from __future__ import annotations

from lamina.values import value


@value
class MountSpec:
    """A stack of directories.

    The order is the kernel's `lowerdir=` order: `lowerdirs[0]` is the topmost lower layer. Paths are bytes, absolute
    or relative to the caller's working directory, and never escaped. Without `upperdir` the stack is read-only.
    `datadirs` are data-only layers (overlayfs.rst, "Data-only lower layers"). `userxattr` keeps overlayfs' own
    metadata in `user.overlay.*` instead of `trusted.overlay.*` (needed in a user namespace). `volatile` never syncs.
    `options` are the remaining mount options in order, such as `("redirect_dir", "on")`; a bare flag has the value "".
    """

    lowerdirs: tuple[bytes, ...]
    upperdir: bytes | None = None
    workdir: bytes | None = None
    datadirs: tuple[bytes, ...] = ()
    userxattr: bool = False
    volatile: bool = False
    options: tuple[tuple[str, str], ...] = ()
