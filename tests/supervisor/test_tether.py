"""Who keeps a helper of a container: the program of a page, and what stands for it where there was no compiler."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.errors import KernelError
from lamina.linux.fd import Fd, ready
from lamina.supervisor import tether
from support.lives import until

HELPER = "echo begun >&2; trap '' PIPE; while :; do echo x >&2; sleep 0.01; done"


@pytest.fixture(params=["program", "python"])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of those who keep it."""
    if request.param == "python":
        monkeypatch.setattr(tether, "PROGRAM", "/nonexistent")
    elif not os.path.exists(tether.PROGRAM):
        pytest.skip("there was no compiler")


@pytest.fixture
def container() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def lives(pid: int) -> bool:
    """One that nobody has waited for so far does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


@pytest.mark.usefixtures("kept")
def test_a_helper_ends_with_its_container_and_is_never_held_up(container: subprocess.Popen[bytes]) -> None:
    helper, log = tether.start(["/bin/sh", "-c", HELPER], container.pid)
    with log:
        until(lambda: tether.text_of(log).startswith("begun"))
    keeper = parent_of(helper)
    assert parent_of(keeper) != os.getpid()
    assert os.readlink(f"/proc/{helper}/cwd") == os.readlink(f"/proc/{keeper}/cwd") == "/"
    assert Path(f"/proc/{helper}/environ").read_bytes().count(b"LAMINA") == 0
    assert lives(helper)  # nobody reads what it says
    container.kill()
    until(lambda: not lives(helper) and not lives(keeper))


@pytest.mark.usefixtures("kept")
def test_a_helper_ends_with_who_keeps_it(container: subprocess.Popen[bytes]) -> None:
    helper, log = tether.start(["/bin/sleep", "600"], container.pid)
    os.kill(parent_of(helper), signal.SIGKILL)
    until(lambda: not lives(helper))
    with log:
        assert ready(100, log)  # its end


@pytest.mark.usefixtures("kept")
def test_who_keeps_it_ends_with_a_helper_and_what_went_wrong_is_heard(
    container: subprocess.Popen[bytes],
) -> None:
    helper, log = tether.start(["/nonexistent/pasta"], container.pid)
    with log:
        until(lambda: bool(ready(0.1, log)))
        assert tether.text_of(log) == "it cannot be executed"
    until(lambda: not lives(helper))


@pytest.mark.usefixtures("kept")
def test_only_what_is_given_is_open_in_a_helper(container: subprocess.Popen[bytes]) -> None:
    reader, writer = os.pipe()
    stray = os.dup(writer)  # not close-on-exec, as a library of the caller's may have it
    os.set_inheritable(stray, True)
    try:
        words = ["/bin/sh", "-c", "ls /proc/self/fd | tr '\\n' ' ' >&6; exec sleep 600"]
        _, log = tether.start(words, container.pid, (writer,))
        with log, Fd(reader) as gate:
            assert ready(100, gate)
            # 3 is the directory that ls reads, 7 the null device
            assert os.read(gate, 100).split() == [b"0", b"1", b"2", b"3", b"6", b"7"]
    finally:
        os.close(writer)
        os.close(stray)


def test_a_container_that_is_gone_has_no_helper() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(KernelError):
        tether.start(["/bin/sleep", "100"], process.pid)
