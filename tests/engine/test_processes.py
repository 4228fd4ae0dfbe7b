"""The processes of containers, compared with what ps(1) says of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.engine.processes import COLUMNS, read_options
from lamina.errors import Conflict, InvalidInput
from support.lives import until

pytestmark = pytest.mark.root

SAME = (
    *(
        "user",
        "uid",
        "group",
        "gid",
        "pid",
        "ppid",
        "pgid",
        "sid",
        "ni",
        "nlwp",
        "s",
        "tty",
        "vsz",
        "rss",
        "time",
    ),
    *("comm", "args"),
)


def rows(box: Container, *words: str) -> list[list[str]]:
    found: list[list[str]] = box.top(words)["Processes"]
    return found


@pytest.fixture
def box(engine: Engine) -> Container:
    """Two processes, the second one another user's."""
    script = "setpriv --reuid 65534 --regid 65534 --clear-groups sleep 1000 & wait"
    box = engine.start("host", ["sh", "-c", script], name="box")
    until(lambda: ["sleep 1000"] in rows(box, "-o", "args"))
    # then it is loaded, and nothing of what is told of it changes any more
    until(lambda: rows(box, "-o", "s") == [["S"], ["S"]])
    return box


def test_the_columns_are_those_of_docker(box: Container) -> None:
    found = box.top()
    assert found["Titles"] == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    shell, sleep = found["Processes"]
    assert (shell[0], shell[1], shell[-1]) == (
        "root",
        str(box.inspect()["State"]["Pid"]),
        "sh -c setpriv --reuid 65534 --regid 65534 --clear-groups sleep 1000 & wait",
    )
    assert (sleep[0], sleep[2], sleep[-1]) == ("nobody", shell[1], "sleep 1000")
    assert box.top(["aux"])["Titles"] == [
        "USER",
        "PID",
        "%CPU",
        "%MEM",
        "VSZ",
        "RSS",
        "TTY",
        "STAT",
        "START",
        "TIME",
        "COMMAND",
    ]


@pytest.mark.parametrize(
    ("words", "titles"),
    [
        ("-e", "PID TTY TIME CMD"),
        ("-A", "PID TTY TIME CMD"),
        ("-x", "PID TTY STAT TIME COMMAND"),
        ("x", "PID TTY STAT TIME COMMAND"),
        ("-ax", "PID TTY STAT TIME COMMAND"),
        ("aux", "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"),
        ("-fe", "UID PID PPID C STIME TTY TIME CMD"),
    ],
)
def test_options_of_ps(box: Container, words: str, titles: str) -> None:
    """As docker has it with procps-ng: a program's name with -e alone, and minutes where BSD's letters are typed."""
    found = box.top([words])
    assert found["Titles"] == titles.split()
    shell, _ = found["Processes"]
    time = shell[found["Titles"].index("TIME")]
    bsd = "COMMAND" in titles
    assert re.fullmatch(r"\d+:\d\d" if bsd else r"\d\d:\d\d:\d\d", time), time
    assert shell[-1].startswith("sh -c" if words != "-e" and words != "-A" else "sh")
    assert ("sleep 1000" in found["Processes"][1][-1]) == (words not in ("-e", "-A"))


@pytest.mark.peer("ps")
@pytest.mark.parametrize("name", SAME)
def test_each_is_what_ps_says(box: Container, name: str) -> None:
    pids = [pid for (pid,) in rows(box, "-o", "pid")]
    said = subprocess.run(
        ["ps", "-ww", "-o", f"{name}=", "-p", ",".join(pids)], capture_output=True, text=True, check=True
    )
    assert [cell for (cell,) in rows(box, "-o", name)] == [line.strip() for line in said.stdout.splitlines()]


def test_a_terminal_has_its_name(engine: Engine) -> None:
    box = engine.start("host", ["sleep", "1000"], tty=True)
    ((name,),) = rows(box, "-o", "tty")
    assert name.startswith("pts/")


def test_columns_can_be_chosen_and_named() -> None:
    assert read_options(["-eo", "pid=NUMBER,%cpu", "-oargs"]) == [
        ("pid", "NUMBER"),
        ("pcpu", "%CPU"),
        ("args", "COMMAND"),
    ]
    assert {name for name, _ in read_options(["-o", ",".join(COLUMNS)])} == set(COLUMNS)
    assert read_options([]) == read_options(["-ef"]) == read_options(["-e", "-f"])


@pytest.mark.parametrize("words", [["-Z"], ["-o"], ["-o", "pid,nosuch"], ["-"], ["-o", ""], ["1"]])
def test_what_is_not_known_is_said(words: list[str]) -> None:
    with pytest.raises(InvalidInput, match=r"^top: "):
        read_options(words)


def test_one_that_does_not_run_has_none(engine: Engine) -> None:
    box = engine.create("host", ["true"], name="box")
    with pytest.raises(Conflict, match="top container box: it is not running"):
        box.top()


def test_a_paused_one_has_them(box: Container) -> None:
    box.pause()
    assert len(rows(box)) == 2


def test_one_without_control_groups_has_them(engine: Engine, store_root: Path) -> None:
    code = "import sys; from lamina import Engine; Engine(sys.argv[1]).run('host', ['sh', '-c', 'sleep 99 & wait'])"
    with subprocess.Popen([sys.executable, "-c", code, str(store_root)]) as front:
        try:
            until(lambda: [one.state for one in engine.containers()] == ["running"])
            (box,) = engine.containers()
            until(lambda: rows(box, "-o", "args") == [["sh -c sleep 99 & wait"], ["sleep 99"]])
        finally:
            front.kill()
