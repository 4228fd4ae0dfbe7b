"""Masked and read-only paths as steps.

Each is opened as the container itself would open it, below its root, and then covered by descriptor: so no link and no
race leads outside, or to what a descriptor of ours stands for (CVE-2025-31133, CVE-2025-52881). What covers a file is
the host's own null device, which the caller has verified, never the container's; and through a read-only mount, or a
container's root could change its mode and owner.
"""

from __future__ import annotations

from errno import ENOENT, ENOTDIR
from os import O_DIRECTORY, O_PATH

from lamina.linux.constants import (
    AT_FDCWD,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MOVE_MOUNT_F_EMPTY_PATH,
)
from lamina.linux.program import Reg, Step
from lamina.runtime.plan.mounts import clone_steps, new_mount_steps, readonly_steps
from lamina.runtime.plan.paths import attach_step, attribute_step, open_step

_EMPTY = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC


def cover_steps(place: Reg, empty: Reg) -> list[Step]:
    """Cover the directory open as *place* with an empty read-only one."""
    steps = new_mount_steps("tmpfs", empty, attributes=_EMPTY)
    return [*steps, attach_step(empty, place)]


def mask_steps(paths: list[str]) -> list[Step]:
    """Cover *paths*: a directory with an empty read-only one, a file with the null device; absent ones are passed."""
    steps = _closed_null_steps() if paths else []
    for index, path in enumerate(paths):
        place, null = Reg(f"mask{index}"), Reg(f"mask{index}.null")
        directory, empty = Reg(f"mask{index}.dir"), Reg(f"mask{index}.empty")
        name = path.encode("utf-8", "surrogateescape")
        as_file = [*clone_steps(b"/dev/null", null, 0), attach_step(null, place)]
        cover = cover_steps(directory, empty)
        cover[-1].leap = len(as_file)
        as_directory = [
            open_step(
                name, directory, flags=O_PATH | O_DIRECTORY,
                tolerate=(ENOTDIR,), skip=len(cover), note=f"mask {path}",
            ),
            *cover,
        ]  # fmt: skip
        found = open_step(name, place, tolerate=(ENOENT,), skip=len(as_directory) + len(as_file))
        steps += [found, *as_directory, *as_file]
    return steps


def _closed_null_steps() -> list[Step]:
    """Make the host's null device read-only where the masks are cloned from; in this mount namespace only."""
    null = Reg("null.closed")
    return [
        *clone_steps(b"/dev/null", null, 0),
        attribute_step(null, MOUNT_ATTR_RDONLY),
        Step(
            "move_mount",
            null,
            b"",
            AT_FDCWD,
            b"/dev/null",
            MOVE_MOUNT_F_EMPTY_PATH,
            note="closed to chmod(2)",
        ),
    ]


def readonly_path_steps(paths: list[str]) -> list[Step]:
    """Make *paths* read-only with all that is below them; absent ones are passed."""
    steps: list[Step] = []
    for index, path in enumerate(paths):
        place = Reg(f"readonly{index}")
        make = readonly_steps(place, Reg(f"readonly{index}.tree"))
        name = path.encode("utf-8", "surrogateescape")
        found = open_step(name, place, tolerate=(ENOENT,), skip=len(make), note=f"make {path} read-only")
        steps += [found, *make]
    return steps
