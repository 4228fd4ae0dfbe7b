"""Help, errors and completion: what somebody sees who does not know the command yet."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.cli.commands import LONGER
from lamina.cli.entry import command_line, load
from lamina.cli.options import GLOBAL
from lamina.cli.verbs import GROUPS, VERBS

Lamina = Callable[..., "subprocess.CompletedProcess[str]"]


def said(capfd: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = command_line(argv)
    out, err = capfd.readouterr()
    return status, out, err


def test_help_lists_every_verb_in_its_group(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(capfd, "--help")
    assert (status, err) == (0, "")
    positions = [out.index(f"\n{group}\n") for group in GROUPS]
    assert positions == sorted(positions)
    for name, (_, _, about) in VERBS.items():
        shown = re.search(rf"^  {name}  ", out, re.MULTILINE) is not None
        assert shown == (name not in LONGER), name
        assert about.split()[0] in out
    for option in GLOBAL.options:
        assert f"--{option.name}" in out
    assert max(map(len, out.splitlines())) <= 80


def test_docker_s_longer_names_are_shown_by_their_group(capfd: pytest.CaptureFixture[str]) -> None:
    assert "image rm" in LONGER and "image prune" not in LONGER
    _, out, _ = said(capfd, "image")
    for name in ("rm", "ls", "pull", "prune"):
        assert re.search(rf"^  {name}  ", out, re.MULTILINE)


@pytest.mark.parametrize("argv", [(), ("-h",), ("help",), ("--debug", "--help")])
def test_ways_to_ask_for_help(argv: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capfd, *argv)
    assert status == 0
    assert out.startswith("Usage: lamina")


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_explains_itself(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(capfd, *name.split(), "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"Usage: lamina {name}")
    assert VERBS[name][2].split()[0] in out
    for option in load(name).VERB.options:
        assert re.search(rf"--{option.name}\b", out)
    assert said(capfd, "help", *name.split())[1] == out
    for line in load(name).VERB.examples.strip().splitlines():
        assert line in out, "examples are shown as they are typed, never wrapped"


@pytest.mark.parametrize("argv", ["", *VERBS])
def test_help_fits_a_narrow_terminal(
    argv: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    _, out, _ = said(capfd, *argv.split(), "--help")
    text, _, _ = out.partition("\nExamples\n")
    flowing = [line for line in text.splitlines() if " " in line.strip() and not line.startswith("Usage: ")]
    assert max(map(len, flowing)) <= 40


def test_asking_for_help_never_runs_anything(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for argv in (["help", "run", "host", "touch", str(mark)], ["help", "try", "touch", str(mark)]):
        status, out, _ = said(capfd, *argv)
        assert status == 0
        assert out.startswith(f"Usage: lamina {argv[1]} ")
    assert not mark.exists()


def test_what_was_typed_cannot_command_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    for argv in (["\x1b[31m"], ["run", "--\x1b[31m"], ["rm", "\x1b[31m\x07"], ["rm", "\udcff"]):
        _, _, err = said(capfd, *argv)
        assert err.replace("\n", "").isprintable(), argv


def test_a_group_of_verbs_explains_itself(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capfd, "overlay")
    assert status == 0
    assert re.search(r"^  explain  ", out, re.MULTILINE)
    assert "overlay explain" not in out.replace("lamina overlay", "")


def test_help_imports_no_verb() -> None:
    script = """
import sys
from lamina.cli.entry import command_line
command_line(["--help"])
print([m for m in sys.modules if m.startswith(("lamina.cli.verbs.", "lamina.engine", "rich"))], file=sys.stderr)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stderr.strip() == "[]"


