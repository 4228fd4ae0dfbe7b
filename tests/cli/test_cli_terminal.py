"""What somebody sees and types who sits at a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.terminal import Terminal, lamina

pytestmark = pytest.mark.root

PLAIN = {"NO_COLOR": "1", "PAGER": "cat"}
QUESTION = r"\[a\]pply, \[d\]iscard, \[v\]iew the diff, \[K\]eep\? "


def at_terminal(*argv: str | Path, size: tuple[int, int] = (24, 80), cwd: Path | None = None) -> Terminal:
    return Terminal(lamina(*map(str, argv)), env=PLAIN, size=size, cwd=cwd)


@pytest.fixture
def attempt(tmp_path: Path) -> Callable[..., Terminal]:
    """`lamina try` of a command that deletes `old` and writes `new` in the directory `place`; status 5."""
    place = tmp_path / "place"
    place.mkdir()
    (place / "old").write_text("old\n")

    def start(*options: str, then: str = "") -> Terminal:
        script = f"rm {place}/old; echo new >{place}/new; {then} exit 5"
        return at_terminal("try", "--network", "none", "--name", "attempt", *options, "sh", "-c", script)

    return start


def files(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


# -- run -it


def test_an_interactive_shell_feels_local() -> None:
    with at_terminal("run", "--rm", "-it", "-e", "PS1=ready> ", "host", "sh", size=(33, 101)) as terminal:
        terminal.expect("ready> ")
        terminal.type("stty size\r")
        terminal.expect("33 101")
        terminal.resize(44, 132)
        # the news takes a moment to get there
        terminal.type("until stty size | grep 44; do sleep 0.1; done\r")
        terminal.expect("44 132")
        terminal.type("sh -c 'echo started; exec sleep 100'\r")
        terminal.expect("started\r\n")
        terminal.type("\x03")
        terminal.expect("ready> ")
        terminal.type("tty; exit 4\r")
        terminal.expect("/dev/pts/0")
        assert terminal.wait() == 4
        assert terminal.settings() == terminal.untouched


def test_the_terminal_is_itself_again_after_a_violent_end() -> None:
    with at_terminal(
        "run", "--rm", "-it", "host", "sh", "-c", "stty raw -echo; echo ready; sh -c 'kill -9 $$'"
    ) as terminal:
        assert terminal.wait() == 137
        assert terminal.settings() == terminal.untouched


def test_ctrl_c_without_a_terminal_inside_reaches_the_command() -> None:
    script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done"
    with at_terminal("run", "--rm", "host", "sh", "-c", script) as terminal:
        terminal.expect("ready")
        terminal.type("\x03")
        terminal.expect("caught")
        assert terminal.wait() == 9


HANDLER = (
    "import signal, sys, time; signal.signal(signal.SIGINT, {}); print('ready', flush=True); time.sleep(1000)"
)


@pytest.mark.parametrize(("key", "status"), [("\x03", 130), ("\x1c", 131)])
@pytest.mark.parametrize("verb", ["run", "try"])
def test_a_key_ends_a_command_that_does_nothing_about_it(verb: str, key: str, status: int) -> None:
    """The kernel spares the first process of a container what its terminal sends it; any other program would end."""
    how = {"run": ["run", "--rm", "-it", "host"], "try": ["try", "--network", "none"]}[verb]
    # no shell: one that executes something forgets what it has got by then
    with at_terminal(*how, sys.executable, "-ISc", HANDLER.format("signal.SIG_DFL")) as terminal:
        terminal.expect("ready")
        terminal.type(key)
        assert terminal.wait() == status


def test_a_key_is_left_to_a_command_that_does_something_about_it() -> None:
    script = HANDLER.format("lambda *_: sys.exit('saved')")
    with at_terminal("run", "--rm", "-it", "host", sys.executable, "-ISc", script) as terminal:
        terminal.expect("ready")
        terminal.type("\x03")
        terminal.expect("saved")
        assert terminal.wait() == 1


def test_a_key_leaves_those_time_who_do_something_about_it() -> None:
    """Somebody who does not, and waits for one who does: with him the kernel would kill both."""
    child = HANDLER.format("lambda *_: (time.sleep(0.3), sys.exit('saved'))")
    script = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-ISc", {child!r}])
sys.exit("and after that")
"""
    with at_terminal("run", "--rm", "-it", "host", sys.executable, "-ISc", script) as terminal:
        terminal.expect("ready")
        terminal.type("\x03")
        terminal.expect("saved")
        terminal.expect("and after that")
        assert terminal.wait() == 1


def test_a_key_that_the_terminal_makes_no_signal_of_is_a_key() -> None:
    script = "stty -isig; echo ready; exec head -n 1"
    with at_terminal("run", "--rm", "-it", "host", "sh", "-c", script) as terminal:
        terminal.expect("ready")
        terminal.type("\x03end\r")
        terminal.expect("\x03end")
        assert terminal.wait() == 0


