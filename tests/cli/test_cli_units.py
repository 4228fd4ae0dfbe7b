"""The units that Lamina writes for systemd: what is in them, and that systemd takes them."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina import Engine
from lamina.argv import quick
from lamina.cli.options.further import OPTIONS as MORE
from lamina.cli.options.run import OPTIONS
from lamina.cli.units import (
    Subject,
    Wishes,
    container_unit,
    environment_file,
    restartable_unit,
    word,
    words_again,
)
from lamina.cli.verbs import run
from lamina.errors import InvalidInput

Lamina = Callable[..., subprocess.CompletedProcess[str]]

NASTY = [
    "two words",
    'a"b',
    "a'b",
    "a\\b",
    "100%",
    "$HOME",
    "${X}",
    "a;b",
    ";",
    "",
    "é\n\t",
    "\x01",
    "%n",
    "-",
    "@x",
]


def read_back(text: str) -> str:
    """A word of ours as systemd reads it: C escapes within double quotes, then %% and $$."""
    quoted = text.startswith('"')
    body = text[1:-1] if quoted else text
    found, at = b"", 0
    while at < len(body):
        if body[at] == "\\":
            if body[at + 1] == "x":
                found += bytes([int(body[at + 2 : at + 4], 16)])
                at += 4
                continue
            at += 1
        else:
            assert not (quoted and body[at] == '"')
        found += body[at].encode("utf-8", "surrogateescape")
        at += 1
    return os.fsdecode(found).replace("%%", "%").replace("$$", "$")


@pytest.mark.parametrize("text", NASTY)
def test_a_word_is_read_as_it_was_meant(text: str) -> None:
    assert read_back(word(text)) == text
    assert "\n" not in word(text)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30))
def test_any_word_is_read_as_it_was_meant(text: str) -> None:
    assert read_back(word(text)) == text


def again(*typed: str) -> list[str]:
    """The words that ask once more for what was typed behind `run`."""
    values = quick.parse(run.VERB, typed)
    assert values is not None
    words = values["words"]
    return words_again(
        (*OPTIONS, *MORE), values, values["image"], words[1:] if words[:1] == ("--",) else words
    )


def test_options_are_said_again_each_in_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIVEN", "from here")
    (tmp_path / "vars").touch()
    found = again(
        *(
            "-d",
            "--rm",
            "--name",
            "x",
            "--cidfile",
            "id",
            "-q",
            "-i",
            "-e",
            "A=b c",
            "-e",
            "GIVEN",
            "-e",
            "MISSING_",
        ),
        *(
            "--env-file",
            "vars",
            "-v",
            "data:/d",
            "--memory",
            "64m",
            "--cap-drop",
            "ALL",
            "--health-cmd",
            "true x",
        ),
        *("tiny", "sh", "-c", "echo $A"),
    )
    assert sorted(found[: found.index("tiny")]) == sorted(
        [
            *("--interactive", "--env=A=b c", "--env=GIVEN", f"--env-file={tmp_path}/vars"),
            *("--volume=data:/d", "--memory=64m", "--cap-drop=ALL", "--health-cmd=true x"),
        ]
    )
    assert found[found.index("tiny") :] == ["tiny", "--", "sh", "-c", "echo $A"]
    # once more is the same
    assert again(*found) == found


def test_a_file_of_variables_is_read_as_it_was_meant() -> None:
    """By the rules of systemd.exec(5): four characters are escaped within double quotes, ends of lines are not."""
    assert environment_file({"A": 'x "y" $z `w` \\', "_b2": "two\nlines"}) == (
        'A="x \\"y\\" \\$z \\`w\\` \\\\"\n_b2="two\nlines"\n'
    )
    for name, text in (("a.b", "x"), ("1a", "x"), ("A", "\udcff"), ("A", "x\r")):
        with pytest.raises(InvalidInput, match="systemd reads no such"):
            environment_file({name: text})


def verify(directory: Path, *units: Path) -> None:
    """systemd itself says that they are right."""
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{directory}:"}
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, units)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    about = [line for line in done.stderr.splitlines() if str(directory) in line or "container-" in line]
    assert (about, done.returncode) == ([], 0), done.stderr


@pytest.mark.peer("systemd-analyze")
def test_systemd_takes_what_is_written(tmp_path: Path) -> None:
    about = Subject(
        "box", f"{tmp_path}/a b", 15, ("--env=" + "".join(NASTY), "tiny", "--", *NASTY), str(tmp_path)
    )
    (tmp_path / "other.service").write_text("[Service]\nExecStart=/bin/true\n")
    units = {
        "container-box.service": container_unit("container-box.service", about, Wishes(), "1"),
        "container-new.service": container_unit(
            "container-new.service",
            about,
            Wishes(
                new=True, restart_policy="always", restart_sec=3, stop_timeout=5, wants=("other.service",)
            ),
            "1",
        ),
        "lamina-restart.service": restartable_unit(f"{tmp_path}/a b", "1"),
    }
    for name, text in units.items():
        (tmp_path / name).write_text(text)
    verify(tmp_path, *(tmp_path / name for name in units))


def settings(unit: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)


def test_systemd_is_at_least_as_patient_as_the_container_is() -> None:
    """-1 is without end, and what restart policies say is not cut short after systemd's own 90 seconds."""
    about = Subject("box", "/store", 15)
    for seconds, patience in ((5, "65"), (0, "60"), (-1, "infinity")):
        unit = settings(container_unit("box.service", about, Wishes(stop_timeout=seconds), "1"))
        assert unit["TimeoutStopSec"] == patience
        assert unit["ExecStop"].endswith(f" stop -t {seconds} box")
    assert settings(restartable_unit("/store", "1"))["TimeoutStopSec"] == "infinity"


