"""The one door: arguments in, results out, errno always told."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from lamina.errors import KernelError
from lamina.linux import _door
from lamina.linux.call import encoded, shown, syscall


def test_result_and_out_buffer(door: str) -> None:
    assert syscall("getpid") == os.getpid()
    buffer = bytearray(4096)
    length = syscall("getcwd", buffer, len(buffer))
    assert os.fsdecode(bytes(buffer[: length - 1])) == os.getcwd()


def test_bytes_are_pointers_to_strings(door: str, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff, : odd"
    syscall("mkdirat", -100, name, 0o700)
    assert os.path.isdir(name)


def test_none_is_null_and_negative_numbers_pass(door: str) -> None:
    with pytest.raises(KernelError) as caught:
        syscall("mkdirat", -100, None, 0)
    assert caught.value.errno == errno.EFAULT
    with pytest.raises(KernelError) as caught:
        syscall("close", -1)
    assert caught.value.errno == errno.EBADF


def test_six_arguments(door: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"abcdef")
    with open(tmp_path / "in", "rb") as source, open(tmp_path / "out", "wb") as target:
        offset = bytearray((2).to_bytes(8, "little"))
        assert syscall("copy_file_range", source.fileno(), offset, target.fileno(), None, 3, 0) == 3
    assert (tmp_path / "out").read_bytes() == b"cde"
    assert int.from_bytes(offset, "little") == 5
    with pytest.raises(TypeError):
        syscall("getpid", 1, 2, 3, 4, 5, 6, 7)


def test_large_results_are_no_errors(door: str) -> None:
    """mmap returns addresses, which are far above the range of errnos; and memory is given back."""
    address = syscall("mmap", None, 4096, 0x1 | 0x2, 0x2 | 0x20, -1, 0)
    assert address % 4096 == 0
    syscall("munmap", address, 4096)


def test_failures_name_call_and_object(door: str) -> None:
    with pytest.raises(KernelError, match=r"^openat /no/\udcff: No such file or directory$") as caught:
        syscall("openat", -100, b"/no/\xff", 0, 0, target=b"/no/\xff")
    assert isinstance(caught.value, OSError)
    assert caught.value.call == "openat"
    assert caught.value.filename == "/no/\udcff"


def test_other_threads_run_meanwhile(door: str) -> None:
    """The interpreter's lock is released: another thread ends a call that would wait for ever."""
    reader, writer = os.pipe()
    woken: list[int] = []

    def wake() -> None:
        time.sleep(0.05)
        woken.append(os.write(writer, b"x"))

    thread = threading.Thread(target=wake)
    thread.start()
    try:
        assert syscall("read", reader, bytearray(1), 1) == 1
        thread.join()
        assert woken == [1]
    finally:
        os.close(reader)
        os.close(writer)


def test_a_signal_interrupts(door: str) -> None:
    reader, writer = os.pipe()
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, True)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        with pytest.raises(KernelError) as caught:
            syscall("read", reader, bytearray(1), 1)
        assert caught.value.errno == errno.EINTR
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        os.close(reader)
        os.close(writer)


def test_address_of_a_buffer() -> None:
    buffer = bytearray(b"abc")
    import ctypes

    assert ctypes.string_at(_door.address(buffer), 3) == b"abc"


def test_objects_in_messages() -> None:
    assert shown(Path("/a")) == "/a"
    assert shown((b"/a", "to", 7)) == "/a to descriptor 7"
    assert shown(("", None, b"x")) == "x"


def test_paths_with_nul_are_refused() -> None:
    with pytest.raises(ValueError, match="null byte"):
        encoded("a\0b")
