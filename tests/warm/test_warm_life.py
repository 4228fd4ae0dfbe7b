"""When a warm process comes, when it goes, and that a user can say so."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.sources import REPOSITORY
from support.warm import House, alive, until

pytestmark = [pytest.mark.root, pytest.mark.peer("unshare")]


def test_it_has_nothing_of_the_command_that_left_it(house: House) -> None:
    with open(os.devnull) as kept, open(house.tmp / "lock", "w") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        server = house.warm_up(
            pass_fds=[kept.fileno(), locked.fileno()],
            env={"SECRET": "known"},
            cwd=house.tmp,
            start_new_session=True,
        )
    about = Path(f"/proc/{server}")
    assert os.readlink(about / "cwd") == "/"
    assert b"SECRET" not in (about / "environ").read_bytes()
    assert {os.readlink(about / f"fd/{number}") for number in (0, 1, 2)} == {"/dev/null"}
    for entry in (about / "fd").iterdir():
        try:
            assert str(house.tmp) not in os.readlink(entry)
        except FileNotFoundError:  # it opens files of its own now and then, to see whether it is still wanted
            continue
    with open(house.tmp / "lock") as again:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fields = (about / "stat").read_text().rpartition(") ")[2].split()
    assert int(fields[4]) == 0, "it has a terminal"
    assert os.getsid(server) == server


def test_the_command_does_not_wait_for_it(house: House) -> None:
    """What starts it holds none of the command's pipes, and begins when the command is done."""
    script, told = house.command.with_name("lamina-python"), house.tmp / "told"
    spy = house.tmp / "python-that-tells"
    # the command's process stays until it has told that it is done: that is what the other one waits for
    spy.write_text(
        f"""#!/bin/sh
case " $* " in
*" warm "*) echo warm >>{told}; exec {sys.executable} "$@" ;;
esac
{sys.executable} "$@"
status=$?
sleep 0.5
echo done >>{told}
exit $status
"""
    )
    spy.chmod(0o755)
    script.write_text(f"#!{spy}\n")
    with house.popen("version") as process:
        process.communicate(timeout=200)
    until(house.sockets, "no warm process came")
    assert told.read_text() == "done\nwarm\n"


def test_a_crowd_of_first_commands_leaves_one(house: House) -> None:
    crowd = [house.popen("version") for _ in range(8)]
    for process in crowd:
        with process:
            assert process.communicate(timeout=200)[0].startswith(b"lamina ")
    until(house.sockets, "no warm process came")
    (name,) = house.sockets()
    server = int(Path(f"{name}.lock").read_text())
    until(lambda: house.parked(server), "no worker")
    found = {pid: parent for pid in filter(str.isdigit, os.listdir("/proc")) if (parent := warm(pid, house))}
    # the others are its workers
    assert [int(pid) for pid, parent in found.items() if parent not in found] == [server]


def warm(pid: str, house: House) -> str:
    """The parent of a warm process or worker that lives; "" where it is none."""
    try:
        inside = os.stat(f"/proc/{pid}/ns/mnt").st_ino == os.fstat(house.namespace).st_ino
        if inside and b"warm" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1]
    except OSError:
        pass
    return ""


def start(house: House, name: str, idle: float) -> subprocess.Popen[bytes]:
    """A warm process that leaves after *idle* seconds, by hand."""
    script = (
        "import fcntl, os, sys\n"
        "lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "if lock != 3: os.dup2(lock, 3)\n"
        "os.set_inheritable(3, True)\n"
        "os.execv(sys.executable, [sys.executable, '-I', '-S', *sys.argv[2:]])\n"
    )

    def enter() -> None:
        house._enter("/")
        os.makedirs("/run/lamina", 0o700, exist_ok=True)

    isolated = str(REPOSITORY / "src/lamina/isolated.py")
    words = [f"/run/lamina/{name}.lock", isolated, "warm", "cli", "/run/lamina", name, "", str(idle)]
    return subprocess.Popen(
        [sys.executable, "-c", script, *words],
        preexec_fn=enter,
        stdin=subprocess.DEVNULL,
    )


def test_it_leaves_when_it_is_idle(house: House) -> None:
    with start(house, "0123456789abcdef", 0.5) as process:
        assert process.wait(200) == 0  # 1 where it could not begin
    # by one whose socket it is: the lock was there before
    assert os.listdir(house.run_directory) == []


def test_one_that_has_no_lock_does_not_begin(house: House, server: int) -> None:
    (name,) = house.sockets()
    words = ["warm", "cli", "/run/lamina", name.name, ""]
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(REPOSITORY / "src/lamina/isolated.py"), *words],
        preexec_fn=lambda: house._enter("/"),
        stdin=subprocess.DEVNULL,
        timeout=200,
    )
    assert done.returncode == 1
    with house.expected(server, warm=True):
        assert house.run("version")[0] == 0


