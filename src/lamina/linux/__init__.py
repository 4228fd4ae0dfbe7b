"""Linux system calls the standard library lacks.

One function per call, named as in the manual page, arguments in the kernel's order; failures are KernelError, which
says the call and the object and is an OSError. Descriptors are close-on-exec and close themselves (`Fd`).

What this refuses to do: no policy, no retries (but of openat2, where the kernel asks for one), no fallbacks, nothing of
containers or layers; nothing is cached but what the host can do (`probe`). Only this package may say `ctypes`, or know
a system call's number or a C structure.

Names are loaded when first asked for. Two functions are called as their modules are, and only found there:
`lamina.linux.mount.mount` and `lamina.linux.probe.probe`. Type checkers know the modules, not these names.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HOMES = {
    name: module
    for module, names in (
        (
            "call",
            "syscall",
        ),
        (
            "capabilities",
            "CAPABILITIES CapabilitySets ambient_set bounding_set capability_name "
            "capability_names capability_set capget capset clear_ambient drop_bounding last_cap "
            "lower_ambient raise_ambient",
        ),
        (
            "constants",
            "constant_name flag_names",
        ),
        (
            "fd",
            "Fd",
        ),
        (
            "files",
            "FileHandle Statfs Statx copy_file_range ficlone fstatfs name_to_handle_at "
            "open_by_handle_at openat2 renameat2 statfs statx unix_file",
        ),
        (
            "procfs",
            "cap_last_cap effective_capabilities hard_limits",
        ),
        (
            "keys",
            "add_key describe_key get_keyring_id invalidate_key join_session_keyring keyctl "
            "link_key revoke_key set_key_permissions unlink_key",
        ),
        (
            "mount",
            "MountStatus fsconfig fsmessages fsmount fsopen fspick listmount mount_setattr "
            "move_mount open_tree pivot_root statmount umount2",
        ),
        (
            "mountinfo",
            "Mount mount_of parse_mountinfo read_mountinfo",
        ),
        (
            "namespaces",
            "NAMESPACES clone3 ns_mount_id ns_owner ns_owner_uid ns_parent ns_type setns unshare",
        ),
        (
            "numbers",
            "number numbers",
        ),
        (
            "probe",
            "Host No Yes",
        ),
        (
            "process",
            "Ended PidfdInfo close_range kcmp pidfd_get_info pidfd_getfd pidfd_open pidfd_send_signal "
            "prctl waitid",
        ),
        (
            "seccomp",
            "get_action_avail get_notif_sizes get_seccomp_mode has_filter_flag set_mode_filter",
        ),
        (
            "xattrs",
            "fgetxattr flistxattr fremovexattr fsetxattr lgetxattr llistxattr lremovexattr lsetxattr",
        ),
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
