"""Every structure that is packed in Python lies in memory as the C compiler lays it out."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from lamina.linux import capabilities, files, mount, namespaces, process, seccomp

# What the headers of older distributions lack, written down from the kernel's (include/uapi/linux). Where the header
# has it, the header's own is compared.
NEWER = """
#ifndef PIDFD_INFO_SIZE_VER0
struct pidfd_info { __u64 mask, cgroupid; __u32 pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
                    __s32 exit_code; };
#endif
#ifndef MNT_ID_REQ_SIZE_VER1
struct mnt_id_req_1 { __u32 size, mnt_ns_fd; __u64 mnt_id, param, mnt_ns_id; };
#define mnt_id_req mnt_id_req_1
#endif
#ifndef STATMOUNT_MNT_UIDMAP
struct statmount_1 {
    __u32 size, mnt_opts; __u64 mask; __u32 sb_dev_major, sb_dev_minor; __u64 sb_magic; __u32 sb_flags, fs_type;
    __u64 mnt_id, mnt_parent_id; __u32 mnt_id_old, mnt_parent_id_old; __u64 mnt_attr, mnt_propagation, mnt_peer_group,
    mnt_master, propagate_from; __u32 mnt_root, mnt_point; __u64 mnt_ns_id; __u32 fs_subtype, sb_source, opt_num,
    opt_array, opt_sec_num, opt_sec_array; __u64 supported_mask; __u32 mnt_uidmap_num, mnt_uidmap, mnt_gidmap_num,
    mnt_gidmap; __u64 spare[43]; char str[];
};
#define statmount statmount_1
#endif
"""
TIMES = [
    f"stx_{which}.tv_{part}" for which in ("atime", "btime", "ctime", "mtime") for part in ("sec", "nsec")
]
# structure in Python, in C, C headers, fields in Python's order, size in C where Python packs only a part
LAYOUTS: dict[str, tuple[struct.Struct, str, str, str, int | None]] = {
    "mount_attr": (
        mount.MOUNT_ATTR, "struct mount_attr", "linux/mount.h", "attr_set attr_clr propagation userns_fd", None,
    ),
    "mnt_id_req": (
        mount.MNT_ID_REQ, "struct mnt_id_req", "linux/mount.h", "size mnt_ns_fd mnt_id param mnt_ns_id", None,
    ),
    "statmount": (
        mount.STATMOUNT,
        "struct statmount",
        "linux/mount.h",
        "size mnt_opts mask sb_dev_major sb_dev_minor sb_magic sb_flags fs_type mnt_id mnt_parent_id mnt_id_old "
        "mnt_parent_id_old mnt_attr mnt_propagation mnt_peer_group mnt_master propagate_from mnt_root mnt_point "
        "mnt_ns_id fs_subtype sb_source opt_num opt_array opt_sec_num opt_sec_array supported_mask mnt_uidmap_num "
        "mnt_uidmap mnt_gidmap_num mnt_gidmap",
        mount.STATMOUNT_SIZE,
    ),
    "open_how": (files.OPEN_HOW, "struct open_how", "linux/openat2.h", "flags mode resolve", None),
    "file_handle": (files.FILE_HANDLE, "struct file_handle", "fcntl.h", "handle_bytes handle_type", None),
    "statx": (
        files.STATX,
        "struct statx",
        "linux/stat.h",
        "stx_mask stx_blksize stx_attributes stx_nlink stx_uid stx_gid stx_mode stx_ino stx_size stx_blocks "
        f"stx_attributes_mask {' '.join(TIMES)} stx_rdev_major stx_rdev_minor stx_dev_major stx_dev_minor stx_mnt_id "
        "stx_dio_mem_align stx_dio_offset_align",
        files.STATX_SIZE,
    ),
    "statfs": (
        files.STATFS,
        "struct statfs",
        "asm/statfs.h",
        "f_type f_bsize f_blocks f_bfree f_bavail f_files f_ffree f_fsid.val[0] f_fsid.val[1] f_namelen f_frsize "
        "f_flags",
        None,
    ),
    "clone_args": (
        namespaces.CLONE_ARGS,
        "struct clone_args",
        "linux/sched.h",
        "flags pidfd child_tid parent_tid exit_signal stack stack_size tls set_tid set_tid_size cgroup",
        None,
    ),
    "cap_header": (
        capabilities.CAP_HEADER, "struct __user_cap_header_struct", "linux/capability.h", "version pid", None,
    ),
    "cap_data": (
        capabilities.CAP_DATA,
        "struct { struct __user_cap_data_struct d[2]; }",
        "linux/capability.h",
        "d[0].effective d[0].permitted d[0].inheritable d[1].effective d[1].permitted d[1].inheritable",
        None,
    ),
    "sock_filter": (seccomp.SOCK_FILTER, "struct sock_filter", "linux/filter.h", "code jt jf k", None),
    "sock_fprog": (seccomp.SOCK_FPROG, "struct sock_fprog", "linux/filter.h", "len filter", None),
    "notif_sizes": (
        seccomp.NOTIF_SIZES,
        "struct seccomp_notif_sizes",
        "linux/seccomp.h",
        "seccomp_notif seccomp_notif_resp seccomp_data",
        None,
    ),
    "pidfd_info": (
        process.PIDFD_INFO,
        "struct pidfd_info",
        "linux/pidfd.h",
        "mask cgroupid pid tgid ppid ruid rgid euid egid suid sgid fsuid fsgid exit_code",
        64,  # PIDFD_INFO_SIZE_VER0: it grows
    ),
}  # fmt: skip


def offsets(layout: struct.Struct) -> list[int]:
    """Where each field lies: pack a 1 into it and nothing into the others (little-endian, as all our machines)."""
    count = len(layout.unpack(bytes(layout.size)))
    return [layout.pack(*(int(i == field) for i in range(count))).index(1) for field in range(count)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(name: str, run_c: Callable[[str], str]) -> None:
    layout, c_type, header, fields, whole = LAYOUTS[name]
    names = fields.split()
    prints = "\n".join(f'printf("%zu ", offsetof(T, {field}));' for field in names)
    printed = run_c(
        f"#define _GNU_SOURCE\n#include <stdio.h>\n#include <stddef.h>\n#include <linux/types.h>\n#include <{header}>\n"
        f'{NEWER}\ntypedef {c_type} T;\nint main(void) {{ {prints} printf("%zu", sizeof(T)); return 0; }}'
    )
    *in_c, size = map(int, printed.split())
    assert dict(zip(names, offsets(layout), strict=False)) == dict(zip(names, in_c, strict=True))
    if whole is None:
        assert len(offsets(layout)) == len(names)
        assert layout.size == size
    else:
        assert layout.size <= whole <= size


def test_offset_of_what_the_headers_may_lack() -> None:
    """stx_subvol came with Linux 6.10, at 0xa0 (include/uapi/linux/stat.h)."""
    assert offsets(files.STATX)[-1] == 0xA0
