"""The minimal init as process 1 of a pid namespace: what it starts, forwards, reaps and says."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import Unsupported
from lamina.runtime import init
from lamina.runtime.init import REPORT, init_file

pytestmark = pytest.mark.userns

# process 1 of a new pid namespace, whoever runs this
STAGE = ["unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
if os.geteuid() != 0:
    STAGE[1:1] = ["--user", "--map-root-user"]


@pytest.fixture
def program() -> str:
    if not Path(init.INIT).exists():
        pytest.skip("lamina-init is not built")
    return init.INIT


@pytest.fixture
def report() -> Iterator[tuple[int, dict[str, Any]]]:
    """A pipe whose writing end is descriptor 3 of what is started with these options."""
    reader, writer = os.pipe()

    def third() -> None:
        os.dup2(writer, REPORT)

    yield reader, {"preexec_fn": third, "pass_fds": (REPORT,)}
    os.close(reader)
    os.close(writer)


def run(program: str, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*STAGE, program, *command], text=True, timeout=30, **{"capture_output": True, **options}
    )


def started(program: str, *command: str, **options: Any) -> tuple[subprocess.Popen[str], int]:
    """The stage and the init's process id, once the command has written its first line."""
    stage = subprocess.Popen([*STAGE, program, *command], text=True, stdout=subprocess.PIPE, **options)
    assert stage.stdout is not None
    assert stage.stdout.readline()
    return stage, int(Path(f"/proc/{stage.pid}/task/{stage.pid}/children").read_text())


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["true"], 0),
        (["false"], 1),
        (["sh", "-c", "exit 77"], 77),
        (["sh", "-c", "kill -KILL $$"], 137),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["sh", "-c", "kill -SEGV $$"], 139),
        (["/bin/sh", "-c", "exit 255"], 255),
    ],
)
def test_exits_as_the_command_did(program: str, command: list[str], status: int) -> None:
    assert run(program, *command).returncode == status


def test_arguments_and_environment_arrive(program: str) -> None:
    code = "import os, sys; print(sys.argv[1:], os.environ['ODD'], os.getpid(), os.getppid())"
    odd = "a=b c\td"
    done = run(program, sys.executable, "-c", code, "", "two words", "ü", env={**os.environ, "ODD": odd})
    assert done.stdout == f"['', 'two words', 'ü'] {odd} 2 1\n", done.stderr


@pytest.mark.parametrize(
    ("name", "number", "status"),
    [
        ("no-such-command", errno.ENOENT, 127),
        ("/no/such/command", errno.ENOENT, 127),
        ("/etc/passwd/x", errno.ENOTDIR, 126),
        ("", errno.ENOENT, 127),
        ("/etc", errno.EACCES, 126),
        ("/etc/passwd", errno.EACCES, 126),
        ("x" * 5000, errno.ENOENT, 127),
        ("/" + "x" * 300, errno.ENAMETOOLONG, 126),
    ],
)
def test_says_why_a_command_cannot_be_executed(
    program: str, report: tuple[int, dict[str, Any]], name: str, number: int, status: int
) -> None:
    reader, options = report
    done = run(program, name, **options)
    assert done.returncode == status
    assert os.read(reader, 100) == number.to_bytes(4, sys.byteorder)
    assert done.stderr == ""


def test_the_report_ends_without_a_byte_once_the_command_runs(program: str) -> None:
    reader, writer = os.pipe()
    stage, _ = started(
        program, "sh", "-c", "ls /proc/self/fd; echo; exec sleep 30",
        preexec_fn=lambda: os.dup2(writer, REPORT), pass_fds=(REPORT,),
    )  # fmt: skip
    os.close(writer)
    # unshare(1) itself still has the pipe, so end it first: the init and the command are killed with it
    inside = stage.pid
    try:
        held = {
            os.readlink(f"/proc/{pid}/fd/{fd}")
            for pid in _below(inside)
            for fd in os.listdir(f"/proc/{pid}/fd")
        }
        assert os.readlink(f"/proc/self/fd/{reader}") not in held
    finally:
        stage.kill()
        stage.communicate()
    assert os.read(reader, 100) == b""
    os.close(reader)


def _below(pid: int) -> list[int]:
    found = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found + [p for child in found for p in _below(child)]


def test_looks_along_path_as_execvp_does(program: str, tmp_path: Path) -> None:
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
    (tmp_path / "first" / "tool").write_text("not executable")
    (tmp_path / "second" / "tool").symlink_to("/bin/echo")
    (tmp_path / "third" / "tool").symlink_to("/bin/false")
    path = f"{tmp_path}/none:/etc/passwd:{tmp_path}/first:{tmp_path}/second:{tmp_path}/third"
    sane = os.environ["PATH"]
    done = run(program, "env", f"PATH={path}", program, "tool", "found", env={"PATH": sane})
    assert done.stdout == "found\n"
    only_first = run(
        program, "env", f"PATH={tmp_path}/first:{tmp_path}/none", program, "tool", env={"PATH": sane}
    )
    assert only_first.returncode == 126  # there was one, but it cannot be executed
    here = run(
        program, "env", "PATH=/nowhere:", program, "tool", "here", env={"PATH": sane}, cwd=tmp_path / "second"
    )
    assert here.stdout == "here\n"
    without = run(program, "env", "-i", program, "echo", "default", env={"PATH": sane})
    assert without.stdout == "default\n"


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1", "QUIT", "WINCH", "RTMIN"])
def test_forwards_signals(program: str, name: str) -> None:
    number = getattr(signal, f"SIG{name}")
    code = (
        "import os, signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [int(sys.argv[1])])\n"
        "print('ready', flush=True)\n"
        "signal.sigwait([int(sys.argv[1])])\n"
        "os._exit(42)\n"
    )
    stage, pid = started(program, sys.executable, "-c", code, str(int(number)))
    os.kill(pid, number)
    stage.communicate(timeout=30)
    assert stage.returncode == 42


