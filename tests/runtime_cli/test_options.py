"""Options of `create` and `exec` that few callers use, through the command itself."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.errors import KernelError
from lamina.linux.keys import get_keyring_id, join_session_keyring
from support.console import ConsoleSocket
from support.oci import Bundle, Runtime

pytestmark = pytest.mark.root

SESSION = """
import ctypes
libc = ctypes.CDLL(None)
libc.syscall.restype = ctypes.c_long
GET_KEYRING_ID, SESSION_KEYRING = 0, -3
print(libc.syscall({number}, GET_KEYRING_ID, SESSION_KEYRING, 0, 0, 0), flush=True)
"""
KEYCTL = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
# an orphan whose end somebody has to wait for, then a signal that the command answers
UNDER_INIT = """
trap 'echo asked; exit 9' TERM
(sleep 0.01 & exec sleep 0)
echo ready
while :; do sleep 0.05; done
"""


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[ConsoleSocket]:
    socket = ConsoleSocket(tmp_path / "fd.sock")
    yield socket
    socket.close()


def pid_behind(pidfd: int) -> int:
    """Whose pidfd it is: pidfd_open(2), fdinfo."""
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
        if line.startswith("Pid:"):
            return int(line.split()[1])
    raise AssertionError("it is no pidfd")


def python_bundle(runtime: Runtime, code: str) -> Bundle:
    """A bundle whose first process is a Python program."""
    bundle = runtime.bundle(os.path.realpath(sys.executable), "-I", "-S", "-c", code)
    home = os.path.realpath(sys.base_prefix)
    if not home.startswith("/usr"):
        mount = {"destination": home, "type": "bind", "source": home, "options": ["rbind", "ro"]}
        bundle.config["mounts"].append(mount)
    return bundle


def test_a_pidfd_of_the_first_process_is_sent(runtime: Runtime, sockets: ConsoleSocket) -> None:
    runtime.create("c", runtime.bundle("sleep", "600"), "--pidfd-socket", str(sockets.path))
    pidfd = sockets.take()
    try:
        assert pid_behind(pidfd) == runtime.state("c")["pid"]
    finally:
        os.close(pidfd)


def test_a_pidfd_of_a_further_process_is_sent(runtime: Runtime, sockets: ConsoleSocket) -> None:
    runtime.begin("c", runtime.bundle("sleep", "600"))
    file = runtime.directory / "exec.pid"
    words = (
        "exec",
        "--detach",
        "--pidfd-socket",
        str(sockets.path),
        "--pid-file",
        str(file),
        "c",
        "sleep",
        "600",
    )
    done = runtime(*words)
    assert done.returncode == 0
    pidfd = sockets.take()
    try:
        assert pid_behind(pidfd) == int(file.read_text())
    finally:
        os.close(pidfd)


def test_a_socket_that_nobody_listens_on_is_said_and_leaves_nothing(runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="send a descriptor to"):
        runtime.create("c", runtime.bundle("true"), "--pidfd-socket", str(tmp_path / "nobody"))
    assert runtime.ask("state", "c").returncode == 1


def test_without_pivot_the_root_is_the_bundles_all_the_same(runtime: Runtime) -> None:
    bundle = runtime.shell("cat /tmp/mine; ls -di / /..; cd ../../..; pwd; exec sleep 600")
    (bundle.rootfs / "tmp/mine").write_text("mine\n")
    runtime.begin("c", bundle, "--no-pivot")
    lines = runtime.wait_output("c", "..\n/\n").splitlines()
    inode = str(bundle.rootfs.stat().st_ino)
    assert lines == ["mine", f"{inode} /", f"{inode} /..", "/"]
    done = runtime.ask("exec", "c", "sh", "-c", f"cat /tmp/mine; ls {runtime.directory} || echo hidden")
    assert done.stdout == "mine\nhidden\n"
    assert runtime.ask("delete", "--force", "c").returncode == 0


def test_an_init_reaps_orphans_and_passes_signals_on(runtime: Runtime) -> None:
    runtime.begin("c", runtime.shell(UNDER_INIT), "--init")
    runtime.wait_output("c", "ready")
    end = time.monotonic() + 100
    # a shell with a sleep, under an init; the orphan is gone, not a zombie
    while "Z" in (states := runtime.ask("exec", "c", "ps", "-eo", "stat=").stdout):
        assert time.monotonic() < end, states
        time.sleep(0.05)
    first = runtime.ask(
        "exec", "c", "sh", "-c", "cat /proc/2/comm; readlink /proc/1/exe || echo closed"
    ).stdout
    assert first.splitlines()[0] == "sh"
    assert runtime.ask("kill", "c", "TERM").returncode == 0
    runtime.wait("c")
    assert runtime.output("c").splitlines() == ["ready", "asked"]


def test_the_exit_status_of_a_command_under_an_init_is_its_own(runtime: Runtime) -> None:
    assert runtime("run", "--init", "--bundle", runtime.shell("exit 9").write(), "c").returncode == 9
    killed = runtime.shell("kill -KILL $$").write()
    assert runtime("run", "--init", "--bundle", killed, "d").returncode == 137


def test_a_further_process_in_a_group_below_the_containers(runtime: Runtime) -> None:
    runtime.begin("c", runtime.bundle("sleep", "600"))
    refused = runtime.ask("exec", "--cgroup", "sub", "c", "true")
    assert refused.returncode == 255 and "/sub" in refused.stderr
    record = json.loads((runtime.root / "c/state.json").read_text())
    groups = [Path(place) for place in set(record["cgroup"]["paths"].values())]
    assert groups
    for group in groups:
        (group / "sub").mkdir()
        for file in ("cpuset.cpus", "cpuset.mems"):  # empty in a new one of v1, which lets nobody in
            if (group / file).exists() and not (group / "cgroup.controllers").exists():
                (group / "sub" / file).write_text((group / file).read_text())
    # its own view of them begins at the container's
    done = runtime.ask("exec", "--cgroup", "sub", "c", "cat", "/proc/self/cgroup")
    assert done.returncode == 0, done.stderr
    shown = [line.rpartition(":")[2] for line in done.stdout.splitlines()]
    assert shown.count("/sub") == len(groups), done.stdout


def test_a_further_process_stays_below_the_containers_groups(runtime: Runtime) -> None:
    runtime.begin("c", runtime.bundle("sleep", "600"))
    for path in ("../..", "/../..", "sub/../../.."):
        done = runtime.ask("exec", "--cgroup", path, "c", "true")
        assert done.returncode == 255, path


def test_descriptors_are_passed_to_a_further_process(runtime: Runtime) -> None:
    runtime.begin("c", runtime.bundle("sleep", "600"))
    reader, writer = os.pipe()
    try:
        done = runtime.ask(
            "exec", "--preserve-fds", "1", "c", "sh", "-c", "echo through >&3; ls /proc/self/fd",
            preexec_fn=lambda: os.dup2(writer, 3), pass_fds=(3,),
        )  # fmt: skip
    finally:
        os.close(writer)
    with open(reader, "rb") as passed:
        assert passed.read() == b"through\n"
    assert done.stdout.split() == ["0", "1", "2", "3", "4"]  # 4 is the directory that ls reads


@pytest.mark.parametrize("words", [(), ("--no-new-keyring",)])
def test_the_session_keyring_is_new_or_the_callers(runtime: Runtime, words: tuple[str, ...]) -> None:
    """A container gets a session of its own, which hides what its caller's holds; or it is told to stay in that."""
    try:
        outside = get_keyring_id()
    except KernelError:
        outside = 0
    reader, writer = os.pipe()

    def own_session() -> None:
        os.write(writer, b"%d" % join_session_keyring(None))

    try:
        bundle = python_bundle(runtime, SESSION.format(number=KEYCTL))
        runtime.create("c", bundle, *words, preexec_fn=own_session)
        callers = int(os.read(reader, 64))
    finally:
        os.close(reader)
        os.close(writer)
    assert callers != outside
    runtime.start("c")
    runtime.wait("c")
    assert (int(runtime.output("c")) == callers) is bool(words)
