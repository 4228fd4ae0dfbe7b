"""Verbs that look at what runs, and hold it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from support.lives import until

pytestmark = pytest.mark.root

Lamina = Callable[..., "subprocess.CompletedProcess[str]"]


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{done.args}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def box(lamina: Lamina) -> Iterator[str]:
    ok(lamina("run", "-d", "--name", "box", "host", "--", "sh", "-c", "sleep 1000 & echo both; wait"))
    until(lambda: lamina("logs", "box").stdout == "both\n")
    yield "box"
    ok(lamina("rm", "-f", "box"))


def test_pause_and_unpause(lamina: Lamina, box: str) -> None:
    assert ok(lamina("pause", box)) == "box\n"
    status = ok(lamina("ps", "--format", "{{.State}} {{.Status}}", "--filter", "status=paused"))
    assert status.startswith("paused Up ")
    assert status.endswith(" (Paused)\n")
    again = lamina("pause", "nosuch", box)
    assert again.returncode == 1
    assert "nosuch: no such container" in again.stderr
    assert "it is already paused" in again.stderr
    assert lamina("exec", box, "true").returncode == 125
    assert ok(lamina("container", "unpause", box)) == "box\n"
    refused = lamina("unpause", box)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "it is not paused" in refused.stderr


def test_top(lamina: Lamina, box: str) -> None:
    heading, first, *_ = ok(lamina("top", box)).splitlines()
    assert heading.split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert first.endswith("sh -c sleep 1000 & echo both; wait")
    assert ok(lamina("top", box, "-o", "args=WHAT")).splitlines()[0] == "WHAT"
    wrong = lamina("container", "top", box, "-o", "nosuch")
    assert (wrong.returncode, "there is no column 'nosuch'" in wrong.stderr) == (125, True)


def test_the_names_of_processes_do_not_move_the_cursor(lamina: Lamina) -> None:
    script = "exec -a $'\\e]0;title\\a\\nroot' sleep 1000"
    ok(lamina("run", "-d", "--name", "evil", "host", "--", "bash", "-c", script))
    try:
        until(lambda: "bash" not in ok(lamina("top", "evil", "-o", "args")))  # which executes it
        seen = ok(lamina("top", "evil", "-o", "args"))
    finally:
        ok(lamina("rm", "-f", "evil"))
    assert seen.splitlines()[1] == "^[]0;title^G^Jroot 1000"


def test_stats(lamina: Lamina, box: str) -> None:
    heading, line = ok(lamina("stats", "--no-stream")).splitlines()
    assert heading.split("  ")[0] == "CONTAINER ID"
    assert line.split()[1] == "box"
    template = "{{.Name}}|{{.CPUPerc}}|{{.MemUsage}}|{{.MemPerc}}|{{.NetIO}}|{{.PIDs}}"
    name, cpu, memory, share, network, pids = (
        ok(lamina("stats", "--no-stream", "--format", template, box)).strip().split("|")
    )
    assert (name, network, pids) == ("box", "0B / 0B", "2")
    assert re.fullmatch(r"\d+\.\d\d%", cpu)
    assert re.fullmatch(r"\d+\.\d\d%", share)
    assert re.fullmatch(r"[\d.]+[KM]iB / [\d.]+GiB", memory)
    record = json.loads(
        ok(lamina("container", "stats", "--no-stream", "--format", "json", "--no-trunc", box))
    )
    assert (record["Name"], record["PIDs"], len(record["ID"])) == ("box", "2", 64)
    assert lamina("stats", "nosuch").returncode != 0


def test_stats_of_those_which_do_not_run(lamina: Lamina) -> None:
    ok(lamina("create", "--name", "rests", "host", "true"))
    assert ok(lamina("stats", "--no-stream", "--format", "{{.Name}}")) == ""
    shown = ok(
        lamina("stats", "-a", "--no-stream", "--format", "{{.Name}} {{.CPUPerc}} {{.MemUsage}} {{.PIDs}}")
    )
    assert shown == "rests -- -- / -- --\n"


def test_stats_come_again_until_the_container_is_gone(lamina: Lamina) -> None:
    ok(lamina("run", "-d", "--name", "goes", "host", "--", "sleep", "1000"))
    words = [sys.executable, "-m", "lamina", "stats", "--format", "{{.Name}}", "goes"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as shown:
        assert shown.stdout is not None
        assert [shown.stdout.readline(), shown.stdout.readline()] == ["goes\n", "goes\n"]
        ok(lamina("rm", "-f", "goes"))
        assert shown.wait(100) == 0


def test_update(lamina: Lamina, box: str) -> None:
    assert (
        ok(lamina("update", "-m", "64m", "--pids-limit", "50", "--restart", "on-failure:3", box)) == "box\n"
    )
    (found,) = json.loads(ok(lamina("inspect", box)))
    asked = found["HostConfig"]
    assert (asked["Memory"], asked["PidsLimit"]) == (64 << 20, 50)
    assert asked["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    wrong = lamina("container", "update", "--memory", "lots", "nosuch", box)
    assert (wrong.returncode, wrong.stdout) == (125, "")
    assert "update: memory lots: not a size" in wrong.stderr
    missing = lamina("container", "update", "--memory", "70m", "nosuch", box)
    assert (missing.returncode, missing.stdout) == (1, "box\n")
    assert "nosuch: no such container" in missing.stderr
    nothing = lamina("update", box)
    assert (nothing.returncode, nothing.stderr) == (
        125,
        "lamina: update: nothing to change\nhint: 'lamina update --help' shows what can be\n",
    )
