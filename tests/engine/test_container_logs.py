"""Logs of containers by every driver: of those that run in the foreground and of those that live by themselves."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lamina import Container, Engine
from lamina.errors import InvalidInput, NotFound, Unsupported
from support.lives import Command, place_of, until
from support.terminal import lamina as command

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox"), pytest.mark.usefixtures("tiny")]

WRITTEN = {"local": "log", "json-file": "{id}-json.log", "k8s-file": "ctr.log"}
SCRIPT = ["sh", "-c", "echo out; echo err >&2; printf half"]


def ended(engine: Engine, foreground: bool, words: list[str], **options: Any) -> Container:
    """A container that ran to its end."""
    if foreground:
        engine.run("tiny", words, name="box", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
        return engine.container("box")
    box = engine.start("tiny", words, name="box", **options)
    box.wait()
    until(lambda: box.state == "exited")
    return box


def place(box: Container, name: str) -> Path:
    return place_of(box) / name.format(id=box.id)


both = pytest.mark.parametrize("foreground", [True, False])


@both
@pytest.mark.parametrize("driver", list(WRITTEN))
def test_each_driver_keeps_what_was_written(
    engine: Engine, lamina: Command, foreground: bool, driver: str
) -> None:
    box = ended(engine, foreground, SCRIPT, log_driver=driver)
    done = lamina("logs", "box")
    assert (done.stdout, done.stderr) == ("out\nhalf", "err\n")
    path = place(box, WRITTEN[driver])
    assert path.exists()
    shown = box.inspect()
    assert (shown["LogPath"], shown["HostConfig"]["LogConfig"]["Type"]) == (str(path), driver)


@both
def test_nothing_is_kept_where_that_was_asked(engine: Engine, lamina: Command, foreground: bool) -> None:
    box = ended(engine, foreground, SCRIPT, log_driver="none")
    with pytest.raises(Unsupported, match="keeps nothing"):
        box.logs()
    done = lamina("logs", "box")
    assert (done.returncode, "log driver is none" in done.stderr) == (125, True)
    assert box.inspect()["LogPath"] == ""


def test_passed_through_the_streams_are_the_callers(engine: Engine, lamina: Command) -> None:
    script = (
        "readlink /proc/self/fd/1 /proc/self/fd/2 || { readlink /proc/self/fd/1; readlink /proc/self/fd/2; }"
    )
    done = lamina("run", "--rm", "--log-driver", "passthrough", "tiny", "sh", "-c", script)
    assert done.returncode == 0
    reader, writer = os.pipe()
    words = command(
        "run", "--log-driver", "passthrough", "--name", "box", "tiny", "readlink", "/proc/self/fd/1"
    )
    try:
        subprocess.run(words, stdout=writer, check=True, timeout=200)
        mine = os.readlink(f"/proc/self/fd/{writer}")
    finally:
        os.close(writer)
    with open(reader) as output:
        assert output.read() == f"{mine}\n"
    refused = lamina("run", "-d", "--log-driver", "passthrough", "tiny", "true")
    assert (refused.returncode, "passthrough" in refused.stderr) == (125, True)


@both
def test_rotation_and_what_is_noted(engine: Engine, lamina: Command, foreground: bool) -> None:
    options = ["max-size=2k", "max-file=2", "labels=team", "env=MODE,PATH"]
    box = ended(
        engine, foreground, ["sh", "-c", "seq 200"], log_driver="json-file", log_opt=options, labels=["team=red"],
        env=["MODE=fast"],
    )  # fmt: skip
    files = sorted(path.name for path in place(box, "x").parent.glob("*-json.log*"))
    assert files == [f"{box.id}-json.log", f"{box.id}-json.log.1"]
    lines = lamina("logs", "box").stdout.split()
    assert lines == [str(n) for n in range(int(lines[0]), 201)]
    assert len(lines) < 200
    first = json.loads(place(box, "{id}-json.log.1").read_text().splitlines()[0])
    assert first["attrs"] == {"MODE": "fast", "PATH": "/bin:/usr/bin", "team": "red"}
    done = lamina("logs", "--details", "--tail", "1", "box")
    assert done.stdout == "MODE=fast,PATH=/bin:/usr/bin,team=red 200\n"
    assert lamina("logs", "--tail", "3", "box").stdout == "198\n199\n200\n"


def test_what_is_written_later_follows(engine: Engine, tmp_path: Path) -> None:
    """Through rotation, until its end, and also if it is removed then."""
    script = (
        "echo 1; until [ -e /gate/open ]; do sleep 0.02; done;"
        " for n in $(seq 2 400); do echo $n; [ $((n % 100)) = 0 ] && sleep 0.2; done"
    )
    rotated = {"max-size": "2k", "max-file": "50"}
    box = engine.start(
        "tiny", ["sh", "-c", script], name="box", log_opt=rotated, rm=True, volumes=[f"{tmp_path}:/gate"]
    )
    with subprocess.Popen(command("logs", "-f", "box"), stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "1\n"
        (tmp_path / "open").touch()
        assert follower.stdout.read().split() == [str(n) for n in range(2, 401)]
        assert follower.wait(100) == 0
    until(lambda: not engine.containers(all=True))
    with pytest.raises(NotFound):
        box.logs()


def test_a_start_goes_on_with_the_log(engine: Engine) -> None:
    for driver in WRITTEN:
        box = ended(engine, False, SCRIPT, log_driver=driver)
        box.start()
        box.wait()
        until(lambda: box.state == "exited")  # noqa: B023
        found = b"".join(entry.data for entry in box.logs() if entry.stream == "stdout")
        assert found == b"out\nhalfout\nhalf"
        box.remove()


def test_a_log_that_is_gone_is_said_to_be(engine: Engine, lamina: Command) -> None:
    made = engine.create("tiny", ["true"], name="box")
    assert list(made.logs()) == []  # there never was one
    made.remove()
    box = ended(engine, False, SCRIPT)
    place(box, "log").unlink()
    done = lamina("logs", "box")
    assert (done.returncode, "was removed" in done.stderr) == (125, True)


def test_a_log_that_is_damaged_is_said_to_be(engine: Engine, lamina: Command) -> None:
    box = ended(engine, True, SCRIPT)
    place(box, "log").write_bytes(b"nonsense" * 10)
    done = lamina("logs", "box")
    assert (done.returncode, "no frame begins" in done.stderr) == (125, True)


@pytest.mark.parametrize(
    ("options", "about"),
    [
        (["--log-driver", "syslog"], "syslog"),
        (["--log-opt", "nosuch=1"], "nosuch"),
        (["--log-opt", "max-size"], "max-size"),
        (["--log-opt", "max-size=-1"], "max-size"),
        (["--log-driver", "none", "--log-opt", "max-size=1m"], "max-size"),
        (["--log-opt", "max-file=0"], "max-file"),
    ],
)
def test_what_cannot_be_meant_makes_no_container(
    engine: Engine, lamina: Command, options: list[str], about: str
) -> None:
    done = lamina("run", *options, "tiny", "true")
    assert (done.returncode, about in done.stderr) == (125, True), done.stderr
    with pytest.raises(InvalidInput):
        engine.create("tiny", ["true"], log_driver="syslog")
    assert engine.containers(all=True) == []


@pytest.mark.parametrize(
    "typed", ["10m", "1h30m", "0s", "1714564800", "1714564800.5", "2024-05-01T12:00:00Z", "2024-05-01"]
)
def test_times_as_docker_takes_them(engine: Engine, lamina: Command, typed: str) -> None:
    ended(engine, True, SCRIPT)
    done = lamina("logs", "--since", typed, "box")
    assert (done.returncode, done.stderr) == (0, "" if typed == "0s" else "err\n")
    before = lamina("logs", "--until", typed, "box")
    assert before.stdout == ("out\nhalf" if typed == "0s" else "")


@pytest.mark.parametrize("typed", ["yesterday", "", "10", "nan", "inf", "1e9", "10x", "-"])
def test_what_is_no_time(lamina: Command, typed: str) -> None:
    done = lamina("logs", "--since", typed, "box")
    if typed == "10":  # the tenth second of 1970, and there is no such container
        assert done.returncode == 125
        return
    assert (done.returncode, "not a time" in done.stderr) == (125, True)
