"""What a container may ask of the kernel: the system call filter, procfs, sysfs, cgroups, namespaces."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.runtime.capabilities import DEFAULT_CAPABILITIES
from lamina.runtime.seccomp import compile_filter, default_profile
from lamina.runtime.seccomp.architectures import system_calls
from support import bpf
from support.attacker import Attacker

AF_ALG, AF_VSOCK = 38, 40
EPERM, ENOSYS = 1, 38

# asks the kernel in every way that an x86-64 program can, and prints what each says: 0 or errno
CALLER = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
static long int80(long n, long a, long b, long c)
{
    long r;
    __asm__ volatile("int $0x80" : "=a"(r) : "0"(n), "b"(a), "c"(b), "d"(c) : "r8", "r9", "r10", "r11", "memory");
    return (int)r;
}
static long direct(long n, long a, long b, long c)
{
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "0"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return r;
}
int main(int argc, char **argv)
{
    int last = atoi(argv[1]);
    unsigned *low = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    for (long family = 0; family <= last; family++) {
        low[0] = family; low[1] = 5; low[2] = 0;   /* SOCK_SEQPACKET, what AF_ALG takes */
        long said[] = {
            direct(41, family, 5, 0), direct(41, family | 1L << 32, 5, 0), direct(41, family | -1L << 32, 5, 0),
            direct(0x40000000 | 41, family, 5, 0), int80(359, family, 5, 0), int80(102, 1, (long)low, 0),
        };
        printf("%ld", family);
        for (unsigned i = 0; i < sizeof said / sizeof *said; i++)
            printf(" %ld", said[i] < 0 ? -said[i] : 0);
        printf("\n");
    }
    return 0;
}
"""


@pytest.fixture
def caller(attacker: Attacker) -> Iterator[Path]:
    machine = subprocess.run(["gcc", "-dumpmachine"], capture_output=True, text=True, check=True).stdout
    if not machine.startswith("x86_64"):
        pytest.skip("speaks x86-64's conventions")
    program = attacker.place / "caller"
    source = attacker.place / "caller.c"
    source.write_text(CALLER)
    subprocess.run(["gcc", "-O1", "-static", "-o", program, source], check=True)
    program.chmod(0o755)
    yield program


@pytest.mark.peer("gcc")
def test_cve_2026_31431_no_socket_of_a_denied_family_in_any_convention(
    attacker: Attacker, caller: Path
) -> None:
    """AF_ALG ("Copy Fail", writes to the page cache) and AF_VSOCK: by the call itself, with bits above an int's, by
    the x32 and the 32-bit convention, and (CVE-2026-123876) through socketcall(2), which hides the family in memory.
    """
    said = attacker.said(f"{caller} 60", "--network", "host")
    answers = {int(line.split()[0]): [int(word) for word in line.split()[1:]] for line in said.splitlines()}
    for family in (AF_ALG, AF_VSOCK):
        assert answers[family] == [EPERM] * 6, family
    outside = subprocess.run([caller, "60"], capture_output=True, text=True, check=True).stdout
    if attacker.rootless:
        return
    for line in outside.splitlines():
        family, direct, *_ = (int(word) for word in line.split())
        if family not in (AF_ALG, AF_VSOCK):
            # families that the kernel has are there, those that it has not say so
            assert (answers[family][0] == 0) == (direct == 0) or answers[family][0] == EPERM, family
    assert answers[2][0] in (0, 94) and answers[1][0] == 0


DENIED = """
acct add_key bpf clock_settime delete_module fanotify_init finit_module fsconfig fsmount fsopen
fspick init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load
kexec_load keyctl lookup_dcookie mbind mount mount_setattr move_mount move_pages nfsservctl
open_by_handle_at open_tree open_tree_attr perf_event_open pidfd_getfd pivot_root process_madvise
query_module quotactl reboot request_key set_mempolicy setdomainname sethostname setns settimeofday
swapoff swapon sysfs syslog umount2 unshare uselib userfaultfd ustat vhangup
"""