# -- try


def test_try_says_what_is_not_virtual_shows_asks_and_discards(
    attempt: Callable[..., Terminal], tmp_path: Path
) -> None:
    with attempt(then="tty; stty size; pwd;") as terminal:
        terminal.expect("not virtual: devices, the clock, and what other programs do meanwhile")
        terminal.expect("/dev/pts/0\r\n24 80\r\n" + os.getcwd())
        terminal.expect("exit status 5")
        seen = terminal.expect(QUESTION).string
        assert seen.index("D ") < seen.index("A "), "losses first"
        assert f"D {tmp_path}/place/old  -4 B\r\n" in seen
        assert f"A {tmp_path}/place/new  +4 B\r\n" in seen
        assert "1 deleted, 1 added (4 B written)" in seen
        terminal.type("d\r")
        terminal.expect("discarded")
        assert terminal.wait() == 5
        assert terminal.settings() == terminal.untouched
    assert files(tmp_path / "place") == ["old"]
    with at_terminal("ps", "-aq") as terminal:
        assert (terminal.wait(), terminal.output) == (0, "")


def test_try_shows_the_diff_and_applies(attempt: Callable[..., Terminal], tmp_path: Path) -> None:
    with attempt() as terminal:
        terminal.expect(QUESTION)
        terminal.type("v\r")
        terminal.expect(r"\+new")
        terminal.expect(r"deleted file mode 100644")
        terminal.expect(QUESTION)
        terminal.type("yes\r")
        terminal.expect("'yes' is none of them")
        terminal.expect(QUESTION)
        terminal.type("a\r")
        terminal.expect("applied: 1 deleted, 1 added .*; 'lamina undo attempt' takes it back")
        assert terminal.wait() == 5
    assert files(tmp_path / "place") == ["new"]
    with at_terminal("undo", "attempt") as terminal:
        assert terminal.wait() == 0
    assert files(tmp_path / "place") == ["old"]


@pytest.mark.parametrize(("key", "status"), [("k\r", 5), ("\r", 5), ("\x04", 5), ("\x03", 130)])
def test_try_keeps_when_in_doubt(
    attempt: Callable[..., Terminal], tmp_path: Path, key: str, status: int
) -> None:
    with attempt() as terminal:
        terminal.expect(QUESTION)
        terminal.type(key)
        terminal.expect("kept as attempt:")
        terminal.expect("lamina apply attempt ")
        assert terminal.wait() == status
    assert files(tmp_path / "place") == ["old"]
    with at_terminal("apply", "attempt") as terminal:
        assert terminal.wait() == 0
    assert files(tmp_path / "place") == ["new"]


def test_what_was_typed_while_the_command_ran_is_no_answer(
    attempt: Callable[..., Terminal], tmp_path: Path
) -> None:
    with attempt(then="echo ready; read line;") as terminal:
        terminal.expect("ready")
        terminal.type("end\ra\ra\ra\r")
        terminal.expect(QUESTION)
        terminal.type("d\r")
        terminal.expect("discarded")
        assert terminal.wait() == 5
    assert files(tmp_path / "place") == ["old"]


def test_try_asks_again_when_this_system_changed_meanwhile(
    attempt: Callable[..., Terminal], tmp_path: Path
) -> None:
    with attempt() as terminal:
        terminal.expect(QUESTION)
        (tmp_path / "place/old").write_text("mine\n")
        terminal.type("a\r")
        terminal.expect("place/old: changed on the host")
        terminal.expect(r"\[f\]orce")
        terminal.type("f\r")
        terminal.expect("overridden")
        assert terminal.wait() == 5
    assert files(tmp_path / "place") == ["new"]


def test_try_of_something_that_changes_nothing_does_not_ask() -> None:
    with at_terminal("try", "true") as terminal:
        assert terminal.wait() == 0
        assert "nothing changed" in terminal.output
        assert "pply" not in terminal.output


def test_a_shell_that_is_tried_can_be_told_from_ones_own() -> None:
    with Terminal(lamina("try"), env={**PLAIN, "SHELL": "/bin/sh"}) as terminal:
        terminal.expect("leave the shell")
        terminal.type('echo "<$debian_chroot>"; exit 3\r')
        terminal.expect("<lamina try>")
        assert terminal.wait() == 3


def test_try_of_a_full_screen_program(tmp_path: Path) -> None:
    """Raw mode, single keys, no echo: what an editor needs."""
    script = 'stty raw -echo; k=$(dd bs=1 count=1 2>/dev/null); stty sane; echo "key=$k"'
    with at_terminal("try", "--network", "none", "sh", "-c", script) as terminal:
        terminal.expect("meanwhile")
        # the key may come before or after the command made the terminal raw: a line end serves both
        terminal.type("x\r")
        terminal.expect("key=x")
        assert terminal.wait() == 0


