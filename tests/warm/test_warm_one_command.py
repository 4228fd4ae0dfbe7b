"""A user cannot tell a warm command from a cold one but by the clock."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from support.small_images import small_image
from support.warm import House, alive, compile_client, sleeper, unlike_others, until

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox", "unshare")]
WAYS = pytest.mark.parametrize("way", ["cold", "warm"])


@pytest.fixture
def tiny(house: House) -> House:
    small_image(Path(house.env["LAMINA_ROOT"]))
    return house


def test_the_first_command_leaves_a_warm_process_that_does_the_next(house: House) -> None:
    cold = house.run("version", way="cold")
    assert house.sockets() == []
    server = house.warm_up()
    with house.expected(server, warm=True):
        assert house.run("version") == cold
    with house.expected(server, warm=False):
        assert house.run("version", way="cold") == cold


@WAYS
def test_status_and_output_are_the_containers(tiny: House, server: int, way: str) -> None:
    with tiny.expected(server, warm=way == "warm"):
        done = tiny.run("run", "--rm", "tiny", "sh", "-c", "echo out; echo err >&2; exit 3", way=way)
    assert done == (3, b"out\n", b"err\n")


@WAYS
def test_nothing_is_left_when_the_end_is_known(tiny: House, server: int, way: str) -> None:
    store = Path(tiny.env["LAMINA_ROOT"])
    for _ in range(5):
        with tiny.expected(server, warm=way == "warm"):
            assert tiny.run("run", "--rm", "tiny", "sh", "-c", "echo >/here; mkdir /there", way=way) == (
                0,
                b"",
                b"",
            )
        left = [
            path for place in ("containers", "names", "running", "tmp") for path in (store / place).iterdir()
        ]
        assert left == []


def test_what_a_run_copies_is_copied_for_the_next_one_and_for_nobody_else(tiny: House, server: int) -> None:
    def own() -> int:
        """kB that the parked worker shares with nobody."""

        def look() -> int:
            try:
                lines = Path(f"/proc/{tiny.parked(server)}/smaps_rollup").read_text().splitlines()
            except OSError:  # there is none at this moment
                return 0
            return next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))

        return int(until(look, "no worker was parked"))

    def run() -> bool:
        return tiny.run("run", "--rm", "tiny", "true") == (0, b"", b"")

    before = own()
    until(lambda: run() and own() > before + 1000, "the next worker copies what the last one did")
    assert tiny.run("ps")[0] == 0
    until(lambda: own() < before + 500, "it does so after the like of it only")


@WAYS
def test_standard_input_is_the_containers(tiny: House, server: int, way: str) -> None:
    data = os.urandom(3 << 20)
    with tiny.expected(server, warm=way == "warm"):
        assert tiny.run("run", "-i", "--rm", "tiny", "cat", input=data, way=way) == (0, data, b"")


@WAYS
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full"])
def test_closed_and_full_streams(house: House, server: int, way: str, closed: str) -> None:
    with house.expected(server, warm=way == "warm"):
        status, out, _ = house.run("version", way=way, wrap=["sh", "-c", f'exec "$@" {closed}', "sh"])
    assert status == (125 if "full" in closed else 0)
    assert (b"lamina" in out) == (">&-" not in closed.replace("2>&-", "") and "full" not in closed)


@WAYS
def test_a_reader_that_goes_away_is_no_error_of_ours(house: House, server: int, way: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with (
        house.expected(server, warm=way == "warm"),
        house.popen("version", way=way, stdout=writer) as process,
    ):
        os.close(writer)
        assert process.communicate(timeout=200)[1] == b""
    assert process.returncode == 141


@WAYS
def test_the_mask_of_modes_is_the_callers(tiny: House, server: int, way: str) -> None:
    for mask, mode in ((0o077, 0o600), (0o002, 0o644)):
        file, masked = tiny.tmp / f"id-{mask}", ["sh", "-c", f'umask {mask:o}; exec "$@"', "sh"]
        with tiny.expected(server, warm=way == "warm"):
            done = tiny.run("run", "--rm", "--cidfile", file, "tiny", "true", way=way, wrap=masked)
        assert done[0] == 0 and file.stat().st_mode & 0o777 == mode


@WAYS
def test_paths_are_relative_to_the_callers_directory(tiny: House, server: int, way: str) -> None:
    place = tiny.tmp / "here"
    place.mkdir()
    with tiny.expected(server, warm=way == "warm"):
        assert tiny.run("run", "--rm", "--cidfile", "id", "tiny", "true", way=way, cwd=place)[0] == 0
    assert (place / "id").exists()


@WAYS
def test_a_directory_that_is_gone(tiny: House, server: int, way: str) -> None:
    gone = 'mkdir gone; cd gone; rmdir ../gone; exec "$@"'
    with tiny.expected(server, warm=way == "warm"):
        assert tiny.run("run", "--rm", "tiny", "pwd", way=way, wrap=["sh", "-c", gone, "sh"]) == (
            0,
            b"/\n",
            b"",
        )


@WAYS
def test_words_and_variables_are_bytes(tiny: House, server: int, way: str) -> None:
    odd = b"a\xff\n=\xc3\xbc"
    words: list[str | bytes] = [
        "run",
        "--rm",
        "-e",
        "ODD",
        "tiny",
        "sh",
        "-c",
        'printf "%s|" "$ODD" "$@"',
        "sh",
    ]
    with tiny.expected(server, warm=way == "warm"):
        done = tiny.run(*words, odd, b"", "x", way=way, env={b"ODD": odd})
    assert done == (0, odd + b"|" + odd + b"||x|", b"")


@WAYS
def test_many_words_and_a_large_environment(tiny: House, server: int, way: str) -> None:
    many = ["word"] * 20_000
    large = {f"LARGE_{n}": "x" * 100_000 for n in range(10)}
    with tiny.expected(server, warm=way == "warm"):
        done = tiny.run(
            "run",
            "--rm",
            "-e",
            "LARGE_7",
            "tiny",
            "sh",
            "-c",
            "echo $# ${#LARGE_7}",
            "sh",
            *many,
            way=way,
            env=large,
        )
    assert done == (0, b"20000 100000\n", b"")


def test_nothing_of_an_environment_reaches_the_next_command(tiny: House, server: int) -> None:
    words = ["run", "--rm", "-e", "SECRET", "tiny", "sh", "-c", 'echo "${SECRET-unset}"']
    assert tiny.run(*words, env={"SECRET": "known"}) == (0, b"known\n", b"")
    for _ in range(3):
        with tiny.expected(server, warm=True):
            assert tiny.run(*words) == (0, b"unset\n", b"")


@WAYS
def test_further_descriptors_are_the_commands_under_their_numbers(tiny: House, server: int, way: str) -> None:
    variables = tiny.tmp / "variables"
    variables.write_text("GIVEN=through a descriptor\n")
    words = ["run", "--rm", "--env-file", "/dev/fd/77", "tiny", "sh", "-c", 'echo "$GIVEN"']
    with open(variables, "rb") as file, tiny.expected(server, warm=way == "warm"):
        os.dup2(file.fileno(), 77)
        try:
            done = tiny.run(*words, way=way, pass_fds=[77])
        finally:
            os.close(77)
    assert done == (0, b"through a descriptor\n", b"")


# -- signals


def sleeping(
    house: House, way: str, script: str = "", *, seconds: str = "", **options: Any
) -> subprocess.Popen[bytes]:
    """A command whose container has begun; without a script it is a sleep, and has nothing of a shell any more. A
    script may wait for the file `gate` of the house, see `waiting_for`.
    """
    seconds = seconds or unlike_others()
    script = script or f"echo begun; exec sleep {seconds}"
    shared = ("-v", f"{house.tmp}:{house.tmp}")
    process = house.popen("run", "--rm", *shared, "tiny", "sh", "-c", script, way=way, **options)
    assert process.stdout is not None and process.stdout.readline() == b"begun\n"
    if seconds in script:
        until(lambda: sleeper(seconds), "no container")
    return process


def waiting_for(gate: Path, then: str) -> str:
    """A script that has begun, and goes on when *gate* is there."""
    return f"echo begun; while [ ! -e {gate} ]; do sleep 0.05; done; {then}"


def containers(house: House) -> list[str]:
    return os.listdir(f"{house.env['LAMINA_ROOT']}/running")


@WAYS
@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1]
)
def test_a_signal_ends_the_container_and_the_command(tiny: House, server: int, way: str, number: int) -> None:
    with tiny.expected(server, warm=way == "warm"), sleeping(tiny, way) as process:
        process.send_signal(number)
        process.communicate(timeout=200)
    assert process.returncode == 128 + number
    assert containers(tiny) == []


@WAYS
def test_a_signal_reaches_the_containers_own_handler(tiny: House, server: int, way: str) -> None:
    script = "trap 'echo heard; exit 9' TERM; echo begun; while :; do sleep 0.1; done"
    with tiny.expected(server, warm=way == "warm"), sleeping(tiny, way, script) as process:
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=200) == (b"heard\n", b"")
    assert process.returncode == 9


@WAYS
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, -15), (signal.SIGINT, 130), (signal.SIGUSR2, -12)]
)
def test_a_command_that_catches_nothing_dies_by_the_signal(
    tiny: House, server: int, way: str, number: int, status: int
) -> None:
    container = tiny.popen(
        "run", "--name", "one", "tiny", "sh", "-c", "echo begun; exec sleep 60", way="cold"
    )
    with container:
        assert container.stdout is not None and container.stdout.readline() == b"begun\n"
        with tiny.expected(server, warm=way == "warm"), tiny.popen("logs", "-f", "one", way=way) as process:
            assert process.stdout is not None and process.stdout.readline() == b"begun\n"
            process.send_signal(number)
            process.communicate(timeout=200)
        assert process.returncode == status
        container.kill()


@WAYS
def test_what_the_caller_ignores_stays_ignored(tiny: House, server: int, way: str) -> None:
    ignoring, gate = ["sh", "-c", 'trap "" HUP INT; exec "$@"', "sh"], tiny.tmp / "gate"
    with (
        tiny.expected(server, warm=way == "warm"),
        sleeping(tiny, way, waiting_for(gate, "echo ended"), wrap=ignoring) as process,
    ):
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)  # for what they must not do
        gate.touch()
        assert process.communicate(timeout=200) == (b"ended\n", b"")
    assert process.returncode == 0


@WAYS
def test_it_stops_and_goes_on(tiny: House, server: int, way: str) -> None:
    gate = tiny.tmp / "gate"
    script = waiting_for(gate, "echo ended")
    with tiny.expected(server, warm=way == "warm"), sleeping(tiny, way, script, process_group=0) as process:
        process.send_signal(signal.SIGTSTP)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGTSTP
        gate.touch()
        process.send_signal(signal.SIGCONT)
        assert process.communicate(timeout=200) == (b"ended\n", b"")
    assert process.returncode == 0


@WAYS
def test_a_command_that_is_killed_takes_its_container_along(tiny: House, server: int, way: str) -> None:
    seconds = unlike_others()
    with (
        tiny.expected(server, warm=way == "warm"),
        sleeping(tiny, way, seconds=seconds) as process,
    ):
        inside = sleeper(seconds)
        process.kill()
        process.wait(200)
        until(lambda: not alive(inside), "the container outlived the command")


# -- nobody is needed


def test_a_worker_that_is_killed_is_reported_as_the_command_would_be(tiny: House, server: int) -> None:
    seconds = unlike_others()
    parked = until(lambda: tiny.parked(server), "no worker")
    with sleeping(tiny, "warm", seconds=seconds) as process:
        inside = sleeper(seconds)
        os.kill(parked, signal.SIGKILL)
        process.communicate(timeout=200)
        assert process.returncode == -signal.SIGKILL
        until(lambda: not alive(inside), "the container outlived the command")


def test_a_command_goes_on_without_the_warm_process(tiny: House, server: int) -> None:
    gate = tiny.tmp / "gate"
    with sleeping(tiny, "warm", waiting_for(gate, "echo ended; exit 4")) as process:
        os.kill(server, signal.SIGKILL)
        until(lambda: not alive(server), "it lives")
        gate.touch()
        assert process.communicate(timeout=200) == (b"ended\n", b"")
        assert process.returncode == 4
    assert tiny.run("run", "--rm", "tiny", "echo", "again") == (0, b"again\n", b"")


@pytest.mark.parametrize("who", ["both", "worker"])
def test_a_warm_process_that_hangs_is_waited_for_a_moment_and_nothing_is_done_twice(
    tiny: House, server: int, who: str
) -> None:
    patient = tiny.command.rename(tiny.tmp / "patient")
    compile_client(tiny.command, further="")
    parked = until(lambda: tiny.parked(server), "no worker")
    stopped = (server, parked) if who == "both" else (parked,)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    script = f"echo once >> {tiny.tmp}/count"
    done = tiny.run("run", "--rm", "-v", f"{tiny.tmp}:{tiny.tmp}", "tiny", "sh", "-c", script)
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    assert done == (0, b"", b"")
    patient.rename(tiny.command)
    with tiny.expected(server, warm=True):
        assert tiny.run("version")[0] == 0
    time.sleep(0.2)
    assert (tiny.tmp / "count").read_text() == "once\n"
