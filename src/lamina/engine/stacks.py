"""Stacks of directories by their options' text, for the faces: mounted, unmounted, read, compared."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lamina.engine.apply.values import HostChange
from lamina.errors import InvalidInput, KernelError
from lamina.linux.constants import OVERLAYFS_SUPER_MAGIC
from lamina.linux.files import statfs
from lamina.overlay import mount as mounting
from lamina.overlay.options import parse_mount_options
from lamina.overlay.stack import Overlay

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike


def read(options: Sequence[str]) -> Overlay:
    """The stack that several `-o OPTIONS` describe; flags of a mount among them have no meaning and are let pass.

    Raises InvalidInput.
    """
    return Overlay(parse_mount_options(options).spec)


def mount(options: Sequence[str], target: str | PathLike[str], source: str = "overlay") -> None:
    """Mount the stack that several `-o OPTIONS` describe on the directory *target*. Raises InvalidInput, MountError."""
    asked = parse_mount_options(options)
    mounting.mount(asked.spec, target, attributes=asked.attributes, source=source)


def umount(target: str | PathLike[str], *, lazy: bool = False) -> None:
    """Unmount the overlay on *target*; *lazy*: at once, even if it is in use.

    Raises InvalidInput when another kind of file system is mounted there, MountError.
    """
    try:
        found = statfs(target).type
    except KernelError:
        found = OVERLAYFS_SUPER_MAGIC  # umount2(2) says what is the matter
    if found != OVERLAYFS_SUPER_MAGIC and os.path.ismount(target):
        raise InvalidInput(
            f"unmount {os.fspath(target)}: not an overlay", remedy="umount(8) is for the others"
        )
    mounting.umount(target, detach=lazy)


def changes(overlay: Overlay) -> list[HostChange]:
    """What the upper directory did to the lower ones, as a container's changes are, seen from the stack's root."""
    return [
        HostChange(path=b"/" + change.path, mountpoint=b"/", change=change, spec=overlay.spec)
        for change in overlay.changes()
    ]
