"""bpf(2): loading a program and attaching it to a cgroup. All raise KernelError. Compiling is not done here.

EPERM means no CAP_BPF and CAP_NET_ADMIN (or CAP_SYS_ADMIN) in the initial user namespace; before Linux 5.11 also that
RLIMIT_MEMLOCK is used up.
"""

from __future__ import annotations

import struct
from errno import EACCES, EINVAL, ENOSPC

from lamina.errors import KernelError
from lamina.linux.call import syscall
from lamina.linux.fd import Fd

# linux/bpf.h: commands, types of programs and of places to attach them to, flags
BPF_PROG_LOAD = 5
BPF_PROG_ATTACH = 8
BPF_PROG_DETACH = 9
BPF_PROG_GET_FD_BY_ID = 13
BPF_OBJ_GET_INFO_BY_FD = 15
BPF_PROG_QUERY = 16
BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_CGROUP_DEVICE = 6
BPF_F_ALLOW_MULTI = 2
BPF_F_REPLACE = 4
BPF_F_QUERY_EFFECTIVE = 1
BPF_DEVCG_DEV_BLOCK = 1
BPF_DEVCG_DEV_CHAR = 2
BPF_DEVCG_ACC_MKNOD = 1
BPF_DEVCG_ACC_READ = 2
BPF_DEVCG_ACC_WRITE = 4
# linux/bpf_common.h and bpf.h: classes, operations, sources and sizes of an instruction's code
BPF_LDX = 0x01
BPF_ALU = 0x04
BPF_JMP = 0x05
BPF_ALU64 = 0x07
BPF_MEM = 0x60
BPF_W = 0x00
BPF_K = 0x00
BPF_X = 0x08
BPF_AND = 0x50
BPF_RSH = 0x70
BPF_MOV = 0xB0
BPF_JEQ = 0x10
BPF_JNE = 0x50
BPF_EXIT = 0x90

# struct bpf_insn: code, dst_reg (low four bits) and src_reg, off, imm
INSN = struct.Struct("=BBhi")
# the parts of union bpf_attr, as far as they are used; the kernel takes the rest as zero
# prog_type, insn_cnt, insns, license, log_level, log_size, log_buf, kern_version, prog_flags, prog_name,
# prog_ifindex, expected_attach_type
PROG_LOAD = struct.Struct("=IIQQIIQII16sII")
# target_fd, attach_bpf_fd, attach_type, attach_flags, replace_bpf_fd
PROG_ATTACH = struct.Struct("=5I")
# target_fd, attach_type, query_flags, attach_flags, prog_ids, prog_cnt
PROG_QUERY = struct.Struct("=IIIIQI4x")
OBJ_GET_INFO = struct.Struct("=IIQ")  # bpf_fd, info_len, info
PROG_INFO_NAME = 64  # offset of name in struct bpf_prog_info
NAME_LEN = 16  # BPF_OBJ_NAME_LEN, with the NUL at its end
_LOG_SIZE = 1 << 16


def bpf(cmd: int, attr: bytes | bytearray, target: object = "") -> int:
    """Any command (BPF_*) with its packed `union bpf_attr`; a bytearray is written to. bpf(2)."""
    return syscall("bpf", cmd, attr, len(attr), target=target)


