"""Containers on a machine with control groups of v2 alone, and with a clock that somebody sets while they live."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.errors import Conflict

# such a machine takes seconds to start Python
pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(600)]

MIB = 1 << 20
YEAR = 365 * 86_400


def eventually(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def words_of(engine: Engine, *words: str) -> list[str]:
    return [sys.executable, "-m", "lamina", "--root", os.fsdecode(engine.store.path), *words]


def environment() -> dict[str, str]:
    """A machine that has no more than the sources."""
    place = str(Path(__file__).resolve().parents[2] / "src")
    return {**os.environ, "PYTHONPATH": place, "LAMINA_WARM": "0"}


def lamina(engine: Engine, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words_of(engine, *words), env=environment(), capture_output=True, text=True, check=False, timeout=120
    )


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{done.args}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def group_of(box: Container) -> Path:
    """Its one control group: everything of v2 is in one tree."""
    pid = box.inspect()["State"]["Pid"]
    (line,) = [
        line for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if line.startswith("0::")
    ]
    return Path("/sys/fs/cgroup" + line.removeprefix("0::"))


def removed(box: Container) -> bool:
    try:
        box.remove(force=True)
    except Conflict:
        return False
    return True


@pytest.fixture
def engine(store_root: Path) -> Iterator[Engine]:
    engine = Engine(store_root)
    yield engine
    for container in engine.containers(all=True):
        eventually(lambda: removed(container))  # noqa: B023  a supervisor takes its time on such a machine
    assert not Path("/sys/fs/cgroup/lamina").exists() or not list(Path("/sys/fs/cgroup/lamina").glob("*/"))


# -- pause, update, stats, top


def test_stats_count_what_every_controller_has(engine: Engine) -> None:
    script = "head -c 20m /dev/zero | tail -c 20m | (sleep 1000) & while :; do :; done"
    ok(lamina(engine, "run", "-d", "--name", "box", "--memory", "64m", "host", "--", "sh", "-c", script))
    box = engine.container("box")
    eventually(lambda: (box.stats().memory_bytes or 0) > 16 * MIB)
    (line,) = ok(lamina(engine, "stats", "--no-stream", "--format", "json", "box")).splitlines()
    shown = json.loads(line)
    assert shown["Name"] == "box"
    assert float(shown["CPUPerc"].rstrip("%")) > 1
    assert shown["MemUsage"].endswith(" / 64MiB")
    assert float(shown["MemPerc"].rstrip("%")) > 25
    assert int(shown["PIDs"]) >= 3
    assert shown["NetIO"] == "0B / 0B"
    assert "--" not in shown["BlockIO"]


def test_pausing_freezes_its_group(engine: Engine) -> None:
    ok(lamina(engine, "run", "-d", "--name", "box", "host", "--", "sh", "-c", "while :; do :; done"))
    box = engine.container("box")
    ok(lamina(engine, "pause", "box"))
    group = group_of(box)
    assert "frozen 1" in (group / "cgroup.events").read_text()
    used = (group / "cpu.stat").read_text().splitlines()[0]
    assert ok(lamina(engine, "ps", "--format", "{{.Names}} {{.State}}")) == "box paused\n"
    done = lamina(engine, "exec", "box", "true")
    assert done.returncode == 125
    assert "paused" in done.stderr
    assert (group / "cpu.stat").read_text().splitlines()[0] == used
    ok(lamina(engine, "unpause", "box"))
    assert "frozen 0" in (group / "cgroup.events").read_text()
    ok(lamina(engine, "pause", "box"))
    ok(lamina(engine, "rm", "--force", "box"))
    assert not group.exists()


def test_updates_are_written_to_its_group(engine: Engine) -> None:
    ok(lamina(engine, "run", "-d", "--name", "box", "host", "--", "sleep", "1000"))
    group = group_of(engine.container("box"))
    limits = ["--memory", "64m", "--memory-swap", "96m", "--memory-reservation", "32m", "--cpus", "0.5"]
    limits += ["--cpu-shares", "1024", "--pids-limit", "20", "--cpuset-cpus", "0"]
    ok(lamina(engine, "update", *limits, "box"))
    files = (
        "memory.max",
        "memory.swap.max",
        "memory.low",
        "cpu.max",
        "cpu.weight",
        "pids.max",
        "cpuset.cpus",
    )
    assert [(group / name).read_text().strip() for name in files] == [
        *(str(64 * MIB), str(32 * MIB), str(32 * MIB), "50000 100000", "100", "20", "0"),
    ]
    ok(lamina(engine, "restart", "-t", "0", "box"))
    again = group_of(engine.container("box"))
    assert (again / "memory.max").read_text().strip() == str(64 * MIB)
    ok(lamina(engine, "update", "--memory", "0", "--memory-swap", "0", "--pids-limit", "0", "box"))
    assert (again / "memory.max").read_text().strip() == "max"
    assert (again / "pids.max").read_text().strip() == "max"


def test_one_in_the_foreground_gets_its_group_when_it_is_asked_for(engine: Engine) -> None:
    words = words_of(engine, "run", "--rm", "--name", "box", "host", "--", "sleep", "1000")
    with subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE) as running:
        try:
            eventually(lambda: [one for one in engine.containers() if one.state == "running"])
            ok(lamina(engine, "pause", "box"))
            box = engine.container("box")
            assert "frozen 1" in (group_of(box) / "cgroup.events").read_text()
            ok(lamina(engine, "unpause", "box"))
            ok(lamina(engine, "update", "--memory", "64m", "box"))
            assert box.stats().memory_limit_bytes == 64 * MIB
            top = ok(lamina(engine, "top", "box", "-o", "pid,args")).splitlines()
            assert [line.split()[1:] for line in top[1:]] == [["sleep", "1000"]]
        finally:
            lamina(engine, "rm", "--force", "box")
            running.wait(120)


def test_what_died_for_want_of_memory_is_told_apart(engine: Engine) -> None:
    script = "head -c 500m /dev/zero | tail"
    limits = ["--memory", "32m", "--memory-swap", "32m"]
    lamina(engine, "run", "--name", "box", *limits, "host", "--", "sh", "-c", f"{script}; exit 3")
    assert engine.container("box").inspect()["State"]["OOMKilled"] is True


# -- a clock that somebody sets


@pytest.fixture
def jump() -> Iterator[Callable[[float], None]]:
    """Sets the machine's clock so many seconds beside the true time; it is right again afterwards."""
    true = time.time() - time.monotonic()

    def to(offset: float) -> None:
        time.clock_settime(time.CLOCK_REALTIME, true + time.monotonic() + offset)

    yield to
    to(0)


