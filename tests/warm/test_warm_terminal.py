"""On a terminal: what only writes is done warm, what takes the terminal is done by a process of its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from support.small_images import small_image
from support.terminal import Terminal
from support.warm import House, alive, sleeper, unlike_others, until

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox", "unshare", "nsenter", "bash")]
WAYS = pytest.mark.parametrize("way", ["cold", "warm"])


@pytest.fixture
def tiny(house: House) -> House:
    small_image(Path(house.env["LAMINA_ROOT"]))
    return house


def terminal(house: House, way: str, *argv: str | Path) -> Terminal:
    environment = {**house.env, "LAMINA_WARM": "0" if way == "cold" else "1", "PS1": "", "TERM": "dumb"}
    inside = ["nsenter", f"--mount=/proc/{house.holder.pid}/ns/mnt", *map(str, argv)]
    return Terminal(inside, env=environment, cwd="/")


@WAYS
def test_what_only_writes_is_done_warm(tiny: House, server: int, way: str) -> None:
    tiny.run("run", "--name", "one", "tiny", "true", way="cold")
    with (
        tiny.expected(server, warm=way == "warm"),
        terminal(tiny, way, tiny.command, "ps", "-a", "--format", "{{.Names}}") as screen,
    ):
        assert screen.wait() == 0
    assert screen.output == "one\r\n"


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--rm", "-i", "tiny", "true"),
        ("run", "--rm", "-t", "tiny", "true"),
        ("run", "--rm", "-it", "tiny", "true"),
        ("diff", "one"),
        ("plan", "--network", "none", "tiny", "true"),
        ("nosuch",),
        ("system", "prune", "--force"),
    ],
)
def test_what_takes_the_terminal_is_done_by_a_process_of_its_own(
    tiny: House, server: int, words: tuple[str, ...]
) -> None:
    with tiny.expected(server, warm=False), terminal(tiny, "warm", tiny.command, *words) as screen:
        screen.wait()


def test_a_shell_in_a_container_has_the_terminal(tiny: House, server: int) -> None:
    with terminal(
        tiny, "warm", tiny.command, "run", "--rm", "-it", "tiny", "sh", "-c", "stty size; cat"
    ) as screen:
        screen.expect(r"24 80\r\n")
        screen.type("hello\n")
        screen.expect("hello\r\nhello")
        screen.type("\x04")
        assert screen.wait() == 0
    assert alive(server)


@WAYS
@pytest.mark.parametrize(("key", "status"), [("\x03", 130), ("\x1c", 131)])
def test_keys_are_signals(tiny: House, server: int, way: str, key: str, status: int) -> None:
    seconds = unlike_others()
    words = ("run", "--rm", "tiny", "sh", "-c", f"echo begun; exec sleep {seconds}")
    with tiny.expected(server, warm=way == "warm"), terminal(tiny, way, tiny.command, *words) as screen:
        screen.expect("begun")
        until(lambda: sleeper(seconds), "no container")
        screen.type(key)
        assert screen.wait() == status


@WAYS
def test_a_job_is_stopped_and_fetched_back(tiny: House, server: int, way: str) -> None:
    gate = tiny.tmp / "gate"
    command = tiny.tmp / "command"  # in a file, or the terminal would break its lines
    command.write_text(
        f"""exec {tiny.command} run --rm -v {tiny.tmp}:{tiny.tmp} tiny sh -c '
            echo begun; while [ ! -e {gate} ]; do sleep 0.05; done; echo ended'"""
    )
    with terminal(tiny, way, "bash", "--norc", "-i") as screen, tiny.expected(server, warm=way == "warm"):
        screen.type(f"sh {command}; echo status $?\n")
        screen.expect(r"\nbegun")
        screen.type("\x1a")
        screen.expect("Stopped")
        gate.touch()
        screen.type("fg; echo later $?\n")
        screen.expect(r"\nended")
        screen.expect("later 0")
        screen.type("exit\n")
        screen.wait()


@WAYS
def test_a_terminal_that_goes_away_ends_the_command(tiny: House, server: int, way: str) -> None:
    seconds = unlike_others()
    words = ("run", "--rm", "tiny", "sh", "-c", f"echo begun; exec sleep {seconds}")
    with tiny.expected(server, warm=way == "warm"), terminal(tiny, way, tiny.command, *words) as screen:
        screen.expect("begun")
        until(lambda: sleeper(seconds), "no container")
        os.close(screen.slave)
        os.close(screen.master)
        screen.master, screen.slave = os.open(os.devnull, os.O_RDWR), os.open(os.devnull, os.O_RDWR)
        status = until(lambda: os.waitpid(screen.pid, os.WNOHANG)[0] and 1, "it goes on without a terminal")
        screen.status = status
    assert os.listdir(f"{tiny.env['LAMINA_ROOT']}/running") == []


def test_a_window_that_changes_its_size_is_heard_of(tiny: House, server: int) -> None:
    """SIGWINCH reaches the worker: it has no terminal of its own that would send it."""
    gate, shared = tiny.tmp / "gate", f"{tiny.tmp}:{tiny.tmp}"
    script = f"echo begun; while [ ! -e {gate} ]; do sleep 0.05; done; echo over"
    words = ("run", "--rm", "-v", shared, "tiny", "sh", "-c", script)
    worker = until(lambda: tiny.parked(server), "no worker")
    with terminal(tiny, "warm", tiny.command, *words) as screen:
        screen.expect("begun")
        caught = int(
            next(
                line for line in Path(f"/proc/{worker}/status").read_text().splitlines() if "SigCgt" in line
            )[7:],
            16,
        )
        assert caught >> (signal.SIGWINCH - 1) & 1
        screen.resize(40, 100)
        gate.touch()
        screen.expect("over")
        assert screen.wait() == 0