@pytest.mark.parametrize("architecture", ["x86_64", "x86", "x32", "aarch64", "arm"])
def test_the_filter_denies_what_containers_have_been_left_with(architecture: str) -> None:
    """open_by_handle_at (2014's shocker), keyctl (CVE-2016-0728), bpf, userfaultfd, io_uring, mounts, namespaces."""
    machine = "x86_64" if architecture.startswith("x") else "aarch64"
    program = bpf.instructions(compile_filter(default_profile(DEFAULT_CAPABILITIES, machine), machine))
    allowed = [
        name
        for name in DENIED.split()
        if name in system_calls()
        and architecture in (numbers := system_calls()[name].numbers)
        and bpf.verdict(program, architecture, numbers[architecture]) == bpf.ALLOW
    ]
    assert allowed == []


def test_cve_2024_1086_no_user_namespace_and_what_follows(attacker: Attacker) -> None:
    script = (
        "unshare -U true; unshare -r true; unshare -m true; unshare -n true; unshare -p true; nsenter -t 1 -m true;"
        " mount -t tmpfs x /mnt; mount --bind /etc /mnt; umount /proc; true"
    )
    said = attacker.said(script)
    assert (
        said.count("Operation not permitted")
        + said.count("ermission denied")
        + said.count("must be superuser")
        == 9
    )

    clones = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "for flags in (0x10000000, 0x20000, 0x40000000, 0x10000011, 0x2000000, 0x8000000, 0x4000000):\n"
        "    got = libc.syscall(56, flags | 17, 0, 0, 0, 0)\n"
        "    if got == 0: os._exit(1)\n"
        "    print(got, ctypes.get_errno())\n"
        "print(libc.syscall(435, ctypes.create_string_buffer(88), 88), ctypes.get_errno())\n"
    )
    if "x86_64" in subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True).stdout:
        done = attacker.python(clones)
        assert done.stdout == "-1 1\n" * 7 + f"-1 {ENOSYS}\n"


def test_cve_2022_0492_no_release_agent(attacker: Attacker) -> None:
    """Root of a cgroup v1 hierarchy runs a program on the host: none can be mounted, and what is there is read-only."""
    script = (
        "exec 2>&1; for c in memory rdma cpu systemd; do mount -t cgroup -o $c x /mnt && echo MOUNTED; done;"
        " mount -t cgroup2 x /mnt && echo MOUNTED;"
        " for f in $(find /sys/fs/cgroup -name release_agent -o -name notify_on_release -o -name cgroup.procs"
        " -o -name tasks 2>/dev/null | head -50); do (echo 1 > $f) && echo WROTE $f; done; :"
    )
    said = attacker.said(script)
    assert "MOUNTED" not in said and "WROTE" not in said
    assert "mount" in said


def test_cve_2023_25809_control_groups_are_read_only(attacker: Attacker) -> None:
    mounts = [line.split() for line in attacker.said("cat /proc/self/mountinfo").splitlines()]
    below = [fields for fields in mounts if fields[4].startswith("/sys")]
    assert below
    assert all("ro" in fields[5].split(",") for fields in below)
    assert "lamina" not in attacker.said("cat /proc/self/cgroup")


SETTINGS = """
/proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/kernel/hotplug
/proc/sys/vm/panic_on_oom /proc/sys/fs/binfmt_misc/register /proc/sysrq-trigger
/sys/kernel/uevent_helper /sys/power/state /proc/bus/pci/00/00.0
/sys/fs/cgroup/cgroup.subtree_control /sys/kernel/mm/transparent_hugepage/enabled
/proc/irq/default_smp_affinity /sys/devices/system/cpu/cpu0/online /proc/kcore /proc/kmsg /proc/acpi
/proc/scsi /sys/firmware /sys/kernel/debug/tracing/trace /proc/1/oom_score_adj
"""


