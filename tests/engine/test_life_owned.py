"""Sandboxes that belong to a process: when it ends, however that comes, nothing of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina import Engine
from lamina.engine import detaching
from lamina.errors import InvalidInput
from support.leaks import Leaks
from support.lives import until

pytestmark = pytest.mark.root

OWNER = """if True:
    import sys, time
    from lamina import Engine
    engine = Engine(sys.argv[1])
    for _ in range(int(sys.argv[2])):
        engine.start("host", ["sh", "-c", "sleep 1000 & wait"], lifetime="owner", restart=sys.argv[3])
    print("ready", flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def owners(store_root: Path, untouched_host: Leaks) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    made: list[subprocess.Popen[str]] = []

    def start(count: int, restart: str = "no") -> subprocess.Popen[str]:
        words = [sys.executable, "-c", OWNER, str(store_root), str(count), restart]
        made.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        return made[-1]

    yield start
    for one in made:
        one.kill()
        one.wait()
        assert one.stdout is not None
        one.stdout.close()


def ready(owner: subprocess.Popen[str]) -> None:
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ready\n"


def left(root: Path) -> list[str]:
    places = ("containers", "names", "running", "tmp")
    return [str(path) for place in places for path in (root / place).iterdir()]


def test_they_go_with_their_owner(
    owners: Callable[..., subprocess.Popen[str]], store_root: Path, untouched_host: Leaks
) -> None:
    killed, ended = owners(3), owners(2, "always")
    ready(killed)
    ready(ended)
    assert len(Engine(store_root).containers()) == 5
    killed.kill()
    until(lambda: len(list((store_root / "containers").iterdir())) == 2)
    ended.terminate()
    until(lambda: not left(store_root))  # without a command that cleans up
    assert untouched_host.left() == []


def test_one_dies_with_its_supervisor_and_goes_with_the_next_command(
    owners: Callable[..., subprocess.Popen[str]], store_root: Path, untouched_host: Leaks
) -> None:
    owner = owners(1)
    ready(owner)
    engine = Engine(store_root)
    (box,) = engine.containers()
    pid = int(box.inspect()["State"]["Pid"])
    os.kill(int(box._home.read("state")["supervisor"]["pid"]), signal.SIGKILL)  # type: ignore[index]
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    owner.kill()
    owner.wait()
    assert engine.containers(all=True) == []
    until(lambda: not left(store_root))


def test_one_whose_owner_is_gone_is_removed_before_it_is_started(
    store_root: Path, untouched_host: Leaks
) -> None:
    engine = Engine(store_root)
    with subprocess.Popen(["sleep", "1000"]) as owner:
        box = engine.create("host", ["true"], lifetime="owner", owner=owner.pid)
        assert engine.container(box.id).state == "created"
        owner.kill()
    assert engine.containers(all=True) == []
    with pytest.raises(InvalidInput, match="no process"):
        engine.create("host", ["true"], lifetime="owner", owner=owner.pid)
    assert not left(store_root)


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each supervisor is executed, not forked by a nursery: its command line says of which store it is."""
    monkeypatch.setattr(detaching, "SOON", 0.0)


def processes_of(root: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(root).encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(entry.name)
        except OSError:
            continue
    return found


@pytest.mark.usefixtures("apart")
def test_one_that_ended_goes_with_its_owner_as_well(store_root: Path, untouched_host: Leaks) -> None:
    engine = Engine(store_root)
    with subprocess.Popen(["sleep", "1000"]) as owner:
        box = engine.create("host", ["true"], lifetime="owner", owner=owner.pid)
        for _ in range(3):
            box.start()
            assert box.wait() == 0
            until(lambda: box.state == "exited")
        until(lambda: len(processes_of(store_root)) == 1)  # one guard, the newest
        assert engine.containers(all=True)[0].id == box.id
        owner.kill()
    until(lambda: not left(store_root))
    until(lambda: not processes_of(store_root))


@pytest.mark.usefixtures("apart")
def test_removing_one_that_ended_leaves_nobody_waiting(store_root: Path, untouched_host: Leaks) -> None:
    engine = Engine(store_root)
    box = engine.start("host", ["true"], lifetime="owner")
    box.wait()
    until(lambda: box.state == "exited" and processes_of(store_root))
    box.remove()
    until(lambda: not processes_of(store_root))
    assert not left(store_root)


def test_on_the_command_line_the_owner_is_who_called(
    lamina: Callable[..., subprocess.CompletedProcess[str]], store_root: Path, untouched_host: Leaks
) -> None:
    script = f'"{sys.executable}" -m lamina run -d --lifetime owner host sleep 1000; read line'
    with subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as shell:
        assert shell.stdout is not None
        identity = shell.stdout.readline().strip()
        assert lamina("ps", "-q", "--no-trunc").stdout.split() == [identity]
        shell.kill()
    until(lambda: not left(store_root))


@pytest.mark.slow
def test_owners_of_a_hundred_are_killed(
    owners: Callable[..., subprocess.Popen[str]], store_root: Path, untouched_host: Leaks
) -> None:
    made = [owners(25) for _ in range(4)]
    for owner in made:
        ready(owner)
    assert len(list((store_root / "containers").iterdir())) == 100
    for owner in made:
        owner.kill()
    until(lambda: not left(store_root), 200)
    assert untouched_host.left() == []