def prog_load(
    prog_type: int, program: bytes, license: str, name: str = "", expected_attach_type: int = 0
) -> Fd:
    """Load *program* (packed INSN) and return its descriptor. bpf(2), BPF_PROG_LOAD.

    *name* appears in `bpftool prog` (at most 15 letters, digits, "_" and "."). EINVAL and EACCES for a program that the
    verifier refuses: then the error's hint is the end of what it said. Raises ValueError if *program* is no whole
    number of instructions, or none.
    """
    if not program or len(program) % INSN.size:
        raise ValueError("bpf: the program is no list of instructions")
    from lamina.linux._door import address

    code, words = bytearray(program), bytearray(license.encode() + b"\0")

    def attributes(log: bytearray | None) -> bytes:
        logging = (1, len(log), address(log)) if log else (0, 0, 0)
        count = len(program) // INSN.size
        return PROG_LOAD.pack(
            prog_type, count, address(code), address(words), *logging, 0, 0, name.encode(), 0, expected_attach_type
        )  # fmt: skip

    try:
        return Fd(bpf(BPF_PROG_LOAD, attributes(None), target="BPF_PROG_LOAD"))
    except KernelError as error:
        if error.errno not in (EINVAL, EACCES):
            raise
        log = bytearray(_LOG_SIZE)
        try:
            return Fd(bpf(BPF_PROG_LOAD, attributes(log), target="BPF_PROG_LOAD"))
        except KernelError as again:
            said = log.partition(b"\0")[0].decode(errors="replace").strip().splitlines()
            hint = "; ".join(said[-3:])
            raise KernelError("bpf", again.errno or 0, "BPF_PROG_LOAD", hint=hint) from None


def prog_attach(cgroup: int, program: int, attach_type: int, flags: int = 0, replace: int = -1) -> None:
    """Attach *program* to the cgroup v2 directory *cgroup*. bpf(2), BPF_PROG_ATTACH.

    *flags*: BPF_F_ALLOW_MULTI lets others be attached beside it; with BPF_F_REPLACE (since Linux 5.6) it takes the
    place of *replace*. It stays until it is detached or the cgroup is removed. EPERM where one is attached already
    that allows no other; EBADF for a directory that is no cgroup v2.
    """
    attr = PROG_ATTACH.pack(cgroup, program, attach_type, flags, max(replace, 0))
    bpf(BPF_PROG_ATTACH, attr, target="BPF_PROG_ATTACH")


def prog_detach(cgroup: int, program: int, attach_type: int) -> None:
    """Take *program* off *cgroup*; ENOENT when it is not attached. bpf(2), BPF_PROG_DETACH."""
    bpf(BPF_PROG_DETACH, PROG_ATTACH.pack(cgroup, program, attach_type, 0, 0), target="BPF_PROG_DETACH")


def prog_query(cgroup: int, attach_type: int, flags: int = 0) -> tuple[int, ...]:
    """The ids of the programs attached to *cgroup* itself (with BPF_F_QUERY_EFFECTIVE: its ancestors' as well).

    bpf(2), BPF_PROG_QUERY, since Linux 4.15.
    """
    from lamina.linux._door import address

    room = 16
    while True:
        ids = bytearray(4 * room)
        attr = bytearray(PROG_QUERY.pack(cgroup, attach_type, flags, 0, address(ids), room))
        try:
            bpf(BPF_PROG_QUERY, attr, target="BPF_PROG_QUERY")
        except KernelError as error:
            if error.errno != ENOSPC:  # more of them than there is room for
                raise
            room *= 2
            continue
        count = PROG_QUERY.unpack(attr)[5]
        return struct.unpack_from(f"={count}I", ids)


def prog_get_fd_by_id(number: int) -> Fd:
    """A descriptor of the loaded program with that id; ENOENT when it is gone. bpf(2), BPF_PROG_GET_FD_BY_ID."""
    return Fd(bpf(BPF_PROG_GET_FD_BY_ID, struct.pack("=III", number, 0, 0), target=f"program {number}"))


def prog_name(program: int) -> str:
    """The name under which a program was loaded. bpf(2), BPF_OBJ_GET_INFO_BY_FD, since Linux 4.15."""
    from lamina.linux._door import address

    info = bytearray(PROG_INFO_NAME + NAME_LEN)
    attr = OBJ_GET_INFO.pack(program, len(info), address(info))
    bpf(BPF_OBJ_GET_INFO_BY_FD, attr, target="BPF_OBJ_GET_INFO_BY_FD")
    return info[PROG_INFO_NAME:].partition(b"\0")[0].decode()
