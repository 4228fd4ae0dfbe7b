"""The verbs of containers, from the shell to the kernel and back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

Lamina = Callable[..., "subprocess.CompletedProcess[str]"]


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{done.args}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("true", 0),
        ("exit 3", 3),
        ("exit 255", 255),
        ("kill -9 $$", 0),  # the first process of a pid namespace cannot kill itself
        ("sh -c 'kill -9 $$'; exit $?", 137),
    ],
)
def test_the_exit_status_is_the_commands(lamina: Lamina, command: str, status: int) -> None:
    assert lamina("run", "--rm", "host", "--", "sh", "-c", command).returncode == status


@pytest.mark.parametrize(
    ("argv", "status", "message", "hint"),
    [
        (["--rm", "host", "no-such-command"], 127, "execute no-such-command: ", None),
        (["--rm", "host", "/etc"], 126, "execute /etc: ", None),
        (["--rm", "--pull", "never", "none:1", "true"], 125, "image none:1: no such image", "'lamina pull'"),
        (["--rm", "--memory", "lots", "host", "true"], 125, "run: memory lots: not a size", "512m"),
        (["--rm", "--cpus", "none", "host", "true"], 125, "run: cpus none: ", "0.5"),
        (["--rm", "-w", "relative", "host", "true"], 125, "run: working directory 'relative': ", None),
        (["--name", "a b", "host", "true"], 125, "container name 'a b': ", "letters"),
        (
            ["-it", "--rm", "host", "true"],
            125,
            "run: -t with -i: standard input is not a terminal",
            "leave -t out",
        ),
        (
            ["--env-file", "/nowhere", "host", "true"],
            125,
            "run: --env-file /nowhere: no such file",
            "KEY=VALUE",
        ),
    ],
)
def test_what_cannot_be_run_is_said_in_two_lines(
    lamina: Lamina, argv: list[str], status: int, message: str, hint: str | None
) -> None:
    done = lamina("run", *argv)
    first, *rest = done.stderr.splitlines()
    assert done.returncode == status
    assert first.startswith(f"lamina: {message}")
    assert len(rest) <= 1
    if hint is not None:
        assert rest[0].startswith("hint: ")
        assert hint in rest[0]
    assert ok(lamina("ps", "-aq")) == "", "nothing is left of it"


def test_the_command_gets_what_was_asked_for(lamina: Lamina, tmp_path: Path) -> None:
    variables = tmp_path / "variables"
    variables.write_text("# comment\n\nFROM_FILE=a b\nINHERITED\n")
    script = 'echo "$ONE|$FROM_FILE|$INHERITED|$PWD|$(hostname)|$(id -u):$(id -g)"'
    options = ["-e", "ONE=1=1", "--env-file", variables, "-w", "/usr", "--hostname", "inside", "-u", "12:34"]
    environment = {**os.environ, "INHERITED": "yes"}
    shown = ok(lamina("run", "--rm", *options, "host", "sh", "-c", script, env=environment))
    assert shown == "1=1|a b|yes|/usr|inside|12:34\n"


def test_standard_input_is_only_there_with_i(lamina: Lamina) -> None:
    assert ok(lamina("run", "--rm", "host", "cat", input="text")) == ""
    assert ok(lamina("run", "--rm", "-i", "host", "cat", input="text")) == "text"


def test_output_and_errors_stay_apart(lamina: Lamina) -> None:
    done = lamina("run", "--rm", "host", "--", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_cidfile(lamina: Lamina, tmp_path: Path) -> None:
    file = tmp_path / "id"
    ok(lamina("run", "--cidfile", file, "host", "true"))
    assert ok(lamina("ps", "-aq", "--no-trunc")).strip() == file.read_text()
    again = lamina("run", "--cidfile", file, "host", "true")
    assert again.returncode == 125
    assert f"--cidfile {file}: exists already" in again.stderr
    assert lamina("run", "--cidfile", tmp_path / "other", "debian", "true").returncode == 125
    assert not (tmp_path / "other").exists(), "no container, no file"


@pytest.fixture
def demo(lamina: Lamina, tmp_path: Path) -> Path:
    """A container `demo` that deleted, changed, added and replaced things in the directory that is returned."""
    place = tmp_path / "place"
    (place / "old").mkdir(parents=True)
    for name in ("old/a", "old/b", "text", "kind", "mode", "only"):
        (place / name).write_text(f"{name}\n")
    script = """
        cd "$1"; rm -r old; echo more >>text; rm kind; mkdir kind; chmod 4711 mode; echo new >"$(printf 'odd\\nname')"
        ln -s text link; ln only same; echo said; echo complained >&2; exit 7
    """
    done = lamina("run", "--name", "demo", "--label", "team=a", "host", "--", "sh", "-c", script, "sh", place)
    assert done.returncode == 7, done.stderr
    return place


def test_diff(lamina: Lamina, demo: Path) -> None:
    assert ok(lamina("diff", "demo")).replace(str(demo), "P").splitlines() == [
        "R P/kind/  (file → directory)",
        "A P/link  → text",
        "C P/mode  (mode 644 → 4711, setuid: runs as uid 0)",
        "A $'P/odd\\nname'",
        "D P/old/  (and 2 below it deleted)",
        "A P/same  = P/only",
        "C P/text",
    ]


def test_diff_in_numbers_with_losses_first(lamina: Lamina, demo: Path) -> None:
    lines = ok(lamina("diff", "--stat", "demo")).replace(str(demo), "P").splitlines()
    assert [line[0] for line in lines[:-1]] == ["D", "R", "C", "C", "A", "A", "A"]
    assert lines[3] == "C P/text  5 B → 10 B"
    assert lines[-1] == "3 deleted, 1 replaced, 2 changed, 3 added (14 B written)"


def test_diff_of_everything_below_a_deleted_directory(lamina: Lamina, demo: Path) -> None:
    lines = ok(lamina("diff", "--all", "demo", demo / "old")).replace(str(demo), "P").splitlines()
    assert lines == ["D P/old/", "D P/old/a", "D P/old/b"]


def test_diff_as_a_patch_that_git_applies(lamina: Lamina, demo: Path, tmp_path: Path) -> None:
    patch = ok(lamina("diff", "-p", "demo", demo / "text"))
    assert "+more" in patch.splitlines()
    checked = subprocess.run(
        ["git", "apply", "--unsafe-paths", "--check", f"--directory={'/'}", "-p1"],
        cwd="/",
        input=patch,
        text=True,
        capture_output=True,
    )
    assert checked.returncode == 0, checked.stderr


def test_diff_for_programs(lamina: Lamina, demo: Path) -> None:
    found = {change["path"]: change for change in json.loads(ok(lamina("diff", "--format", "json", "demo")))}
    assert found[f"{demo}/odd\nname"]["kind"] == "added"
    assert found[f"{demo}/mode"]["what"] == ["mode"]
    assert (found[f"{demo}/mode"]["before"]["mode"], found[f"{demo}/mode"]["after"]["mode"]) == (
        0o644,
        0o4711,
    )
    assert found[f"{demo}/old/a"]["implied"] is True
    assert found[str(demo)]["incidental"] is True


def test_names_that_are_not_text_come_through(lamina: Lamina, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\xc3\xb6"
    ok(lamina("run", "--name", "odd", "host", "--", "touch", os.fsdecode(name)))
    assert ok(lamina("diff", "odd")) == f"A $'{tmp_path}/\\xffö'\n"
    (change,) = [c for c in json.loads(ok(lamina("diff", "--format", "json", "odd"))) if not c["incidental"]]
    assert os.fsencode(change["path"]) == name
    ok(lamina("apply", "odd", os.fsdecode(name)))
    assert os.path.exists(name)


def test_paths_from_where_one_is(lamina: Lamina, tmp_path: Path) -> None:
    odd = tmp_path / "[odd]*"
    (odd / "sub").mkdir(parents=True)
    ok(lamina("run", "--name", "here", "host", "--", "touch", odd / "a.txt", odd / "b.md", odd / "sub/c.txt"))

    def seen(*patterns: str) -> list[str]:
        lines = ok(lamina("diff", "here", *patterns, cwd=odd)).splitlines()
        return [line.rpartition("/")[2].strip("'") for line in lines]

    assert seen("*.txt") == ["a.txt"]
    assert seen("**/*.txt") == ["a.txt", "c.txt"]
    assert seen(".") == ["a.txt", "b.md", "c.txt"]
    assert seen("sub", "--exclude", "./sub/../b.md") == ["c.txt"]
    ok(lamina("apply", "here", "sub/..", "--exclude", "sub", cwd=odd))
    assert sorted(os.listdir(odd)) == ["a.txt", "b.md", "sub"]


def test_apply_and_undo(lamina: Lamina, demo: Path) -> None:
    rehearsed = ok(lamina("apply", "--dry-run", "demo", demo / "old", demo / "text"))
    assert rehearsed.splitlines()[-1] == "would apply: 3 deleted, 1 changed (10 B written)"
    assert (demo / "old/a").exists()
    said = ok(lamina("apply", "demo", demo / "old", demo / "text"))
    assert said == "applied: 3 deleted, 1 changed (10 B written); 'lamina undo demo' takes it back\n"
    assert not (demo / "old").exists()
    assert (demo / "text").read_text() == "text\nmore\n"
    assert (demo / "kind").is_file(), "not asked for"
    assert ok(lamina("undo", "demo")) == "undone: 4 paths are as they were\n"
    assert (demo / "old/a").read_text() == "old/a\n"
    said = ok(lamina("apply", "demo"))
    count = sum(map(int, re.findall(r"(\d+) (?:deleted|replaced|changed|added)", said)))
    assert ok(lamina("undo", "demo")) == f"undone: {count} paths are as they were\n", (
        "as many as were applied"
    )
    again = lamina("undo", "demo")
    assert again.returncode == 125
    assert "Traceback" not in again.stderr


def test_apply_says_what_this_system_changed_meanwhile(lamina: Lamina, demo: Path) -> None:
    (demo / "text").write_text("mine\n")
    for verb in (["apply"], ["apply", "--dry-run"]):
        refused = lamina(*verb, "demo")
        assert refused.returncode == (125 if verb == ["apply"] else 1)
        said = refused.stderr + refused.stdout
        assert f"  {demo}/text: changed on the host" in said
        assert re.search(r"    this system: file 0644 0:0, 5 bytes, changed \d{4}-", said)
        assert re.search(r"    container:   file 0644 0:0, 10 bytes", said)
        assert "--force" in said
    assert (demo / "text").read_text() == "mine\n"
    assert "excluded" not in ok(lamina("apply", "demo", "--exclude", demo / "text"))
    assert not (demo / "old").exists()
    assert "overridden" in ok(lamina("apply", "--force", "demo", demo / "text"))
    assert (demo / "text").read_text() == "text\nmore\n"


def test_ps(lamina: Lamina, demo: Path) -> None:
    assert ok(lamina("ps")).splitlines()[1:] == []
    heading, line = ok(lamina("ps", "-a")).splitlines()
    assert heading.split("  ")[0] == "CONTAINER ID"
    assert line.endswith("demo")
    assert "Exited (7)" in line
    assert ok(lamina("ps", "-a", "--format", "{{.Names}}|{{.Image}}|{{.Labels}}")) == "demo|host|team=a\n"
    record = json.loads(ok(lamina("ps", "-a", "--format", "json")))
    assert (record["Names"], record["State"], record["ExitCode"]) == ("demo", "exited", 7)
    assert (
        ok(lamina("ps", "-a", "--format", r"table {{.Names}}\t{{.State}}"))
        == "NAMES   STATE\ndemo    exited\n"
    )


@pytest.mark.parametrize(
    ("filters", "there"),
    [
        (["name=dem"], True),
        (["name=other"], False),
        (["name=other", "name=demo"], True),
        (["status=exited", "exited=7"], True),
        (["status=exited", "exited=0"], False),
        (["label=team"], True),
        (["label=team=b"], False),
        (["ancestor=host"], True),
    ],
)
def test_ps_filters(lamina: Lamina, demo: Path, filters: list[str], there: bool) -> None:
    options = [word for one in filters for word in ("--filter", one)]
    assert bool(ok(lamina("ps", "-aq", *options))) == there


def test_logs(lamina: Lamina, demo: Path) -> None:
    done = lamina("logs", "demo")
    assert (done.stdout, done.stderr) == ("said\n", "complained\n")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z said\n", lamina("logs", "-t", "demo").stdout)
    assert lamina("logs", "--tail", "0", "demo").stdout == ""
    assert lamina("logs", "--tail", "1", "demo").stdout == ""
    assert lamina("logs", "--tail", "all", "demo").stdout == "said\n"
    assert lamina("logs", "--since", "1h", "demo").stdout == "said\n"
    assert lamina("logs", "--until", "1h", "demo").stdout == ""


def test_the_last_lines_of_a_log(lamina: Lamina) -> None:
    ok(lamina("run", "--name", "lines", "host", "--", "sh", "-c", "seq 1 100; printf end"))
    assert ok(lamina("logs", "--tail", "3", "lines")) == "99\n100\nend"
    assert ok(lamina("logs", "-f", "lines")).endswith("100\nend")


def test_inspect(lamina: Lamina, demo: Path) -> None:
    (found,) = json.loads(ok(lamina("inspect", "demo")))
    assert (found["Name"], found["State"]["ExitCode"], found["Config"]["Labels"]) == (
        "demo",
        7,
        {"team": "a"},
    )
    assert (
        ok(lamina("inspect", "-f", "{{.State.ExitCode}} {{json .Config.Labels}}", "demo"))
        == '7 {"team":"a"}\n'
    )
    partly = lamina("inspect", "nobody", "demo")
    assert partly.returncode == 1
    assert len(json.loads(partly.stdout)) == 1
    wrong = lamina("inspect", "-f", "{{.Nmae}}", "demo")
    assert "there is no field .Nmae" in wrong.stderr
    assert ".Name" in wrong.stderr


def test_rm(lamina: Lamina, demo: Path) -> None:
    identity = ok(lamina("ps", "-aq")).strip()
    taken = lamina("run", "--name", "demo", "host", "true")
    assert taken.returncode == 125
    assert "name demo: taken" in taken.stderr
    done = lamina("rm", "nobody", identity[:6])
    assert (done.returncode, done.stdout) == (1, f"{identity[:6]}\n")
    assert "container nobody: no such container" in done.stderr
    assert ok(lamina("ps", "-aq")) == ""
    assert ok(lamina("rm", "--force", "nobody")) == ""
    for verb in ("diff", "logs", "apply", "undo"):
        assert " demo: no such container" in lamina(verb, "demo").stderr.splitlines()[0]


def test_plan_starts_nothing(lamina: Lamina, store_root: Path) -> None:
    lines = ok(lamina("plan", "--hostname", "h", "host", "--", "no-such-command", "-x")).splitlines()
    assert lines[0].startswith("clone3(CLONE_NEWNS|")
    assert any("pivot_root(" in line for line in lines)
    document = json.loads(ok(lamina("plan", "--format", "json", "host", "true")))
    assert "CLONE_NEWPID" in document["clone3"]
    assert document["steps"][0]["number"] == 1
    assert "execve" in {step["call"] for step in document["steps"]} | {
        step["call"].removesuffix("at") for step in document["steps"]
    }
    assert ok(lamina("ps", "-aq")) == ""


def test_info(lamina: Lamina, store_root: Path) -> None:
    text = ok(lamina("info"))
    assert f"store:    {store_root}\n" in text
    assert re.search(r"^  mount_api +(yes|no)", text, re.MULTILINE)
    document = json.loads(ok(lamina("info", "--format", "json")))
    assert document["store"] == str(store_root)
    assert set(document["host"]["mounts"]["mount_api"]) == {"question", "supported", "answer"}


def test_doctor(lamina: Lamina) -> None:
    done = lamina("doctor", "--format", "json")
    levels = [finding["level"] for finding in json.loads(done.stdout)]
    assert done.returncode == int("blocks" in levels)
    assert lamina("doctor").returncode == done.returncode


def test_completion_offers_containers(lamina: Lamina, demo: Path) -> None:
    words = {"COMP_WORDS": "lamina diff de", "COMP_CWORD": "2", "_LAMINA_COMPLETE": "bash_complete"}
    assert ok(lamina(env={**os.environ, **words})) == "plain,demo\n"


@pytest.mark.parametrize(
    "argv", [["ps", "-a"], ["diff", "demo"], ["diff", "--stat", "demo"], ["logs", "demo"]]
)
def test_clean_commands_load_neither_click_nor_rich(lamina: Lamina, demo: Path, argv: list[str]) -> None:
    script = (
        "import sys; from lamina.cli.entry import command_line; status = command_line(sys.argv[1:]);"
        "print([m for m in sys.modules if m.split('.')[0] in ('click', 'rich', 'difflib')], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script, *argv], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"
