"""A process that has something of its own where the kernel's vDSO was, when it is made to change its directory."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lamina.linux.numbers import number
from lamina.runtime import redirecting
from lamina.runtime.holders import Directory
from lamina.runtime.redirecting import Moving
from support.lives import until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not redirecting.is_possible(), reason="written for x86-64 alone"),
]


@contextmanager
def process(code: bytes) -> Iterator[tuple[int, int, mmap.mmap]]:
    """A process with that *code* in its memory: its pid, where the code is, and a page in which it counts."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page[: len(code)] = code
    counted = mmap.mmap(-1, 4096)
    where = ctypes.addressof(ctypes.c_char.from_buffer(page))
    pid = os.fork()
    if not pid:
        while True:
            counted[0] = (counted[0] + 1) % 256
            time.sleep(0.001)
    try:
        yield pid, where, counted
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def moved(pid: int, path: Path) -> str:
    one = Directory(pid, pid, os.fsencode(path), 0)
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
    monkeypatch.setattr(redirecting, "PATIENCE", 0.1)
    with process(b"\xeb\xfe") as (pid, where, counted):  # jmp .
        monkeypatch.setattr(redirecting, "_gate", lambda _: where)
        assert "does not stop" in moved(pid, tmp_path)
        assert Path(f"/proc/{pid}/cwd").readlink() == Path.cwd()
        goes_on(pid, counted)