# -- what the terminal is spared


def test_names_and_contents_cannot_command_the_terminal(tmp_path: Path) -> None:
    script = f"printf 'title\\033]0;owned\\007\\n' >{tmp_path}/$(printf 'a\\033[2Jb')"
    with at_terminal("run", "--name", "evil", "host", "sh", "-c", script) as terminal:
        assert terminal.wait() == 0
    for argv in (
        ["diff", "evil"],
        ["diff", "--stat", "evil"],
        ["diff", "-p", "evil"],
        ["ps", "-a", "--no-trunc"],
    ):
        with at_terminal(*argv) as terminal:
            assert terminal.wait() == 0
            assert "\x1b" not in terminal.output, argv
            assert "\x07" not in terminal.output, argv


def test_colours_and_their_absence(tmp_path: Path) -> None:
    with Terminal(lamina("--help"), env={"PAGER": "cat"}) as terminal:
        assert terminal.wait() == 0
        assert "\x1b[1mUsage\x1b[0m" in terminal.output
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        for argv in (["--help"], ["info"], ["run", "--mem"], ["doctor"], ["rnu"]):
            with Terminal(lamina(*argv), env=environment) as terminal:
                terminal.wait()
                assert "\x1b" not in terminal.output, (argv, environment)


def test_ctrl_c_in_a_quiet_verb_is_quiet() -> None:
    with at_terminal("run", "--name", "slow", "host", "sh", "-c", "echo ready; sleep 1000") as running:
        running.expect("ready")
        with at_terminal("logs", "-f", "slow") as terminal:
            terminal.expect("ready")
            terminal.type("\x03")
            assert terminal.wait() == 130
            assert terminal.output.replace("^C", "").split() == ["ready"]
        with at_terminal("ps") as terminal:
            assert terminal.wait() == 0
            assert "Up " in terminal.output
        with at_terminal("rm", "slow") as terminal:
            assert terminal.wait() == 1
            assert "it is running" in terminal.output
        with at_terminal("rm", "-f", "slow") as terminal:
            assert terminal.wait() == 0
        assert running.wait() != 0


def test_a_session_to_try_things_in(tmp_path: Path) -> None:
    shell = {**PLAIN, "SHELL": "/bin/sh", "PS1": "ready> "}
    with Terminal(lamina("try", "-n", "--network", "none"), env=shell, cwd=tmp_path) as terminal:
        terminal.expect("ready> ")
        terminal.type("pwd; touch here; exit\r")
        terminal.expect(str(tmp_path))
        terminal.expect(f"A {tmp_path}/here")
        assert terminal.wait() == 0
    with Terminal(lamina("run", "--rm", "-it", "-e", "PS1", "host"), env=shell) as terminal:
        terminal.expect("ready> ")
        terminal.type("exit 3\r")
        assert terminal.wait() == 3
    assert not (tmp_path / "here").exists()


# -- waiting

WAITING = """
import sys
from lamina.cli import waiting
from lamina.cli.entry import command_line
from lamina.engine import progress
waiting.SOON = progress.BETWEEN = 0
sys.exit(command_line(sys.argv[1:]))
"""


def test_long_work_shows_how_far_it_has_got(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    script = f"cd {place}; for i in $(seq 30); do echo x >file$i; done"
    with at_terminal("run", "--name", "x", "host", "sh", "-c", script) as terminal:
        assert terminal.wait() == 0
    for words, said in (("apply", "applying x"), ("undo", "undoing x"), ("rm", "removing x")):
        argv = [sys.executable, "-c", WAITING, words, "x"]
        with Terminal(argv, env=PLAIN, size=(24, 120)) as terminal:
            terminal.expect(f"{said} .*of [0-9,]+ paths")
            assert terminal.wait() == 0
        last = terminal.output.replace("\r", "\n").strip().splitlines()[-1]
        assert last.endswith({"apply": "takes it back", "undo": "as they were", "rm": "x"}[words])


def test_without_a_terminal_there_is_no_bar(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    words = [sys.executable, "-c", WAITING]
    script = f"touch {place}/new"
    for argv in (
        ["run", "--name", "x", "host", "sh", "-c", script],
        ["apply", "x"],
        ["undo", "x"],
        ["rm", "x"],
    ):
        done = subprocess.run([*words, *argv], capture_output=True, text=True, timeout=200)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_login_that_is_not_typed() -> None:
    with at_terminal("login", "registry.invalid") as terminal:
        terminal.expect("Username: ")
        terminal.type("\x04")
        terminal.expect("login: a name and a password are needed")
        assert terminal.wait() == 125
    with at_terminal("login", "registry.invalid") as terminal:
        terminal.expect("Username: ")
        terminal.type("ann\r")
        terminal.expect("Password: ")
        terminal.type("\x03")
        assert terminal.wait() == 130
