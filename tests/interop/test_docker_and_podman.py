"""podman 5 (conmon) and docker 26 (its containerd's shim) with `lamina-runtime` for runc, in the peers root."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.busybox import ON_TERMINAL
from support.engines import ENGINES, Engine
from support.peers import PATIENCE, PeerRoot, at_rest

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.peer("unshare", "nsenter", "mount", "busybox")]

COUNT = "trap 'echo asked; exit 4' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"
IDLE = ("--stop-signal", "KILL", "box", "sleep", "1000")
FORKS = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 5 & done"


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest, peer_root: PeerRoot, tmp_path: Path) -> Engine:
    return ENGINES[request.param](peer_root, tmp_path)


def until_it_counts(engine: Engine, name: str, beyond: int = 0) -> int:
    """Wait until the container has written more than *beyond* lines; how many."""
    end = time.monotonic() + PATIENCE
    while engine("logs", name).returncode:
        assert time.monotonic() < end, f"there is no {name}"
        time.sleep(0.05)
    while (count := len(engine.lines(name))) <= beyond:
        assert time.monotonic() < end, f"{name} does not go on"
        time.sleep(0.05)
    return count


def test_from_the_first_to_the_last_breath(engine: Engine) -> None:
    engine("run", "-d", "--name", "counter", "box", "sh", "-c", COUNT, check=True)
    until_it_counts(engine, "counter")
    assert engine.state("counter")["Status"] == "running"
    done = engine("exec", "counter", "sh", "-c", "id -u; echo err >&2; exit 5")
    assert (done.returncode, done.stdout) == (5, "0\n")
    assert "err" in done.stderr
    assert engine("exec", "-i", "counter", "cat", input="through").stdout == "through"
    assert engine("exec", "--user", "5:6", "-w", "/tmp", "counter", "id", "-u").stdout == "5\n"
    missing = engine("exec", "counter", "no-such")
    assert missing.returncode == {"docker": 126, "podman": 127}[engine.program]  # as with runc
    assert "executable file not found" in missing.stdout + missing.stderr
    assert "sh -c trap" in engine("top", "counter", check=True).stdout

    engine("pause", "counter", check=True)
    assert engine.state("counter")["Status"] == "paused"
    count = at_rest(lambda: len(engine.lines("counter")))
    engine("unpause", "counter", check=True)
    until_it_counts(engine, "counter", count)

    engine("stop", "-t", "100", "counter", check=True)
    state = engine.state("counter")
    assert (state["Status"], state["ExitCode"]) == ("exited", 4)
    assert engine.lines("counter")[-1] == "asked"
    engine("start", "counter", check=True)
    until_it_counts(engine, "counter", count)
    engine("kill", "counter", check=True)
    assert engine("wait", "counter", check=True).stdout == "137\n"
    engine("rm", "counter", check=True)
    assert engine.left() == []


def test_in_the_foreground(engine: Engine) -> None:
    done = engine("run", "--rm", "box", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout) == (7, "out\n"), done.stderr
    assert done.stderr.startswith("err")
    done = engine("run", "--rm", "-i", "box", "cat", input="through")
    assert (done.returncode, done.stdout) == (0, "through"), done.stderr
    missing = engine("run", "--rm", "box", "no-such")
    assert missing.returncode == 127
    assert "executable file not found in $PATH" in missing.stderr
    assert engine("run", "--rm", "box", "/etc").returncode == 126
    done = engine("run", "--rm", "--init", "box", "sh", "-c", "ps; exit 6")
    assert done.returncode == 6 and "init" in done.stdout.splitlines()[1]
    assert engine.left() == []


def test_with_a_terminal(engine: Engine) -> None:
    shown = engine.in_terminal("run", "--rm", "-it", "box", "sh", "-c", ON_TERMINAL, last="all")
    assert shown.split() == ["/dev/pts/0", "7", "70", "all"], shown
    engine("run", "-d", "--name", "idle", *IDLE, check=True)
    shown = engine.in_terminal("exec", "-it", "idle", "sh", "-c", ON_TERMINAL, last="all")
    assert shown.split() == ["/dev/pts/0", "7", "70", "all"], shown
    engine("rm", "-f", "idle", check=True)
    assert engine.left() == []


def test_limits(engine: Engine) -> None:
    # who watches its group may begin that when it runs already
    wait = "echo started; until test -e /go; do sleep 0.1; done"
    script = f'{wait}; x=0123456789abcdef; while :; do x="$x$x"; done'
    with engine.popen("run", "--name", "hog", "--memory", "32m", "box", "sh", "-c", script) as hog:
        try:
            until_it_counts(engine, "hog")
            engine("exec", "hog", "sh", "-c", ": >/go", check=True)
            stdout, stderr = hog.communicate(timeout=200)
        except BaseException:
            hog.kill()
            raise
    assert (hog.returncode, stdout) == (137, "started\n"), stderr
    assert engine.state("hog")["OOMKilled"] is True
    engine("rm", "hog", check=True)
    done = engine("run", "--rm", "--pids-limit", "8", "box", "sh", "-c", FORKS)
    assert "can't fork" in done.stderr, done.stderr
    engine("run", "-d", "--name", "idle", "--memory", "64m", "--cpus", "0.5", *IDLE, check=True)
    engine("update", "--memory", "80m", "--memory-swap", "80m", "--cpus", "0.25", "idle", check=True)
    stats = engine("stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "idle", check=True).stdout
    assert stats.split()[-1] == "1" and ("80MiB" in stats or "83.89MB" in stats), stats
    engine("rm", "-f", "idle", check=True)
    assert engine.left() == []


def test_what_it_may_not(engine: Engine) -> None:
    words = (
        "--read-only",
        "--tmpfs",
        "/tmp:mode=1777",
        "--user",
        "5:6",
        "--cap-drop",
        "ALL",
        "--hostname",
        "elsewhere",
    )
    script = (
        "id -u; echo in >/tmp/a && echo written; echo x >/b || echo refused; cat /proc/sys/kernel/hostname"
    )
    script += "; while read name value; do case $name in CapEff:|NoNewPrivs:|Seccomp:) echo $value;; esac"
    script += "; done </proc/self/status"
    done = engine(
        "run", "--rm", *words, "--security-opt", "no-new-privileges", "box", "sh", "-c", script, check=True
    )
    assert done.stdout.split() == ["5", "written", "refused", "elsewhere", "0" * 16, "1", "2"]
    done = engine("run", "--rm", "--privileged", "box", "sh", "-c", "echo 7 >/proc/sys/net/ipv4/ip_forward")
    assert done.returncode == 0, done.stderr
    assert engine.left() == []


def test_fifty_at_once(engine: Engine) -> None:
    names = [f"one-of-many-{number}" for number in range(50)]

    def run(name: str) -> None:
        engine("run", "-d", "--name", name, *IDLE, check=True)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, names))
    listed = engine("ps", "--format", "{{.Names}}", check=True).stdout.split()
    assert sorted(listed) == sorted(names)
    engine("rm", "-f", *names, check=True, timeout=280)
    assert engine.left() == []
