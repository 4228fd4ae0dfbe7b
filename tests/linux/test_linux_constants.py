"""Every constant has the value that the C headers give it, and finds its name again."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from lamina.linux import constants
from lamina.linux.constants import constant_name, flag_names

NAMES = sorted(name for name, value in vars(constants).items() if name.isupper() and isinstance(value, int))

KERNEL = """
    linux/fs.h linux/mount.h linux/fcntl.h linux/openat2.h linux/sched.h linux/stat.h linux/pidfd.h linux/nsfs.h
    linux/prctl.h linux/capability.h linux/securebits.h linux/seccomp.h linux/audit.h linux/filter.h linux/keyctl.h
    asm/resource.h asm/ioctls.h linux/sockios.h asm/poll.h linux/magic.h linux/memfd.h
    linux/close_range.h linux/wait.h linux/un.h linux/xattr.h linux/limits.h
"""
LIBRARY = "sys/mount.h sys/resource.h signal.h poll.h fcntl.h sys/wait.h sys/ioctl.h net/if.h"
ENUMS = ("FSCONFIG_",)  # no macros: #ifdef does not see them
# newer than some compilers' headers, or in a kernel header that is not for programs; the files that call with them
# exercise them on the running kernel
UNSEEN = {
    "MAX_HANDLE_SZ",
    "FSCONFIG_CMD_CREATE_EXCL",
    "WSTOPPED",
    "FUSE_SUPER_MAGIC",
    "V9FS_MAGIC",
}
# requests whose number contains the size of a structure that grows: the kernel takes every size that there has been
GROWING = {"PIDFD_GET_INFO"}
SIZE_MASK = 0x3FFF << 16  # _IOC_SIZEMASK << _IOC_SIZESHIFT


def values(run_c: Callable[[str], str], headers: str) -> dict[str, int]:
    lines = [f"#if __has_include(<{h}>)\n#include <{h}>\n#endif" for h in ("stdio.h", *headers.split())]
    lines.append("int main(void) {")
    for name in NAMES:
        enum = name.startswith(ENUMS) and name not in UNSEEN and "linux/mount.h" in headers
        test = "#if 1" if enum else f"#ifdef {name}"
        lines.append(f'{test}\nprintf("{name} %llu\\n", (unsigned long long)(long long)({name}));\n#endif')
    printed = run_c("\n".join([*lines, "return 0; }"]))
    return {name: int(number) for name, number in (line.split() for line in printed.splitlines())}


def test_constants_are_those_of_the_headers(run_c: Callable[[str], str]) -> None:
    found = {**values(run_c, LIBRARY), **values(run_c, KERNEL)}
    wrong = {}
    for name, number in found.items():
        ours = getattr(constants, name)
        # a constant may be signed, or 32 bits wide, on the other side
        same = {ours & (1 << 64) - 1, ours & 0xFFFFFFFF if ours >= 0 else ours & (1 << 64) - 1}
        if name in GROWING:
            number = number & ~SIZE_MASK | ours & SIZE_MASK
        if number not in same and number & 0xFFFFFFFF not in same:
            wrong[name] = (ours, number)
    assert wrong == {}
    assert len(found) > 0.8 * len(NAMES), sorted(set(NAMES) - found.keys())


@pytest.mark.parametrize(
    ("prefix", "value", "text"),
    [
        ("MS_", constants.MS_BIND | constants.MS_REC, "MS_BIND|MS_REC"),
        ("MS_", 0, "0"),
        ("O_", 0, "O_RDONLY"),
        ("O_", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, "O_RDWR|O_CREAT|O_CLOEXEC"),
        ("O_", os.O_TMPFILE | os.O_WRONLY, "O_WRONLY|O_TMPFILE"),
        ("O_", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, None),
        ("AT_", constants.AT_FDCWD, "AT_FDCWD"),
        ("AT_", constants.AT_EMPTY_PATH | constants.AT_RECURSIVE, "AT_EMPTY_PATH|AT_RECURSIVE"),
        ("AT_", 0x200, "AT_REMOVEDIR"),
        ("MOUNT_ATTR_", 0x7, "MOUNT_ATTR_RDONLY|MOUNT_ATTR_NOSUID|MOUNT_ATTR_NODEV"),
        ("MOUNT_ATTR_", 0x800001, "MOUNT_ATTR_RDONLY|0x800000"),
        ("CLONE_", constants.CLONE_NEWNS | constants.CLONE_INTO_CGROUP, "CLONE_NEWNS|CLONE_INTO_CGROUP"),
        ("STATX_", 0x17FF, "STATX_BASIC_STATS|STATX_MNT_ID"),
    ],
)
def test_flags_are_named(prefix: str, value: int, text: str | None) -> None:
    shown = flag_names(prefix, value)
    if text is not None:
        assert shown == text
    if value > 0 and prefix in ("MS_", "O_", "CLONE_"):
        names = vars(os) if prefix == "O_" else vars(constants)
        assert sum({names[name] for name in shown.split("|")}) >= value


def test_names_of_enumerations() -> None:
    assert constant_name("FSCONFIG_", 6) == "FSCONFIG_CMD_CREATE"
    assert constant_name("FSCONFIG_", 0) == "FSCONFIG_SET_FLAG"
    assert constant_name("PR_", constants.PR_SET_NO_NEW_PRIVS) == "PR_SET_NO_NEW_PRIVS"
    assert constant_name("PR_", 4242) == "4242"
