"""Steps that open or make a path inside the root: always by descriptor, always resolved by the kernel.

Nothing of the container may decide where a step lands: `openat2` with RESOLVE_IN_ROOT keeps links inside the root, and
what it returns is acted on by descriptor, so a path that is exchanged meanwhile changes nothing (CVE-2021-30465).
"""

from __future__ import annotations

from errno import EEXIST, ENOENT
from os import O_CLOEXEC, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_PATH, O_WRONLY

from lamina.linux.constants import (
    AT_EMPTY_PATH,
    MOUNT_ATTR_IDMAP,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_T_EMPTY_PATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
)
from lamina.linux.program import Reg, Step, Struct
from lamina.runtime.destinations import components

INSIDE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
ROOT = Reg("root")


def how(flags: int, resolve: int) -> Struct:
    """struct open_how of openat2(2)."""
    return Struct("open_how", "QQQ", (flags | O_CLOEXEC, 0, resolve))


def open_step(
    path: bytes,
    save: Reg,
    *,
    flags: int = O_PATH,
    resolve: int = INSIDE,
    upward: bool = False,
    **more: object,
) -> Step:
    """Open *path* of the container; *upward*: see `components`."""
    names = b"/".join(components(path, upward=upward)) or b"."
    return Step("openat2", ROOT, names, how(flags, resolve), 24, save=save, **more)  # type: ignore[arg-type]


def target_steps(
    path: bytes, save: Reg, *, directory: bool, links: bool = True, upward: bool = False
) -> list[Step]:
    """Open the mount point *path*, making what is missing of it: directories 0755, or in the end an empty file.

    Without *links* a symbolic link on the way is an error: where the kernel's own file systems go, an image must not
    point elsewhere (CVE-2019-19921, CVE-2026-41579).
    """
    resolve = INSIDE if links else INSIDE | RESOLVE_NO_SYMLINKS
    kind = O_DIRECTORY if directory else 0
    making = _making_steps(components(path, upward=upward), save, directory, resolve)
    if not making:
        return [open_step(path, save, flags=O_PATH | kind, resolve=resolve, upward=upward)]
    found = open_step(
        path,
        save,
        flags=O_PATH | kind,
        resolve=resolve,
        upward=upward,
        tolerate=(ENOENT,),
        leap=len(making),
        note="mount point",
    )
    return [found, *making]


def _making_steps(names: list[bytes], save: Reg, directory: bool, resolve: int) -> list[Step]:
    steps: list[Step] = []
    above = ROOT
    for count, name in enumerate(names, 1):
        last = count == len(names)
        here = save if last else Reg(f"{save}.{count}")
        if last and not directory:
            flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC
            made = Reg(f"{save}.new")
            steps.append(Step("openat", above, name, flags, 0o644, save=made, tolerate=(EEXIST,), skip=1))
            steps.append(Step("close", made))
        else:
            steps.append(Step("mkdirat", above, name, 0o755, tolerate=(EEXIST,)))
        kind = O_DIRECTORY if directory or not last else 0
        path = b"/" + b"/".join(names[:count])
        steps.append(open_step(path, here, flags=O_PATH | kind, resolve=resolve, upward=True))
        above = here
    return steps


def attach_step(mount: Reg | int, target: Reg, **more: object) -> Step:
    """Attach a detached mount on an open mount point: both ends by descriptor."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    return Step("move_mount", mount, b"", target, b"", flags, **more)  # type: ignore[arg-type]


def attribute_step(
    mount: Reg | int, set_: int, clear: int = 0, *, recursive: int = 0, propagation: int = 0
) -> Step:
    """Change mount attributes by descriptor. *recursive* is AT_RECURSIVE or 0."""
    attributes = Struct("mount_attr", "QQQQ", (set_, clear, propagation, 0))
    return Step("mount_setattr", mount, b"", AT_EMPTY_PATH | recursive, attributes, 32)


def idmap_step(mount: Reg | int, namespace: int, *, recursive: int = 0) -> Step:
    """Map the ids of a detached mount as the user namespace *namespace* (a descriptor) does: mount_setattr(2), 5.12."""
    attributes = Struct("mount_attr", "QQQQ", (MOUNT_ATTR_IDMAP, 0, 0, namespace))
    return Step("mount_setattr", mount, b"", AT_EMPTY_PATH | recursive, attributes, 32)