def kill(house: House, server: int) -> None:
    """Kill it, and wait until its worker has followed."""
    parked = until(lambda: house.parked(server), "no worker")
    os.kill(server, signal.SIGKILL)
    until(lambda: not alive(server) and not alive(parked), "it lives")


def test_what_a_killed_one_left_is_swept_up(house: House, server: int) -> None:
    kill(house, server)
    (left,) = house.sockets()
    with start(house, "0123456789abcdef", 60) as process:
        until(lambda: [path.name for path in house.sockets()] == ["0123456789abcdef"], f"{left} is there")
        process.terminate()


def test_the_parked_worker_dies_with_it(house: House, server: int) -> None:
    parked = until(lambda: house.parked(server), "no worker")
    os.kill(server, signal.SIGKILL)
    until(lambda: not alive(parked), "the worker outlived it")


def test_one_that_was_killed_is_replaced(house: House, server: int) -> None:
    kill(house, server)
    (name,) = house.sockets()
    os.utime(f"{name}.lock", (0, 0))  # it did not live long enough to be started again at once
    assert house.run("version")[0] == 0
    lock = Path(f"{name}.lock")
    until(lambda: lock.read_text().strip() not in ("", str(server)), "no other came")


def test_one_that_does_not_come_to_life_is_not_tried_again_at_once(house: House, server: int) -> None:
    kill(house, server)
    (name,) = house.sockets()
    os.utime(f"{name}.lock")
    assert house.run("version")[0] == 0
    time.sleep(1.5)
    assert Path(f"{name}.lock").read_text() == f"{server}\n"


def own_package(house: House, *own: str) -> Path:
    """Make the package of the installation one whose entries *own* are copies."""
    package = house.command.parent.parent / "lib/python3.11/site-packages/lamina"
    sources, made = package.resolve(), package.with_name("made")
    made.mkdir()
    for entry in sources.iterdir():
        if entry.name not in own:
            (made / entry.name).symlink_to(entry)
        elif entry.is_dir():
            shutil.copytree(entry, made / entry.name)
        else:
            shutil.copy(entry, made / entry.name)
    package.unlink()
    made.rename(package)
    return package


def test_code_that_changes_is_not_what_runs(house: House) -> None:
    package = own_package(house, "warm")
    often = (package / "warm/entry.py").read_text().replace("\nLOOK = 10.0", "\nLOOK = 0.5")
    (package / "warm/entry.py").write_text(often)
    server = house.warm_up()
    with house.expected(server, warm=True):
        assert house.run("version")[0] == 0
    until(lambda: house.parked(server), "no other worker was parked")
    os.kill(
        server, signal.SIGSTOP
    )  # or it might see that, and end its worker, before the command has been done
    try:
        (package / "warm/entry.py").write_text(often + "\n")
        with house.expected(server, warm=False):
            assert house.run("version")[0] == 0
    finally:
        os.kill(server, signal.SIGCONT)
    until(lambda: not alive(server), "it stays, although nobody can use it")


def test_a_package_that_changed_is_another_one(house: House, server: int) -> None:
    own_package(house, "isolated.py")
    with house.expected(server, warm=False):
        assert house.run("version")[0] == 0
    until(lambda: len(house.sockets()) == 2, "no warm process of the changed package")


# -- what a user says about it


def test_it_is_switched_off_and_on(house: House, server: int) -> None:
    assert house.run("system", "warm")[1].startswith(b"on\n")
    assert str(server).encode() in house.run("system", "warm", "status")[1]
    status, out, err = house.run("system", "warm", "off")
    assert (status, err) == (0, b"")
    assert out == f"off ({house.tmp}/config/lamina/warm-off)\n".encode()
    until(lambda: not alive(server), "it did not end")
    assert os.listdir(house.run_directory) == []
    assert house.run("version")[0] == 0
    time.sleep(0.7)
    assert house.sockets() == []
    assert house.run("system", "warm", "on")[1] == b"on\n"
    assert house.run("version")[0] == 0
    until(house.sockets, "no warm process came")


def test_one_command_can_do_without_it_or_insist(house: House) -> None:
    assert house.run("system", "warm", "off", way="cold")[1] == b"off (LAMINA_WARM=0)\n"
    assert house.run("system", "warm", env={"LAMINA_WARM": "1"})[1].startswith(b"on\n")
    until(house.sockets, "no warm process came")


def test_without_a_home_it_cannot_be_switched_off(house: House) -> None:
    status, _, err = house.run("system", "warm", "off", env={"XDG_CONFIG_HOME": "", "HOME": ""})
    assert status == 125 and b"LAMINA_WARM=0" in err
