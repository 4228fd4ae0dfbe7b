"""System call numbers against the C headers of this machine, and against libseccomp for the other one."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from collections.abc import Callable

import pytest

from lamina.errors import Unsupported
from lamina.linux import numbers
from lamina.linux.numbers import number

NUMBERS = numbers.numbers()
HERE = {"x86_64": 0, "aarch64": 1}[os.uname().machine]
AUDIT_ARCHITECTURES = {"x86-64": (0, 0xC000003E), "arm64": (1, 0xC00000B7)}


def test_numbers_are_those_of_the_headers(run_c: Callable[[str], str]) -> None:
    lines = "\n".join(f'#ifdef __NR_{n}\nprintf("{n} %d\\n", __NR_{n});\n#endif' for n in NUMBERS)
    printed = run_c(f"#include <stdio.h>\n#include <asm/unistd.h>\nint main(void) {{\n{lines}\nreturn 0; }}")
    known = {name: int(text) for name, text in (line.split() for line in printed.splitlines())}
    assert {name: NUMBERS[name][HERE] for name in known} == known
    assert len(known) > 300
    # what the headers lack is newer than they are, or not for this machine
    newest = max(known.values())
    unknown = {name: NUMBERS[name][HERE] for name in NUMBERS if name not in known}
    assert {
        n: v for n, v in unknown.items() if v != -1 and v <= newest and n not in ("uretprobe", "uprobe")
    } == {}


@pytest.mark.parametrize("machine", AUDIT_ARCHITECTURES)
def test_numbers_are_those_of_libseccomp(machine: str) -> None:
    found = ctypes.util.find_library("seccomp")
    if found is None:
        pytest.skip("needs libseccomp2")
    library = ctypes.CDLL(found)
    resolve = library.seccomp_syscall_resolve_name_arch
    resolve.restype, resolve.argtypes = ctypes.c_int, (ctypes.c_uint32, ctypes.c_char_p)
    column, architecture = AUDIT_ARCHITECTURES[machine]
    compared = 0
    for name, row in NUMBERS.items():
        resolved = resolve(architecture, name.encode())
        if resolved >= 0:
            assert row[column] == resolved, name
            compared += 1
        elif resolved < -1:  # libseccomp knows the call, and that this machine has none
            assert row[column] == -1, name
    assert compared > 280


def test_looking_up_finds_what_the_table_has() -> None:
    for name, row in NUMBERS.items():
        if row[HERE] >= 0:
            assert number(name) == row[HERE]
    for name in ("", "rea", "read 0", "0", "-"):
        with pytest.raises(ValueError):
            number(name)


def test_no_number_is_used_twice() -> None:
    for column in (0, 1):
        used = [row[column] for row in NUMBERS.values() if row[column] >= 0]
        assert len(used) == len(set(used))


def test_what_is_no_system_call() -> None:
    with pytest.raises(ValueError, match="there is no system call 'frobnicate'"):
        number("frobnicate")


@pytest.mark.parametrize(("column", "name"), [(2, "open"), (0, "read")])
def test_what_a_machine_lacks(monkeypatch: pytest.MonkeyPatch, column: int, name: str) -> None:
    monkeypatch.setattr(numbers, "_column", column)
    monkeypatch.setattr(numbers, "_known", {})
    with pytest.raises(Unsupported, match=os.uname().machine):
        number(name)