def test_the_commands_signals_are_those_it_would_have_had(program: str) -> None:
    def masks(*command: str) -> list[str]:
        shown = subprocess.run(
            [*command, "cat", "/proc/self/status"], capture_output=True, text=True, timeout=30
        )
        return [line for line in shown.stdout.splitlines() if line[:6] in ("SigBlk", "SigIgn", "SigCgt")]

    assert masks(*STAGE, program) == masks(*STAGE)


def test_reaps_orphans(program: str) -> None:
    code = (
        "import os, time\n"
        "for _ in range(20):\n"
        "    if os.fork() == 0:\n"
        "        if os.fork() == 0: os._exit(0)\n"
        "        os._exit(0)\n"
        "for _ in range(20): os.wait()\n"
        "for _ in range(200):\n"
        "    left = [p for p in os.listdir('/proc') if p.isdigit()]\n"
        "    if len(left) == 2: break\n"
        "    time.sleep(0.05)\n"
        "print(sorted(left))\n"
    )
    assert run(program, sys.executable, "-c", code).stdout == "['1', '2']\n"


def test_what_the_command_leaves_behind_ends_with_it(program: str) -> None:
    begun = time.monotonic()
    assert run(program, "sh", "-c", "sleep 300 & exit 3").returncode == 3
    assert time.monotonic() - begun < 60


def test_the_command_is_in_the_terminals_foreground(program: str) -> None:
    master, slave = pty.openpty()
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "same = os.tcgetpgrp(0) == os.getpgrp() == os.getpid()\n"
        "print('foreground' if same else 'background', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    stage = subprocess.Popen(
        [*STAGE, program, sys.executable, "-c", code],
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(slave)
    try:
        assert b"foreground" in os.read(master, 1000)
        os.write(master, b"\x03")  # the terminal's own interrupt reaches the command, and it alone
        assert stage.wait(timeout=30) == 130
    finally:
        stage.kill()
        stage.wait()
        os.close(master)


def test_is_nobodys_interpreter(program: str, tmp_path: Path) -> None:
    """A script that wants to be interpreted by whatever executes it gets nothing but a message."""
    script = tmp_path / "script"
    script.write_text("#!/proc/self/exe\n")
    script.chmod(0o755)
    for name in ("lamina-init", "lamina-exec"):
        (tmp_path / name).symlink_to(program)
        done = subprocess.run(
            [name, script], executable=tmp_path / name, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 126
        assert done.stderr == "lamina: a script cannot be interpreted by the program that executes it\n"


def test_the_other_name_executes_in_place(program: str, report: tuple[int, dict[str, Any]]) -> None:
    reader, options = report

    def launched(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["lamina-exec", *command],
            executable=program,
            capture_output=True,
            text=True,
            timeout=30,
            **options,
        )

    done = launched("sh", "-c", "echo $0 $$ $(cat /proc/$$/comm); exit 9", "x")
    assert done.returncode == 9
    assert done.stdout.split()[2] == "sh"
    assert launched("no-such-command").returncode == 127
    assert os.read(reader, 100) == errno.ENOENT.to_bytes(4, sys.byteorder)
    assert launched("/etc/passwd").returncode == 126
    assert os.read(reader, 100) == errno.EACCES.to_bytes(4, sys.byteorder)


def test_nothing_to_start(program: str) -> None:
    assert run(program).returncode == 125


def test_is_small_and_needs_nothing(program: str) -> None:
    data = Path(program).read_bytes()
    assert data[:4] == b"\x7fELF"
    assert len(data) < 8192
    assert b"ld-linux" not in data


def test_runs_from_sealed_memory(program: str, tmp_path: Path) -> None:
    """As the engine does it: nothing of the package can be reached or written through /proc/1/exe."""
    with init_file() as file:
        seals = fcntl.fcntl(file, fcntl.F_GET_SEALS)
        assert seals == fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        with pytest.raises(PermissionError):
            os.write(file, b"x")
        held = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 10)  # not where the init reports
        code = (
            "import os\n"
            "print(os.readlink('/proc/1/exe'), open('/proc/1/comm').read().strip())\n"
            "try: open('/proc/1/exe', 'r+b').write(b'x')\n"
            "except OSError as error: print(error.strerror)\n"
        )
        by_descriptor = f'exec -a lamina-init /proc/self/fd/{held} "$@"'
        done = run("bash", "-c", by_descriptor, "bash", sys.executable, "-c", code, pass_fds=(held,))
        os.close(held)
    assert done.stdout.splitlines()[0] == "/memfd:lamina-init (deleted) lamina-init", done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_where_it_could_not_be_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(init, "INIT", str(tmp_path / "lamina-init"))
    with pytest.raises(Unsupported, match="was not built"):
        init_file()
