"""`--init`: process 1 reaps and forwards, and the command is its child, whose end is the container's."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina import Engine
from lamina.errors import CommandNotExecutable, CommandNotFound
from lamina.runtime import init
from support.leaks import Leaks
from support.rootless import Rootless

Lamina = Callable[..., subprocess.CompletedProcess[str]]

# a process that ends after its parent, until its number is free again, or (with "zombie") until it has ended
ORPHAN = [
    sys.executable,
    "-I",
    "-S",
    "-c",
    """
import os, sys, time
reader, writer = os.pipe()
child = os.fork()
if not child:
    orphan = os.fork()
    if orphan:
        os.write(writer, b"%d" % orphan)
    else:
        time.sleep(0.1)
    os._exit(0)
os.waitpid(child, 0)
orphan = os.read(reader, 9).decode()
for _ in range(20_000):
    try:
        state = open(f"/proc/{orphan}/stat").read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        print("reaped")
        break
    if state == "Z" and sys.argv[1:]:
        print("zombie")
        break
    time.sleep(0.01)
""",
]


@pytest.fixture(autouse=True)
def _built() -> None:
    if not Path(init.INIT).exists():
        pytest.skip("lamina-init is not built")


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks) -> Engine:
    return Engine(store_root)


def run(engine: Engine, script: str, **options: Any) -> Any:
    options = {"rm": True, "init": True, "capture_output": True, "text": True, "timeout": 200, **options}
    return engine.run("host", ["sh", "-c", script], **options)


@pytest.mark.root
@pytest.mark.parametrize("tty", [False, True])
def test_the_command_is_the_child_of_an_init(engine: Engine, tty: bool) -> None:
    done = run(engine, "echo $$ $PPID; cat /proc/1/comm; readlink /proc/1/exe; exit 5", tty=tty)
    assert done.returncode == 5
    assert done.stdout.split()[:3] == ["2", "1", "lamina-init"]
    assert "memfd" in done.stdout


@pytest.mark.root
def test_what_lost_its_parent_is_reaped(engine: Engine) -> None:
    assert engine.run("host", ORPHAN, init=True, rm=True, capture_output=True).stdout == b"reaped\n"
    without = engine.run("host", [*ORPHAN, "zombie"], rm=True, capture_output=True)
    assert without.stdout == b"zombie\n"


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_a_signal_that_ends_the_command_is_its_status(engine: Engine, number: int) -> None:
    assert run(engine, f"kill -{number:d} $$").returncode == 128 + number


@pytest.mark.root
def test_it_ends_with_the_command_and_so_does_the_rest(engine: Engine) -> None:
    assert run(engine, "sleep 1000 & echo done").stdout == "done\n"


@pytest.mark.root
def test_a_command_that_is_not_there_or_cannot_be_executed(engine: Engine) -> None:
    for words, error in ((["no-such-command"], CommandNotFound), (["/etc/passwd"], CommandNotExecutable)):
        with pytest.raises(error, match=words[0]):
            engine.run("host", words, init=True)
    assert engine.containers(all=True) == []


@pytest.mark.root
def test_another_user_a_limit_and_a_time(engine: Engine) -> None:
    done = run(engine, "id -u; echo $PPID", user="65534", pids_limit=50)
    assert done.stdout.split() == ["65534", "1"]


@pytest.mark.root
def test_a_terminal_has_the_command_in_its_foreground(engine: Engine) -> None:
    script = "import os; print(os.tcgetpgrp(0) == os.getpgrp(), os.getsid(0) in (0, 1))"
    done = engine.run(
        "host", [sys.executable, "-I", "-S", "-c", script], rm=True, init=True, tty=True, capture_output=True
    )
    assert done.stdout == b"True True\r\n"


SIGNALLED = """
trap 'echo got it; exit 9' {name}
echo ready
while :; do sleep 0.05; done
"""


def signalled(popen: Callable[..., subprocess.Popen[str]], script: str, number: int) -> tuple[str, int]:
    """Run *script* under an init, and send *number* to Lamina once it is ready: the rest, and the status."""
    words = [sys.executable, "-m", "lamina", "run", "--rm", "--init", "host", "--", "sh", "-c", script]
    process = popen(words, text=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, _ = process.communicate(timeout=200)
    return out, process.returncode


@pytest.mark.root
@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1"])
def test_signals_are_handed_on_to_the_command(untouched_host: Leaks, name: str) -> None:
    number = getattr(signal, f"SIG{name}")
    assert signalled(subprocess.Popen, SIGNALLED.format(name=name), number) == ("got it\n", 9)


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_that_the_command_does_not_handle_ends_it(untouched_host: Leaks, number: int) -> None:
    script = "echo ready; while :; do sleep 0.05; done"
    assert signalled(subprocess.Popen, script, number) == ("", 128 + number)


@pytest.mark.root
def test_it_is_an_option_of_the_command_line_and_is_kept(lamina: Lamina) -> None:
    done = lamina("run", "--init", "--name", "x", "host", "--", "sh", "-c", "echo $PPID")
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 0)
    found = json.loads(lamina("inspect", "x").stdout)[0]
    assert found["HostConfig"]["Init"] is True
    assert found["Args"][-1] == "echo $PPID"
    assert lamina("rm", "x").returncode == 0
    assert "lamina-init" in lamina("plan", "--init", "host", "true").stdout
    assert "lamina-init" not in lamina("plan", "host", "true").stdout


@pytest.mark.userns
def test_without_root(rootless: Rootless) -> None:
    done = rootless.lamina("run", "--rm", "--init", "host", "--", *ORPHAN)
    assert done.stdout == "reaped\n", done.stderr
    for options in ((), ("-t",)):
        script = "echo $PPID; exit 3"
        done = rootless.lamina("run", "--rm", "--init", *options, "host", "--", "sh", "-c", script)
        assert (done.stdout.strip(), done.returncode) == ("1", 3), done.stderr
    popen = lambda words, **options: rootless.popen(*words, **options)  # noqa: E731
    assert signalled(popen, SIGNALLED.format(name="TERM"), signal.SIGTERM) == ("got it\n", 9)
