"""A process that has something of its own where the kernel's vDSO was, when it is made to change its directory."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EIO
from pathlib import Path

import pytest

from lamina.linux.constants import AT_FDCWD, STATX_MNT_ID
from lamina.linux.files import statx
from lamina.linux.numbers import number
from lamina.linux.ptrace import PTRACE_DETACH, interrupt, registers, resume, seize, stopped
from lamina.runtime import redirecting
from lamina.runtime.holders import Directory
from lamina.runtime.redirecting import REGISTERS, Moving
from support.lives import until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not redirecting.is_possible(), reason="written for x86-64 alone"),
]


@contextmanager
def process(code: bytes, *, executing: bool = False) -> Iterator[tuple[int, int, mmap.mmap]]:
    """A process with that *code* in its memory: its pid, where the code is, and a page in which it counts. *executing*:
    it does nothing but execute that.
    """
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page[: len(code)] = code
    counted = mmap.mmap(-1, 4096)
    where = ctypes.addressof(ctypes.c_char.from_buffer(page))
    pid = os.fork()
    if not pid:
        if executing:
            ctypes.CFUNCTYPE(None)(where)()
        while True:
            counted[0] = (counted[0] + 1) % 256
            time.sleep(0.001)
    try:
        yield pid, where, counted
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def moved(pid: int, path: Path, *, other_mount: int = 0, other_space: int = 0) -> str:
    mount = statx(AT_FDCWD, f"/proc/{pid}/cwd", 0, STATX_MNT_ID).mnt_id
    space = os.stat(f"/proc/{pid}/ns/mnt").st_ino
    one = Directory(pid, pid, os.fsencode(path), mount + other_mount, space + other_space)
    return Moving(one, plain=False).move()


def goes_on(pid: int, counted: mmap.mmap) -> None:
    before = counted[0]
    until(lambda: counted[0] != before)
    status = Path(f"/proc/{pid}/status").read_text()
    assert "TracerPid:\t0\n" in status
    assert "SigBlk:\t0000000000000000\n" in status


def test_what_is_there_makes_another_system_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be made without its filter of system calls being asked."""
    there, new = tmp_path / "there", tmp_path / "new"
    there.mkdir()
    mkdir = b"\xb8" + number("mkdir").to_bytes(4, "little") + b"\x0f\x05"  # mov $..., %eax; syscall
    with process(b"\x0f\x05\x90\x90" + mkdir) as (pid, where, counted):
        monkeypatch.setattr(redirecting, "_gate", lambda _: where)
        assert moved(pid, there) == ""
        assert Path(f"/proc/{pid}/cwd").readlink() == there
        monkeypatch.setattr(redirecting, "_gate", lambda _: where + 4)
        assert moved(pid, new) == "it makes another system call than it was to"
        assert not new.exists()
        goes_on(pid, counted)


def test_what_is_there_goes_on_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is where it was, as it was, and nobody's tracee."""
    monkeypatch.setattr(redirecting, "PATIENCE", 1.0)
    with process(b"\xeb\xfe") as (pid, where, counted):  # jmp .
        monkeypatch.setattr(redirecting, "_gate", lambda _: where)
        assert "does not stop" in moved(pid, tmp_path)
        assert Path(f"/proc/{pid}/cwd").readlink() == Path.cwd()
        goes_on(pid, counted)


def test_another_process_that_got_its_number_is_left_alone(tmp_path: Path) -> None:
    """So is one that has gone elsewhere by itself, since it was looked at."""
    with process(b"") as (pid, _, counted):
        with pytest.raises(ProcessLookupError):
            moved(pid, tmp_path, other_space=1)
        assert moved(pid, tmp_path, other_mount=1) == ""
        assert Path(f"/proc/{pid}/cwd").readlink() == Path.cwd()
        goes_on(pid, counted)


@pytest.mark.parametrize("stack", [0, 1 << 63, (1 << 64) - 4096, 1 << 56])
def test_its_stack_is_where_no_memory_can_be(tmp_path: Path, stack: int) -> None:
    """Then it stays where it is, and is named; whoever made the state is not stopped by it."""
    code = b"\x48\xbc" + stack.to_bytes(8, "little") + b"\xeb\xfe"  # movabs $..., %rsp; jmp .
    with process(code, executing=True) as (pid, where, _):
        until(lambda: executes(pid, where, len(code)))
        why = moved(pid, tmp_path)
        assert why == "there is no room below its stack" or os.strerror(EIO) in why
        assert Path(f"/proc/{pid}/cwd").readlink() == Path.cwd()


def executes(pid: int, where: int, length: int) -> bool:
    """Whether the process has come to that code."""
    seize(pid)
    try:
        interrupt(pid)
        until(lambda: stopped(pid) is not None)
        at = REGISTERS.unpack(registers(pid))[16]
        return bool(where <= at < where + length)
    finally:
        resume(pid, PTRACE_DETACH)


def test_it_calls_for_a_process_with_words_that_are_nowhere() -> None:
    """clone3(2) with a pointer that no file has as an offset: seen when it is stopped just behind that."""
    # mov $-1, %rdi; mov $88, %esi; mov $clone3, %eax; syscall; jmp to the third
    code = b"\x48\xc7\xc7\xff\xff\xff\xff\xbe\x58\0\0\0"
    code += b"\xb8" + number("clone3").to_bytes(4, "little") + b"\x0f\x05\xeb\xf7"
    with process(code, executing=True) as (pid, _, _):

        def is_seen() -> bool:
            os.kill(pid, signal.SIGSTOP)
            until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "T")
            redirecting._waits_for_a_child(pid)
            words = Path(f"/proc/{pid}/syscall").read_text().split()
            os.kill(pid, signal.SIGCONT)
            return words[:2] == [str(number("clone3")), hex((1 << 64) - 1)]

        until(is_seen)
