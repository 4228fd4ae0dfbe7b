"""The minimal init as process 1 of a pid namespace: what it starts, forwards, reaps and says."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import Unsupported
from lamina.runtime import init
from lamina.runtime.init import REPORT, exec_file, init_file
from lamina.runtime.init.listing import program as listed
from support.console import read_until
from support.lives import until

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


@pytest.fixture(params=["compiled", "listed"])
def launcher(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What executes a command: the compiled program, and the one that stands in where there is no compiler."""
    if request.param == "compiled":
        compiled: str = request.getfixturevalue("program")
        return compiled
    path = tmp_path / "listed"
    path.write_bytes(listed(os.uname().machine))
    path.chmod(0o755)
    return str(path)


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
        [*STAGE, program, *command], text=True, timeout=200, **{"capture_output": True, **options}
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
        program, "sh", "-c", "echo; exec sleep 600",
        preexec_fn=lambda: os.dup2(writer, REPORT), pass_fds=(REPORT,),
    )  # fmt: skip
    os.close(writer)
    # unshare(1) itself still has the pipe, so end it first: the init and the command are killed with it
    inside = stage.pid
    try:
        report = os.readlink(f"/proc/self/fd/{reader}")
        until(
            lambda: (held := _held(inside)) and report not in held
        )  # the init closes its own in its own time
    finally:
        stage.kill()
        stage.communicate()
    assert os.read(reader, 100) == b""
    os.close(reader)


def _held(pid: int) -> set[str]:
    found = set()
    for one in _below(pid):
        for fd in os.listdir(f"/proc/{one}/fd"):
            with suppress(FileNotFoundError):  # of what is being loaded
                found.add(os.readlink(f"/proc/{one}/fd/{fd}"))
    return found


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
    stage.communicate(timeout=100)
    assert stage.returncode == 42


def test_the_commands_signals_are_those_it_would_have_had(program: str) -> None:
    def masks(*command: str) -> list[str]:
        shown = subprocess.run(
            [*command, "cat", "/proc/self/status"], capture_output=True, text=True, timeout=100
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
        "for _ in range(2000):\n"
        "    left = [p for p in os.listdir('/proc') if p.isdigit()]\n"
        "    if len(left) == 2: break\n"
        "    time.sleep(0.05)\n"
        "print(sorted(left))\n"
    )
    assert run(program, sys.executable, "-c", code).stdout == "['1', '2']\n"


def test_what_the_command_leaves_behind_ends_with_it(program: str) -> None:
    assert run(program, "sh", "-c", "sleep 600 & exit 3").returncode == 3  # long before that


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
        assert b"foreground" in read_until(master, b"ground")
        os.write(master, b"\x03")  # the terminal's own interrupt reaches the command, and it alone
        assert stage.wait(timeout=100) == 130
    finally:
        stage.kill()
        stage.wait()
        os.close(master)


