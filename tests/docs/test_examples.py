"""What the documents show is what happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.examples import Block, Command, agrees, blocks, play, session
from support.rootless import Rootless
from support.sources import REPOSITORY
from support.understudy import with_understudy

DOCUMENTS = sorted({REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")})
LINKED = [*DOCUMENTS, REPOSITORY / "ARCHITECTURE.md", REPOSITORY / "CONTRIBUTING.md"]
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# docs/overlay.md works in a stack that is attached nowhere
NEEDS = {"overlay.md": [pytest.mark.kernel("6.8")]}
EXAMPLES = [
    pytest.param(document, marks=NEEDS.get(document.name, []), id=str(document.relative_to(REPOSITORY)))
    for document in DOCUMENTS
    if list(blocks(document))
]


@pytest.mark.root
@pytest.mark.timeout(900)  # dozens of commands, on a machine that may be busy
@pytest.mark.parametrize("document", EXAMPLES)
def test_examples_do_what_they_show(document: Path, tmp_path: Path, scratch: dict[str, str]) -> None:
    def play_all() -> list[str]:
        wrong = []
        for block in blocks(document):
            if block.why is None:
                check = check_session if block.kind == "console" else check_python
                found = check(block, tmp_path / "scratch", scratch)
                wrong += [f"{document.name}:{block.line}: {text}" for text in found]
        return wrong

    # readers may apply and mount what they like; the suite does it on a machine that is not real
    assert not (wrong := with_understudy(tmp_path, play_all, timeout=800)), "\n\n".join(wrong)


@pytest.fixture
def scratch(tmp_path: Path, store_root: Path) -> dict[str, str]:
    """An environment for examples: `lamina` on the path, a store and a home of its own, nothing of the developer's."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (tmp_path / "scratch").mkdir()
    (programs / "lamina").write_text(f'#!/bin/sh\nexec {sys.executable} -m lamina "$@"\n')
    (programs / "lamina").chmod(0o755)
    return {
        "PATH": f"{programs}:{Path(sys.executable).parent}:{SYSTEM_PATH}",
        "HOME": str(tmp_path / "scratch"),
        "LANG": "C.UTF-8",
        "LAMINA_ROOT": str(store_root),
        "PYTHONPATH": os.environ["PYTHONPATH"],
        "LAMINA_NETWORK": os.environ["LAMINA_NETWORK"],
    }


def check_session(block: Block, directory: Path, environment: dict[str, str]) -> list[str]:
    commands = session(block.text)
    wrong = []
    for command, printed in zip(commands, play(commands, directory, environment, timeout=700), strict=True):
        if not agrees(command.expected, printed):
            lines = ["$ " + command.text, "-- shown:", *command.expected, "-- printed:", *printed]
            wrong.append("\n".join(lines))
    return wrong


def check_python(block: Block, directory: Path, environment: dict[str, str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block.text],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    return [] if done.returncode == 0 else [done.stdout + done.stderr]


def test_the_first_screen_is_the_two_commands_and_the_session_of_the_demo() -> None:
    first = (REPOSITORY / "README.md").read_text()[:4000]
    assert first.index("make demo") < first.index("make test") < first.index("```console")


def test_wildcards() -> None:
    assert agrees(["a", "...", "c"], ["a", "b1", "b2", "c"])
    assert agrees(["a", "...", "c"], ["a", "c"])
    assert agrees(["took ... ms (1)"], ["took 12 ms (1)"])
    assert not agrees(["took ... ms (1)"], ["took 12 ms (2)"])
    assert not agrees([], ["something"])


def test_sessions(tmp_path: Path) -> None:
    text = "$ cd sub\n$ for i in 1 2; do\n>   echo $i\n> done\n1\n2\n$ pwd >&2\n.../sub\n"
    commands = session(text)
    assert commands == [
        Command("cd sub"),
        Command("for i in 1 2; do\n  echo $i\ndone", ["1", "2"]),
        Command("pwd >&2", [".../sub"]),
    ]
    (tmp_path / "sub").mkdir()
    printed = play(commands, tmp_path, os.environ, timeout=200)
    assert all(agrees(command.expected, lines) for command, lines in zip(commands, printed, strict=True))


@pytest.mark.parametrize("document", LINKED, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_every_decision_is_in_the_index() -> None:
    directory = REPOSITORY / "docs/decisions"
    index = (directory / "README.md").read_text()
    for record in sorted(directory.glob("[0-9]*.md")):
        assert f"]({record.name})" in index
        assert record.read_text().startswith(f"# {record.name[:4]} - ")


def test_make_help_names_every_target() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    listed = subprocess.run(
        ["make", "-s", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    for target in set(re.findall(r"^([a-z]+):", makefile, re.M)) - {"setup"}:
        assert f"make {target} " in listed


@pytest.mark.root
def test_the_demo_plays_to_its_end(tmp_path: Path, scratch: dict[str, str]) -> None:
    def play_demo() -> tuple[int, str]:
        demo = [sys.executable, str(REPOSITORY / "scripts/demo")]
        done = subprocess.run(
            demo, env=scratch, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200
        )
        return done.returncode, done.stdout + done.stderr

    status, said = with_understudy(tmp_path, play_demo)
    assert status == 0, said
    assert "discarded" in said


@pytest.mark.userns
@pytest.mark.peer("newuidmap")
def test_the_demo_plays_without_root(rootless: Rootless) -> None:
    programs = rootless.mkdir("bin")
    (programs / "lamina").write_text(f'#!/bin/sh\nexec {sys.executable} -m lamina "$@"\n')
    (programs / "lamina").chmod(0o755)
    environment = {**rootless.env, "PATH": f"{programs}:{rootless.env['PATH']}"}
    done = rootless.run(sys.executable, REPOSITORY / "scripts/demo", env=environment)
    assert done.returncode == 0, done.stderr
    assert "-1.1\n+2.0\n" in done.stdout, done.stdout + done.stderr
    assert "applied: 1 changed" in done.stdout + done.stderr
