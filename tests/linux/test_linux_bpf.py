"""bpf(2): numbers and layouts as in the headers, and a program on a cgroup of this machine."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina.errors import KernelError
from lamina.linux import bpf
from lamina.linux.fd import Fd
from lamina.linux.mountinfo import read_mountinfo

HEADERS = "#include <stdio.h>\n#include <stddef.h>\n#include <linux/bpf.h>\n"
NAMES = sorted(
    name for name, value in vars(bpf).items() if name.startswith("BPF_") and isinstance(value, int)
)
# struct in Python, the members of union bpf_attr (or of a structure) that it packs
LAYOUTS = {
    "PROG_LOAD": (
        "prog_type insn_cnt insns license log_level log_size log_buf kern_version prog_flags prog_name prog_ifindex "
        "expected_attach_type"
    ),
    "PROG_ATTACH": "target_fd attach_bpf_fd attach_type attach_flags replace_bpf_fd",
    "PROG_QUERY": (
        "query.target_fd query.attach_type query.query_flags query.attach_flags query.prog_ids query.prog_cnt"
    ),
    "OBJ_GET_INFO": "info.bpf_fd info.info_len info.info",
}
RETURN = bpf.INSN.pack(bpf.BPF_JMP | bpf.BPF_EXIT, 0, 0, 0)


def returns(number: int) -> bytes:
    return bpf.INSN.pack(bpf.BPF_ALU64 | bpf.BPF_MOV | bpf.BPF_K, 0, 0, number) + RETURN


def test_numbers_are_those_of_the_headers(run_c: Callable[[str], str]) -> None:
    prints = "\n".join(f'printf("{name} %llu\\n", (unsigned long long)({name}));' for name in NAMES)
    printed = run_c(f"{HEADERS}int main(void) {{ {prints} return 0; }}")
    assert {name: int(n) for name, n in (line.split() for line in printed.splitlines())} == {
        name: getattr(bpf, name) for name in NAMES
    }


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(name: str, run_c: Callable[[str], str]) -> None:
    layout: struct.Struct = getattr(bpf, name)
    zero = [b"" if isinstance(field, bytes) else 0 for field in layout.unpack(bytes(layout.size))]
    ours = []
    for field, empty in enumerate(zero):
        one = b"\1" if isinstance(empty, bytes) else 1
        ours.append(layout.pack(*(one if i == field else value for i, value in enumerate(zero))).index(1))
    prints = "\n".join(
        f'printf("%zu ", offsetof(union bpf_attr, {field}));' for field in LAYOUTS[name].split()
    )
    assert ours == [int(n) for n in run_c(f"{HEADERS}int main(void) {{ {prints} return 0; }}").split()]


def test_layout_of_instructions_and_names(run_c: Callable[[str], str]) -> None:
    printed = run_c(
        f"{HEADERS}int main(void) {{ struct bpf_insn i = {{.code = 1, .dst_reg = 2, .src_reg = 3, .off = 4, .imm = 5}};"
        'for (int n = 0; n < sizeof i; n++) printf("%02x", ((unsigned char *)&i)[n]);'
        'printf(" %zu %zu", offsetof(struct bpf_prog_info, name), sizeof(((struct bpf_prog_info *)0)->name));'
        "return 0; }"
    ).split()
    assert printed == [bpf.INSN.pack(1, 3 << 4 | 2, 4, 5).hex(), str(bpf.PROG_INFO_NAME), str(bpf.NAME_LEN)]


@pytest.fixture
def cgroup() -> Iterator[Fd]:
    """A new cgroup v2 directory."""
    root = next((m.mount_point for m in read_mountinfo() if m.fstype == b"cgroup2" and not m.read_only), None)
    if root is None:
        pytest.skip("there is no cgroup v2 tree")
    place = Path(os.fsdecode(root), f"lamina-test-bpf-{os.getpid()}-{os.urandom(4).hex()}")
    place.mkdir()
    try:
        with Fd(os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as fd:
            yield fd
    finally:
        place.rmdir()


@pytest.mark.root
def test_a_program_is_attached_found_replaced_and_detached(cgroup: Fd) -> None:
    kind = bpf.BPF_CGROUP_DEVICE
    assert bpf.prog_query(cgroup, kind) == ()
    with (
        bpf.prog_load(bpf.BPF_PROG_TYPE_CGROUP_DEVICE, returns(1), "Apache-2.0", "first", kind) as first,
        bpf.prog_load(bpf.BPF_PROG_TYPE_CGROUP_DEVICE, returns(0), "Apache-2.0", "second", kind) as second,
    ):
        bpf.prog_attach(cgroup, first, kind, bpf.BPF_F_ALLOW_MULTI)
        (number,) = bpf.prog_query(cgroup, kind)
        with bpf.prog_get_fd_by_id(number) as found:
            assert bpf.prog_name(found) == "first"
        bpf.prog_attach(cgroup, second, kind, bpf.BPF_F_ALLOW_MULTI | bpf.BPF_F_REPLACE, first)
        (other,) = bpf.prog_query(cgroup, kind)
        assert other != number
        with pytest.raises(KernelError, match="No such file"):
            bpf.prog_detach(cgroup, first, kind)
        bpf.prog_detach(cgroup, second, kind)
        assert bpf.prog_query(cgroup, kind) == ()


@pytest.mark.root
def test_more_programs_than_there_was_room_for_are_all_found(cgroup: Fd) -> None:
    kind, programs = bpf.BPF_CGROUP_DEVICE, []
    for number in range(20):
        program = bpf.prog_load(bpf.BPF_PROG_TYPE_CGROUP_DEVICE, returns(1), "Apache-2.0", f"n{number}", kind)
        programs.append(program)
        bpf.prog_attach(cgroup, program, kind, bpf.BPF_F_ALLOW_MULTI)
    assert len(set(bpf.prog_query(cgroup, kind))) == 20
    for program in programs:
        bpf.prog_detach(cgroup, program, kind)
        program.close()


@pytest.mark.root
def test_what_the_verifier_said_is_in_the_error() -> None:
    with pytest.raises(KernelError, match="R0 !read_ok"):
        bpf.prog_load(bpf.BPF_PROG_TYPE_CGROUP_DEVICE, RETURN, "Apache-2.0")


@pytest.mark.parametrize("program", [b"", b"1234567"])
def test_no_list_of_instructions(program: bytes) -> None:
    with pytest.raises(ValueError, match="no list of instructions"):
        bpf.prog_load(bpf.BPF_PROG_TYPE_CGROUP_DEVICE, program, "Apache-2.0")