WRONG = [
    ("rnu", "no such verb rnu", "did you mean run?"),
    ("overlay mnt x", "no such verb 'overlay mnt'", "did you mean overlay mount or"),
    ("overly mount", "no such verb overly", "'lamina --help'"),
    ("--rot x ps", "no such option --rot", "did you mean --root"),
    ("--root", "--root needs a value", "'lamina --help'"),
    ("run", "run: IMAGE is missing", "usage: lamina run [OPTIONS] IMAGE [COMMAND...]"),
    ("run --mem 5m host", "run: no such option --mem", "did you mean --memory, --memory-swap or"),
    ("run --nmae x host", "run: no such option --nmae", "did you mean --name"),
    ("run -Z host", "run: no such option -Z", "'lamina run --help'"),
    ("run --rm=yes host", "run: --rm takes no value", "'lamina run --help'"),
    ("run --name", "run: --name needs a value", "'lamina run --help'"),
    ("run --pull alway host", "run: --pull alway: not one of missing, always, never", "did you mean always?"),
    ("try", "try: COMMAND is missing", "without a terminal"),
    ("plan", "plan: IMAGE is missing", "usage: lamina plan"),
    ("rm", "rm: NAME is missing", "usage: lamina rm [OPTIONS] NAME..."),
    ("version x", "version: got unexpected extra argument (x)", "'lamina version --help'"),
    ("completion bsh", "completion: bsh: not one of bash, zsh, fish", "did you mean bash?"),
    ("ps --format {{range}}", "ps: --format '{{range}}': {{range}} is not understood", ""),
    ("ps --format jsn", "ps: --format jsn: neither table, json nor a template", "'lamina ps --help'"),
    ("ps --filter colour=red", "ps: --filter colour=red: there is no filter 'colour'", ""),
    ("ps --format {{.ID", "ps: --format '{{.ID': {{.ID is not closed", ""),
    ("ps -q --format {{.ID}}", "ps: --quiet and --format contradict each other", ""),
    ("diff -p --stat c", "diff: --stat and --patch contradict each other", ""),
    ("diff --stat --format json c", "diff: --stat and --format json contradict each other", ""),
    ("overlay diff -p --format json", "overlay diff: --patch and --format json contradict each other", ""),
    ("overlay mount", "overlay mount: DIRECTORY is missing", "usage: lamina overlay mount [OPTIONS]"),
    ("build -t x .", "build is not supported so far", ""),
    ("run --link a host true", "run: --link is not supported: docker has given it up as well", ""),
    ("logs --tail x c", "logs: --tail x: is not a whole number", ""),
    ("logs --since x c", "logs: --since x: not a time such as 10m", ""),
]