def test_cve_2025_52881_kernel_settings_cannot_be_written(attacker: Attacker) -> None:
    """Nor read where reading tells of others; a settled few are the container's own."""
    script = f"for f in {' '.join(SETTINGS.split())}; do (echo 1 >> $f) 2>/dev/null && echo WROTE $f; done; :"
    said = attacker.said(script)
    own = "WROTE /proc/1/oom_score_adj\n"  # may only make itself likelier to be killed
    assert said.replace(own, "") == ""
    # a masked file is the null device, and a name that /dev does not have can only become a plain file
    assert attacker.said("find /dev -type b -o -name 'sd*' -o -name '*mem' -o -name port -o -name kmsg") == ""
    assert attacker.said("cat /proc/keys /proc/timer_list /proc/kcore 2>/dev/null | wc -c").strip() == "0"
    assert (
        attacker.said("ls -A /sys/firmware /proc/acpi /proc/scsi 2>/dev/null | grep -v : ; :").strip() == ""
    )


def test_masks_and_read_only_mounts_cannot_be_taken_off(attacker: Attacker) -> None:
    script = (
        "exec 2>&1; for at in /proc/sys /proc/keys /sys /proc/kcore; do"
        " umount $at && echo OFF; umount -l $at && echo OFF;"
        " mount -o remount,rw $at && echo OFF; mount -o remount,bind,rw $at && echo OFF; done;"
        " mount -t proc proc /mnt && echo FRESH; mount -t sysfs sys /mnt && echo FRESH; :"
    )
    said = attacker.said(script)
    assert "OFF" not in said and "FRESH" not in said


def test_other_ways_to_the_hosts_files(attacker: Attacker) -> None:
    """By handle (CAP_DAC_READ_SEARCH), by another process's root, by the old root, by a directory above the root."""
    code = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "parts = (8, 4), (1, 4), (2, 8)\n"
        "data = b''.join(value.to_bytes(size, 'little') for value, size in parts)\n"
        "handle = ctypes.create_string_buffer(data, 136)\n"
        "root = os.open('/', os.O_RDONLY)\n"
        "print(libc.open_by_handle_at(root, handle, 0))\n"
        "print(sorted(p for p in os.listdir('/proc') if p.isdigit()))\n"
        "print(os.stat('/proc/1/root').st_ino == os.stat('/').st_ino == os.stat('/..').st_ino)\n"
        "mounts = [line.split() for line in open('/proc/self/mountinfo')]\n"
        "ids = {fields[0] for fields in mounts}\n"
        "print([fields for fields in mounts if fields[1] not in ids and fields[4] != '/'])\n"
    )
    assert attacker.python(code).stdout.splitlines() == ["-1", "['1']", "True", "[]"]


@pytest.mark.root
def test_a_chroot_does_not_lead_out(tmp_path: Path) -> None:
    """CAP_SYS_CHROOT is among the defaults: with a descriptor outside of the new root one climbs as far as the root."""
    code = (
        "import os\n"
        "root = os.stat('/'); root = (root.st_dev, root.st_ino)\n"
        "up = os.open('/', os.O_RDONLY)\n"
        "os.mkdir('/tmp/jail'); os.chroot('/tmp/jail'); os.fchdir(up)\n"
        "for _ in range(100): os.chdir('..')\n"
        "os.chroot('.')\n"
        "here = os.stat('/')\n"
        "print((here.st_dev, here.st_ino) == root)\n"
    )
    assert Attacker(tmp_path).python(code).stdout == "True\n"


def test_the_hosts_processes_sockets_and_links_are_unknown(attacker: Attacker) -> None:
    """Neither processes nor sockets of the host show, with a network of its own."""
    code = (
        "import os\n"
        "print(len([p for p in os.listdir('/proc') if p.isdigit()]))\n"
        "print(len(open('/proc/net/unix').read().splitlines()))\n"
        "print(sorted(os.listdir('/sys/class/net')) if os.path.isdir('/sys/class/net') else ['lo'])\n"
    )
    assert attacker.python(code).stdout.splitlines() == ["1", "1", "['lo']"]
