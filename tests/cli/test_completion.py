"""Completion of every verb, option and name, and in shells where there are any."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from lamina.cli.commands import COMPLETE, Root
from lamina.cli.entry import load
from lamina.cli.verbs import VERBS

Lamina = Callable[..., "subprocess.CompletedProcess[str]"]


def offered(*words: str, then: str = "") -> list[str]:
    shell = BashComplete(Root(), {}, "lamina", COMPLETE)
    return [item.value for item in shell.get_completions([*words], then)]


def test_every_verb_is_offered() -> None:
    for name in VERBS:
        *group, last = name.split()
        assert last in offered(*group, then=last[:1]), name


@pytest.mark.parametrize("name", sorted(VERBS))
def test_every_option_of_a_verb_is_offered(name: str) -> None:
    verb = load(name).VERB
    assert sorted(offered(*name.split(), then="--")) == sorted(
        [*(f"--{option.name}" for option in verb.all_options), "--help"]
    )


@pytest.fixture
def names(lamina: Lamina) -> Lamina:
    """A store with containers in three states and a volume; what completes the words of a line, in bash's protocol."""
    for words in (
        ("create", "--name", "made", "host", "true"),
        ("run", "-d", "--name", "lives", "host", "sleep", "600"),
        ("run", "-d", "--name", "waits", "host", "sleep", "600"),
        ("pause", "waits"),
        ("volume", "create", "data"),
        ("snapshot", "create", "made", "one"),
    ):
        done = lamina(*words)
        assert done.returncode == 0, done.stderr
    return lamina


def complete(lamina: Lamina, *words: str) -> list[str]:
    environment = {
        **os.environ,
        COMPLETE: "bash_complete",
        "COMP_WORDS": " ".join(("lamina", *words)),
        "COMP_CWORD": str(len(words)),
    }
    shown = lamina(env=environment).stdout
    return [line.partition(",")[2] for line in shown.splitlines()]


@pytest.mark.root
@pytest.mark.peer("sleep")
def test_names_are_those_that_a_verb_can_be_for(names: Lamina) -> None:
    for verb, wanted in (
        ("start", ["made"]), ("stop", ["lives", "waits"]), ("exec", ["lives", "waits"]), ("unpause", ["waits"]),
        ("rm", ["lives", "made", "waits"]), ("commit", ["lives", "made", "waits", "made@one"]),
        ("port", ["lives", "waits"]),
        ("container diff", ["lives", "made", "waits", "made@one"]), ("inspect", ["lives", "made", "waits", "data"]),
        ("volume rm", ["data"]), ("run --volumes-from", ["lives", "made", "waits"]),
        ("run --restart", ["no", "on-failure", "always", "unless-stopped"]), ("update --restart a", ["always"]),
        ("ps --filter st", ["status="]), ("volume prune --filter", ["label=", "label!=", "all="]),
        ("run", ["host"]), ("fork made@", ["made@one"]),
        ("rewind made", ["one"]), ("snapshot rm made", ["one"]), ("snapshot inspect made o", ["one"]),
        ("rewind lives", [""]), ("rewind none-such", [""]),
    ):  # fmt: skip
        *words, last = verb.split()
        typed = (*words, last) if verb.endswith((" a", " st", " o", "@")) else (*words, last, "")
        assert complete(names, *typed) == wanted, verb
    names("rm", "-f", "lives", "waits")


SHELLS = {
    "bash": """
COMP_WORDS=(lamina volume rm '') COMP_CWORD=3 COMP_LINE='lamina volume rm ' COMP_POINT=17
_lamina_completion_of_whole_words lamina
echo "${COMPREPLY[@]}"
""",
    # no line editor here: what the script gives to compadd and _describe is what would be offered
    "zsh": """
compadd() { while [[ $1 == -* && $1 != -a ]]; do [[ $1 == -V ]] && shift; shift; done; shift; print -l -- ${(P)1}; }
_describe() { print -l -- ${(P)3}; }
words=(lamina volume rm '') CURRENT=4
_lamina_completion
""",
    "fish": "complete -C 'lamina volume rm '",
}


@pytest.mark.parametrize("shell", [shell for shell in SHELLS if shutil.which(shell)])  # left out, not skipped
def test_in_the_shell_itself(lamina: Lamina, tmp_path: Path, shell: str) -> None:
    assert lamina("volume", "create", "data").returncode == 0
    program = tmp_path / "lamina"
    program.write_text(
        f'#!/bin/sh\nexec {sys.executable} -m lamina --root {tmp_path / "lamina-store"} "$@"\n'
    )
    program.chmod(0o755)
    script = lamina("completion", shell).stdout
    if shell == "zsh":  # without a line editor there is no compsys to tell
        script = "compdef() { :; }\n" + script
    words = {
        "bash": ["bash", "--norc", "-i", "-c"], "zsh": ["zsh", "-f", "-c"], "fish": ["fish", "--no-config", "-c"],
    }[shell]  # fmt: skip
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run(
        [*words, script + SHELLS[shell]],
        capture_output=True, text=True, env=environment, start_new_session=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.stdout.split() == ["data"], done.stderr