@pytest.mark.root
def test_the_command_writes_units(store_root: Path, tmp_path: Path, lamina: Lamina) -> None:
    def say(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
        return lamina("--root", store_root, *words, cwd=tmp_path, **options)

    assert (
        say(
            "create", "--name", "box", "--stop-timeout", "7", "-e", "A=1 2", "host", "--", "sleep", "9"
        ).returncode
        == 0
    )
    printed = say("generate", "systemd", "--name", "box").stdout
    commands = dict(line.split("=", 1) for line in printed.splitlines() if line.startswith("Exec"))
    assert shlex.split(commands["ExecStart"])[-4:] == ["start", "--attach", "--sig-proxy=false", "box"]
    assert shlex.split(commands["ExecStop"])[-4:] == ["stop", "-t", "7", "box"]
    assert Path(shlex.split(commands["ExecStart"])[0]).is_absolute()
    assert "TimeoutStopSec=67" in printed.splitlines()
    new = say(
        "generate", "systemd", "--new", "--files", "--name", "box", "-t", "3", "--restart-policy", "always"
    )
    assert new.stdout == f"{tmp_path}/container-box.service\n"
    text = (tmp_path / "container-box.service").read_text()
    assert "Restart=always" in text
    assert '"--env=A=1 2" host -- sleep 9' in text
    assert f"WorkingDirectory={tmp_path}" in text
    identity = Engine(store_root).container("box").id
    by_id = say("generate", "systemd", "-f", "--container-prefix", "", "box")
    assert by_id.stdout == f"{tmp_path}/{identity}.service\n"
    boot = say("generate", "systemd", "--restartable", "--no-header").stdout
    assert boot.startswith("[Unit]")
    assert "system start-restartable" in boot
    for words, said in (
        (("nosuch",), "no such container"),
        ((), "no container is named"),
        (("--restartable", "box"), "--restartable"),
        (("--container-prefix", "a/b", "box"), "no name of a unit"),
        (("--restart-policy", "perhaps", "box"), "perhaps"),
        (("-t", "soon", "box"), "soon"),
    ):
        wrong = say("generate", "systemd", *words)
        assert wrong.returncode != 0
        assert said in wrong.stderr
    secret = 'of "nobody" else\'s $business\n`\\'
    made = say(
        "create", "--name", "db", "-e", "SECRET", "host", "--", "true", env={**os.environ, "SECRET": secret}
    )
    assert made.returncode == 0, made.stderr
    files = say("generate", "systemd", "--new", "--files", "--name", "db").stdout.splitlines()
    assert files == [f"{tmp_path}/container-db.env", f"{tmp_path}/container-db.service"]
    assert "business" not in (tmp_path / "container-db.service").read_text()
    assert f"EnvironmentFile={tmp_path}/container-db.env" in (tmp_path / "container-db.service").read_text()
    assert (tmp_path / "container-db.env").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "container-db.env").read_text() == environment_file({"SECRET": secret})
    printed_only = say("generate", "systemd", "--new", "--name", "db")
    assert "EnvironmentFile=%E/lamina/container-db.env" in printed_only.stdout
    assert "business" not in printed_only.stdout + printed_only.stderr
    assert "the values of SECRET are not in the unit" in printed_only.stderr
    say("rm", "db")
    Engine(store_root).create("host", ["true"], name="api")
    wrong = say("generate", "systemd", "--new", "api")
    assert "not known with which words" in wrong.stderr
    say("rm", "-f", "box", "api")
