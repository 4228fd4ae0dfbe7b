"""Linux system calls the standard library lacks.

One function per call, named as in the manual page, arguments in the kernel's order; failures are KernelError, which
says the call and the object and is an OSError. Descriptors are close-on-exec and close themselves (`Fd`).

What this refuses to do: no policy, no retries, no fallbacks, no notion of containers or layers; nothing is cached but
what the host can do (`probe`). Only this package may say `ctypes`, or know a system call's number or a C structure.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# name: the module it comes from; loaded when first asked for, so that importing this package costs nothing
_HOMES = {
    name: module
    for module, names in (
        ("call", "syscall"),
        ("constants", "constant_name flag_names"),
        ("fd", "Fd"),
        (
            "files",
            "FileHandle Statx copy_file_range ficlone name_to_handle_at open_by_handle_at openat2 renameat2 statx",
        ),
        (
            "mount",
            "fsconfig fsmessages fsmount fsopen fspick mount mount_setattr move_mount open_tree pivot_root umount2",
        ),
        ("mountinfo", "Mount mount_of parse_mountinfo read_mountinfo"),
        ("numbers", "number"),
        ("xattrs", "fgetxattr flistxattr fremovexattr fsetxattr lgetxattr llistxattr lremovexattr lsetxattr"),
    )
    for name in names.split()
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(__import__(f"{__name__}.{home}", fromlist=[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
