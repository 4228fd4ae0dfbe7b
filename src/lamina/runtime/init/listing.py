"""`lamina-exec` without a compiler: a listing of some hundred instructions, put into an ELF file.

Without it the command could only be executed by the process that shares our memory, the host's Python, and then be a
script that has that as its interpreter (CVE-2019-5736). So there is no start without it.

Sources: elf(5); the System V ABI and its supplements for the two machines. lamina_exec.*.lst say how they are made.
"""

from __future__ import annotations

import os
from struct import calcsize, pack

from lamina.errors import Unsupported

# by the name in uname(2): e_machine (elf.h), and the flags that the ABI wants
_MACHINES = {"x86_64": 62, "aarch64": 183}
_ET_EXEC, _PT_LOAD, _PT_GNU_STACK = 2, 1, 0x6474E551
_R, _W, _X = 4, 2, 1
# two mappings: the file, and a page for "directory/name" whose address is in the listings
_CODE, _PAGE, _PAGE_SIZE = 0x400000, 0x600000, 0x1000
_ALIGNED = 0x10000  # the largest page that arm64 has
_EHDR, _PHDR = "<4s5B7xHHIQQQIHHHHHH", "<IIQQQQQQ"


def program(machine: str) -> bytes:
    """The program for *machine* (as uname(2) calls it): a static ELF executable. Raises Unsupported."""
    if machine not in _MACHINES:
        raise Unsupported(
            f"execute the command: there is no lamina-exec for {machine}",
            remedy="Lamina runs on x86-64 and arm64",
        )
    code = read_listing(machine)
    head = calcsize(_EHDR) + 3 * calcsize(_PHDR)
    whole = head + len(code)
    loaded = (
        (_PT_LOAD, _R | _X, 0, _CODE, _CODE, whole, whole, _ALIGNED),
        (_PT_LOAD, _R | _W, 0, _PAGE, _PAGE, 0, _PAGE_SIZE, _ALIGNED),
        (_PT_GNU_STACK, _R | _W, 0, 0, 0, 0, 0, 16),
    )
    elf = pack(
        _EHDR, b"\x7fELF", 2, 1, 1, 0, 0,  # 64 bits, little endian, version 1
        _ET_EXEC, _MACHINES[machine], 1, _CODE + head, calcsize(_EHDR), 0, 0,
        calcsize(_EHDR), calcsize(_PHDR), len(loaded), 0, 0, 0,
    )  # fmt: skip
    return elf + b"".join(pack(_PHDR, *segment) for segment in loaded) + code


def read_listing(machine: str) -> bytes:
    """The left column of the listing for *machine*."""
    path = os.path.join(os.path.dirname(__file__), f"lamina_exec.{machine}.lst")
    with open(path, encoding="ascii") as file:
        lines = [line for line in file if not line.startswith("#")]
    return b"".join([bytes.fromhex(line.partition("|")[0]) for line in lines])