def test_is_nobodys_interpreter(launcher: str, tmp_path: Path) -> None:
    """A script that wants to be interpreted by whatever executes it gets nothing but a message."""
    script = tmp_path / "script"
    script.write_text("#!/proc/self/exe\n")
    script.chmod(0o755)
    for name in ("lamina-init", "lamina-exec"):
        if name == "lamina-init" and launcher.endswith("listed"):
            continue
        (tmp_path / name).symlink_to(launcher)
        done = subprocess.run(
            [name, script], executable=tmp_path / name, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 126
        assert done.stderr == "lamina: a script cannot be interpreted by the program that executes it\n"


def launched(
    launcher: str, report: tuple[int, dict[str, Any]], *command: str, **options: Any
) -> tuple[int, str, int]:
    """What executing *command* comes to: exit status, output, and the errno that was reported (0: none)."""
    reader, wired = report
    done = subprocess.run(
        ["lamina-exec", *command],
        executable=launcher,
        capture_output=True,
        text=True,
        timeout=100,
        **wired,
        **options,
    )
    os.set_blocking(reader, False)
    try:
        said = os.read(reader, 100)
    except BlockingIOError:
        said = b""
    assert len(said) in (0, 4)
    return done.returncode, done.stdout, int.from_bytes(said, sys.byteorder)


def test_the_other_name_executes_in_place(launcher: str, report: tuple[int, dict[str, Any]]) -> None:
    status, output, error = launched(
        launcher, report, "sh", "-c", "echo $0 $(cat /proc/$$/comm); exit 9", "x"
    )
    assert (status, output, error) == (9, "x sh\n", 0)
    assert launched(launcher, report, "no-such-command") == (127, "", errno.ENOENT)
    assert launched(launcher, report, "/no/such/command") == (127, "", errno.ENOENT)
    assert launched(launcher, report, "/etc/passwd") == (126, "", errno.EACCES)
    assert launched(launcher, report, "") == (127, "", errno.ENOENT)
    assert launched(launcher, report) == (125, "", errno.EINVAL)


def test_the_other_name_looks_along_path(
    launcher: str, report: tuple[int, dict[str, Any]], tmp_path: Path
) -> None:
    """As execvp(3): a command that may not be executed is remembered, an empty place is the current directory."""
    here, closed = tmp_path / "here", tmp_path / "closed"
    for directory, mode in ((here, 0o755), (closed, 0o644)):
        directory.mkdir()
        (directory / "found").write_text(f"#!/bin/sh\necho {directory.name}\n")
        (directory / "found").chmod(mode)

    def along(path: str | None, command: str = "found") -> tuple[int, str, int]:
        environment = {"OTHER": "x", "PATHS": "/nowhere", "P": ""}
        if path is not None:
            environment["PATH"] = path
        return launched(launcher, report, command, env=environment, cwd=here)

    assert along(f"{closed}:{here}") == (0, "here\n", 0)
    assert along(f"{closed}:/nowhere") == (126, "", errno.EACCES)
    assert along("/nowhere:/etc/passwd:/") == (127, "", errno.ENOENT)
    for here_too in ("", ":/nowhere", "/nowhere:", "/nowhere::/nowhere"):
        assert along(here_too) == (0, "here\n", 0)
    assert along(None) == (127, "", errno.ENOENT)
    assert along(None, "true") == (0, "", 0)
    # what does not fit into PATH_MAX is passed over, at each length around it
    for length in (*range(4080, 4100), 10_000):
        assert along(f"/nowhere{'/' * (length - 8)}:{here}") == (0, "here\n", 0)
    room = 4096 - len("/found\0")
    padded = str(here) + "/" * (room - len(str(here)))
    assert along(padded) == (0, "here\n", 0)
    assert along(padded + "/") == (127, "", errno.ENOENT)


def test_the_report_is_closed_for_the_command(launcher: str, report: tuple[int, dict[str, Any]]) -> None:
    assert launched(launcher, report, "sh", "-c", f"ls /proc/$$/fd/{REPORT}")[:2] == (2, "")


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
    """No init then, but what every start needs is there, and as sealed; or, on another machine, no start at all."""
    monkeypatch.setattr(init, "INIT", str(tmp_path / "lamina-init"))
    with pytest.raises(Unsupported, match="was not built"):
        init_file()
    with exec_file() as file:
        assert fcntl.fcntl(file, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
        assert os.pread(file, 1 << 20, 0) == listed(os.uname().machine)
    with pytest.raises(Unsupported, match="no lamina-exec for riscv64"):
        listed("riscv64")


@pytest.mark.root
def test_where_memory_files_may_not_be_executed() -> None:
    """The sysctl is one of the pid namespace, so it can be tried; but its file is the machine's root's to write to."""
    if not Path("/proc/sys/vm/memfd_noexec").exists():
        pytest.skip("this kernel has no vm.memfd_noexec")
    code = (
        "from lamina.errors import Unsupported\n"
        "from lamina.runtime.init import exec_file\n"
        "open('/proc/sys/vm/memfd_noexec', 'w').write('2')\n"
        "try: exec_file()\n"
        "except Unsupported as error: print(error)\n"
    )
    assert "vm.memfd_noexec" in run(sys.executable, "-c", code).stdout


MACHINES = ["x86_64", "aarch64"]
BINUTILS = {m: "as" if m == os.uname().machine else f"{m}-linux-gnu-as" for m in MACHINES}


@pytest.mark.parametrize("machine", [pytest.param(m, marks=pytest.mark.peer(BINUTILS[m])) for m in MACHINES])
def test_the_listing_is_what_an_assembler_makes_of_it(machine: str) -> None:
    """Nobody needs to believe the left column: it is what the right one says."""
    script = Path(__file__).parents[2] / "scripts/list-launcher"
    done = subprocess.run(
        [sys.executable, script, "--check", machine], capture_output=True, text=True, timeout=200
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("machine", MACHINES)
def test_the_listed_program_is_plain(machine: str) -> None:
    """No page of it can be written and executed, and it fits into one."""
    data = listed(machine)
    assert len(data) < 4096
    start, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    flags = [struct.unpack_from("<II", data, start + n * size)[1] for n in range(count)]
    assert flags == [5, 6, 6]