@pytest.mark.parametrize("offset", [-20 * YEAR, 10 * YEAR])
def test_a_clock_that_jumps(engine: Engine, jump: Callable[[float], None], offset: float) -> None:
    """Everything goes on by the clock that nobody can set: logs, pauses between restarts, checks, limits of time."""
    ticks = "for n in $(seq 100000); do echo $n; sleep 0.2; done"
    ok(lamina(engine, "run", "-d", "--name", "ticks", "host", "--", "sh", "-c", ticks))
    ok(lamina(engine, "run", "-d", "--name", "long", "--timeout", "3600", "host", "--", "sleep", "1000"))
    ok(lamina(engine, "run", "-d", "--name", "short", "--timeout", "12", "host", "--", "sleep", "1000"))
    engine.start("host", ["sleep", "1000"], name="well", health_cmd="true", health_interval=0.5)
    fails = ["--restart", "on-failure:3", "host", "--", "sh", "-c", "echo x; exit 7"]
    events = subprocess.Popen(
        words_of(engine, "events", "--format", "{{.Actor.Attributes.name}} {{.Action}}"),
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    logs = subprocess.Popen(
        words_of(engine, "logs", "-f", "ticks"), env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert events.stdout is not None
    assert logs.stdout is not None
    try:
        assert logs.stdout.readline() == "1\n"
        ok(lamina(engine, "run", "-d", "--name", "again", *fails))
        jump(offset)
        boxes = {name: engine.container(name) for name in ("ticks", "long", "short", "well", "again")}
        assert boxes["again"].wait(timeout=120) == 7
        eventually(lambda: boxes["again"].state == "exited")
        assert boxes["again"].restarts == 3
        assert b"".join(entry.data for entry in boxes["again"].logs()) == b"x\n" * 4
        # no line is missing, and more come
        seen = [int(logs.stdout.readline()) for _ in range(10)]
        assert seen == [*range(2, 12)]
        before = boxes["well"].inspect()["State"]["Health"]["Log"][-1]["Start"]
        eventually(lambda: boxes["well"].inspect()["State"]["Health"]["Log"][-1]["Start"] != before)
        assert boxes["well"].health == "healthy"
        assert boxes["short"].wait(timeout=120) == 137
        eventually(lambda: boxes["short"].state == "exited")
        assert boxes["short"].inspect()["State"]["TimedOut"] is True
        assert boxes["long"].state == "running"
        ok(lamina(engine, "stop", "-t", "1", "long"))
        told: list[str] = []
        while "long stop" not in told:  # earlier ones may have been before who follows was there
            told.append(events.stdout.readline().rstrip("\n"))
        assert sorted(ok(lamina(engine, "ps", "--format", "{{.Names}}")).split()) == ["ticks", "well"]
        jump(0)
        assert int(logs.stdout.readline()) == 12
        assert "damaged" not in ok(lamina(engine, "system", "check"))
    finally:
        for process in (events, logs):
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
