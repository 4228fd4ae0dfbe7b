"""What a process in a container starts with: no capability, descriptor, terminal or user that it was not given."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from lamina.errors import InvalidInput, NotFound
from lamina.runtime.users import resolve_user
from support.attacker import Attacker

NOTHING = "0" * 16


def sets_of(status: str) -> dict[str, str]:
    """The lines of /proc/self/status."""
    return dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)


def test_cve_2022_29162_nothing_is_inheritable(attacker: Attacker) -> None:
    """Nor CVE-2022-24769, 2022-27649, 2022-27650: a file with inheritable capabilities gives nobody any."""
    status = sets_of(attacker.said("cat /proc/self/status"))
    assert status["CapInh"] == status["CapAmb"] == NOTHING
    if not attacker.rootless:
        status = sets_of(attacker.said("cat /proc/self/status", "-u", "1"))
        assert {status[name] for name in ("CapInh", "CapAmb", "CapPrm", "CapEff")} == {NOTHING}


def test_setuid_programs_give_nothing(attacker: Attacker) -> None:
    """no_new_privs, and overlays that are mounted nosuid and nodev."""
    assert sets_of(attacker.said("cat /proc/self/status"))["NoNewPrivs"] == "1"
    mounts = [line.split() for line in attacker.said("cat /proc/self/mountinfo").splitlines()]
    overlays = [fields[5].split(",") for fields in mounts if "overlay" in fields]
    assert overlays
    assert all("nosuid" in options and "nodev" in options for options in overlays)


def test_cve_2016_9962_descriptors_of_the_caller_stay_outside(attacker: Attacker, tmp_path: Path) -> None:
    held = os.open(tmp_path, os.O_RDONLY)
    os.dup2(held, 200, inheritable=True)
    script = "for fd in /proc/self/fd/*; do echo ${fd##*/} $(readlink $fd); done; ls /proc/1/fd"
    try:
        listed = attacker.said(script, pass_fds=(200,) if not attacker.rootless else ())
    finally:
        os.close(held)
        os.close(200)
    assert listed.split()[-3:] == ["0", "1", "2"]
    assert str(tmp_path) not in listed


@pytest.mark.parametrize("number", [*range(3, 9), 100, 255])
def test_cve_2024_21626_a_descriptor_as_working_directory(attacker: Attacker, number: int) -> None:
    for place in (f"/proc/self/fd/{number}", f"/proc/1/fd/{number}", f"/proc/thread-self/fd/{number}/../.."):
        # outside of the root it has no name, or one that leads elsewhere
        done = attacker.inside(
            '[ . -ef "$(pwd -P)" ] && cd /proc/self/cwd && [ . -ef "$(pwd -P)" ]', "-w", place
        )
        assert done.returncode in (0, 125), done.stdout


TABLE = {
    "0": "0",
    "0:0": "0",
    "00": "0",
    "1": "1",
    "01": "1",
    "1:1": "1",
    "1:": None,
    ":1": None,
    ":": None,
    "4294967296": None,  # 1 << 32: root, to somebody who truncates
    "4294967295": None,  # -1: leave as it is, to setresuid(2)
    "2147483648": None,
    "18446744073709551616": None,
    "1:4294967296": None,
    "-1": None,
    "+1": None,
    " 0": None,
    "0 ": None,
    "0x0": None,
    "1e3": None,
    "1user": None,
    "\u0661": None,  # a digit, to Python
    "root\n": None,
    "root:root:root": None,
}


@pytest.mark.root
@pytest.mark.parametrize("asked", TABLE)
def test_cve_2026_30892_the_user_that_was_meant(tmp_path: Path, asked: str) -> None:
    """Or none: never root by accident, never a number that is a name's beginning."""
    done = Attacker(tmp_path).inside("id -u", "-u", asked)
    if TABLE[asked] is None:
        assert done.returncode == 125, done.stdout
        assert "user" in done.stdout or "group" in done.stdout
    else:
        assert (done.returncode, done.stdout) == (0, f"{TABLE[asked]}\n")


@pytest.mark.parametrize(
    "number", ["4294967296", "4294967295", "-1", "0x0", "00000000000000000000", " 0", ""]
)
def test_cve_2024_40635_a_passwd_that_overflows(number: str) -> None:
    """Numbers in the container's own files are as hostile as options."""
    files = {
        "/etc/passwd": f"me:x:{number}:{number}::/:/bin/sh\n".encode(),
        "/etc/group": f"us:x:{number}:me\n".encode(),
    }
    with pytest.raises((NotFound, InvalidInput)):
        resolve_user("me", files.__getitem__)
    with pytest.raises((NotFound, InvalidInput)):
        resolve_user("0:us", files.__getitem__)


def test_tiocsti_nothing_is_typed_into_the_callers_terminal(attacker: Attacker) -> None:
    """CVE-2017-5226 and others: the caller's terminal is not the container's to push characters into."""
    code = (
        "import fcntl, os, termios\n"
        "tries = [0, 1, 2]\n"
        "try: tries.append(os.open('/dev/tty', os.O_RDWR))\n"
        "except OSError as error: print('tty', error.strerror)\n"
        "for fd in tries:\n"
        "    try: fcntl.ioctl(fd, termios.TIOCSTI, b'x'); print('typed')\n"
        "    except OSError as error: print(error.strerror)\n"
    )
    master, slave = pty.openpty()
    try:
        done = attacker.python(code, "-i", stdin=slave, start_new_session=True)
        os.close(slave)
        os.set_blocking(master, False)
        try:
            left = os.read(master, 100)
        except OSError:
            left = b""
    finally:
        os.close(master)
    assert done.stdout.startswith("tty No such device or address\n")
    assert "typed" not in done.stdout
    assert left == b""


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_cve_2026_88265_closed_standard_streams(attacker: Attacker, closed: tuple[int, ...]) -> None:
    """Their place is taken by nothing of the host: neither a descriptor of the start nor the host's own files."""
    listed = attacker.place / "listed"
    listed.mkdir()
    if attacker.user is not None:
        attacker.user.give(listed)
    shut = " ".join(f"{number}{'<' if number == 0 else '>'}&-" for number in closed)
    script = f"ls -l /proc/self/fd > {listed}/fds; stat -L -c %d:%i /proc/self/fd/[012] > {listed}/files"
    command = f"{sys.executable} -m lamina run --rm -v {listed}:{listed} host -- sh -c '{script}' {shut}"
    attacker.run("sh", "-c", command, stdout=subprocess.DEVNULL)
    null = os.stat("/dev/null")
    if not attacker.rootless:  # who may make no device shares the host's, and cannot change it
        assert f"{null.st_dev}:{null.st_ino}" not in (listed / "files").read_text().split()
    assert (listed / "fds").read_text().count(" -> ") <= 4  # and ls's own