@pytest.mark.parametrize(("line", "message", "hint"), WRONG)
def test_a_wrong_command_line_is_explained(
    line: str, message: str, hint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    got, out, err = said(capfd, *line.split())
    first, second = err.splitlines()
    assert (got, out) == (125, "")
    assert first.startswith(f"lamina: {message}")
    assert second.startswith(f"hint: {hint}") or hint in second
    assert "--help' shows what is possible" in second


def test_an_internal_error_is_two_lines_and_asks_to_be_reported(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> int:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(load("version"), "do", broken)
    status, _, err = said(capfd, "version")
    assert status == 125
    assert err.splitlines()[0] == "lamina: version: internal error: ZeroDivisionError: division by zero"
    assert "--debug" in err.splitlines()[1]
    status, _, err = said(capfd, "--debug", "version")
    assert "Traceback" in err
    assert status == 125


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 141), (SystemExit(3), 3)]
)
def test_quiet_ends(
    error: BaseException, status: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(_: object) -> int:
        raise error

    monkeypatch.setattr(load("version"), "do", end)
    stdout = os.dup(1)
    try:
        assert said(capfd, "version") == (status, "", "")
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def test_a_reader_that_goes_away_is_no_error() -> None:
    shell = f"{sys.executable} -m lamina --help | head -c 1; echo ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    assert ran.stdout.startswith("U")
    assert ran.stdout[1:].strip() in ("0", "141")


@pytest.mark.parametrize("argv", ["--help", "run --help", "version", "info", "ps", "doctor --format json"])
def test_standard_output_may_be_full_or_closed(argv: str) -> None:
    command = f"env -u PYTHONUNBUFFERED {sys.executable} -m lamina {argv}"  # with a buffer that stays full
    full = subprocess.run(["bash", "-c", f"{command} >/dev/full"], capture_output=True, text=True)
    assert full.returncode == 125
    assert full.stderr == "lamina: write standard output: No space left on device\n"
    closed = subprocess.run(["bash", "-c", f"{command} >&-"], capture_output=True, text=True)
    assert (closed.returncode, closed.stderr) == (0, "")
    silent = subprocess.run(["bash", "-c", f"{command} <&- >&- 2>&-"], capture_output=True, text=True)
    assert silent.returncode == 0


@pytest.mark.parametrize("argv", [("version",), ("--version",), ("-v",)])
def test_version(argv: tuple[str, ...], lamina: Lamina) -> None:
    assert re.match(r"lamina \S+ .*\(Python 3\.\d+\.\d+.*, Linux \d+", lamina(*argv).stdout)


def complete(lamina: Lamina, words: str) -> list[str]:
    typed = words.split(" ")
    environment = {**os.environ, "_LAMINA_COMPLETE": "bash_complete", "COMP_CWORD": str(len(typed) - 1)}
    shown = lamina(env={**environment, "COMP_WORDS": words}).stdout
    return [line.split(",", 1)[1] for line in shown.splitlines() if line]


def test_completion_knows_verbs_options_and_choices(lamina: Lamina) -> None:
    assert complete(lamina, "lamina d") == ["diff", "doctor"]
    assert complete(lamina, "lamina overlay m") == ["mount"]
    assert complete(lamina, "lamina run --memory-s") == ["--memory-swap", "--memory-swappiness"]
    assert complete(lamina, "lamina run --network ") == ["none", "host", "bridge"]
    assert complete(lamina, "lamina completion ") == ["bash", "zsh", "fish"]
    assert complete(lamina, "lamina diff ") == []
    assert lamina("volume", "create", "data").returncode == 0
    assert complete(lamina, "lamina volume rm ") == ["data"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, lamina: Lamina) -> None:
    script = lamina("completion", shell)
    assert script.returncode == 0
    assert "_LAMINA_COMPLETE" in script.stdout
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script.stdout, text=True, check=True)


def test_bash_completes_with_the_script(lamina: Lamina, tmp_path: Path) -> None:
    program = tmp_path / "lamina"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m lamina "$@"\n')
    program.chmod(0o755)
    script = (
        lamina("completion", "bash").stdout
        + """
COMP_WORDS=(lamina run --net) COMP_CWORD=2
_lamina_completion lamina
echo "${COMPREPLY[@]}"
COMPREPLY=() COMP_LINE="lamina completion a:b" COMP_POINT=21
COMP_WORDS=(lamina completion a : b) COMP_CWORD=4
_lamina_completion() { COMPREPLY=(a:bc "a:bd"); declare -p COMP_WORDS; }
_lamina_completion_of_whole_words lamina
echo "${COMPREPLY[@]}"
COMPREPLY=() COMP_LINE="lamina fork box@o" COMP_POINT=17
COMP_WORDS=(lamina fork box @ o) COMP_CWORD=4
_lamina_completion() { COMPREPLY=(box@one box@other); declare -p COMP_WORDS; }
_lamina_completion_of_whole_words lamina
echo "${COMPREPLY[@]}"
"""
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    shell = ["bash", "--norc", "-i", "-c", script]  # completion is for interactive shells
    shown = subprocess.run(
        shell, capture_output=True, text=True, env=environment, start_new_session=True, check=False
    )
    lines = shown.stdout.splitlines()
    assert (lines[0], lines[2]) == ("--network --network-alias", "bc bd"), shown.stderr
    assert '[2]="a:b"' in lines[1]
    assert '[2]="box@o"' in lines[3]
    assert lines[4] == "@one @other"  # bash replaces what begins with the @
