"""What is typed is done or refused: of a command line of `lamina-runtime` nothing is passed over in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lamina.runtime_cli.about import usage_error
from support.oci import Runtime

pytestmark = pytest.mark.root


def test_a_running_container(runtime: Runtime, tmp_path: Path) -> None:
    runtime.begin("box", runtime.bundle("sleep", "1000"))

    # words that look like a flag of ours in Go's spelling belong to the command, or to an option's value
    said = runtime.ask(
        "exec", "--env=A=true", "box", "sh", "-c", 'echo "$A" "$@"', "sh", "--b=false", "--c=true"
    )
    assert said.stdout == "true --b=false --c=true\n"
    file = tmp_path / "pid=true"
    assert runtime("exec", "--detach=true", f"--pid-file={file}", "box", "true").returncode == 0
    assert file.read_text().isdigit()

    process = tmp_path / "process.json"
    process.write_text(json.dumps({"args": ["id", "-u"], "cwd": "/", "env": ["PATH=/usr/bin:/bin"]}))
    assert runtime.ask("exec", "--process", process, "box").stdout == "0\n"
    for words in (
        ["--user", "5"], ["--additional-gids", "5"], ["--cwd", "/tmp"], ["--env", "A=b"], ["--cap", "CAP_KILL"],
        ["--no-new-privs"], ["--apparmor", "a"], ["--process-label", "a"],
    ):  # fmt: skip
        refused = runtime.ask("exec", "--process", process, *words, "box")
        assert refused.returncode == 255
        assert f"{words[0]} and --process exclude each other" in refused.stderr
    refused = runtime.ask("exec", "--console-socket", tmp_path / "socket", "box", "true")
    assert refused.returncode == 255
    assert "no terminal" in refused.stderr
    refused = runtime.ask("ps", "--format", "json", "box", "-ef")
    assert refused.returncode == 1
    assert "-ef is for ps(1)" in refused.stderr


def test_what_concerns_later_processes_is_looked_at_now(runtime: Runtime) -> None:
    bundle = runtime.bundle("true")
    bundle.config["process"]["execCPUAffinity"] = {"final": "all"}
    refused = runtime.ask("create", "--bundle", bundle.write(), "box")
    assert refused.returncode == 1
    assert "process.execCPUAffinity.final" in refused.stderr
    del bundle.config["process"]["execCPUAffinity"]
    bundle.config["hostname"] = "x" * 65
    refused = runtime.ask("create", "--bundle", bundle.write(), "box")
    assert "the kernel takes at most 64 bytes" in refused.stderr


def test_a_container_that_cannot_be_listed_is_named(runtime: Runtime) -> None:
    for name in ("one", "other"):
        runtime.create(name, runtime.bundle("true"))
    record = runtime.root / "one/state.json"
    whole = record.read_text()
    record.write_text("{")
    listed = runtime.ask("list", "--format", "json")
    assert [found["id"] for found in json.loads(listed.stdout)] == ["other"]
    assert "container one is not listed" in listed.stderr
    record.write_text(whole)


@pytest.mark.parametrize("verb", ["checkpoint", "restore"])
def test_what_is_refused_is_so_with_every_option_that_runc_has(runtime: Runtime, verb: str) -> None:
    refused = runtime.ask(verb, "--image-path", "/nowhere", "--tcp-established", "--bundle=.", "box")
    assert refused.returncode == 1
    assert "not supported" in refused.stderr


@pytest.mark.cgroup_v1("memory", "pids")
def test_a_group_of_one_controller(runtime: Runtime) -> None:
    """`exec --cgroup CONTROLLER:PATH`, as often as one likes; and what it cannot be."""
    runtime.begin("box", runtime.bundle("sleep", "1000"))
    record = json.loads((runtime.root / "box/state.json").read_text())["cgroup"]["paths"]
    names = ["memory", "pids"]
    for name in names:
        Path(record[name], "inner").mkdir()
    said = runtime.ask(
        "exec",
        "--cgroup",
        f"{names[0]}:inner",
        "--cgroup",
        f"{names[1]}:/",
        "box",
        "cat",
        "/proc/self/cgroup",
    )
    where = {tuple(line.split(":")[1].split(",")): line.split(":")[2] for line in said.stdout.splitlines()}
    found = {name: path for listed, path in where.items() for name in listed}
    assert found[names[0]] == "/inner"
    assert found[names[1]] == "/"
    for words, complaint in (
        (["nosuch:inner"], "no group of a controller 'nosuch'"),
        ([f"{names[0]}:a", f"{names[0]}:b"], "named twice"),
        ([f"{names[0]}:a", "b"], "not said of which controller"),
        ([f"{names[0]}:../a"], "not a path inside"),
    ):
        options = [option for word in words for option in ("--cgroup", word)]
        refused = runtime.ask("exec", *options, "box", "true")
        assert refused.returncode == 255
        assert complaint in refused.stderr


def test_kernel_memory_is_no_limit_of_its_own_and_that_is_said(runtime: Runtime) -> None:
    runtime.begin("box", runtime.bundle("sleep", "1000"))
    done = runtime.ask("update", "--kernel-memory", "64m", "box")
    assert "kernel" in done.stderr, done


def test_the_words_of_a_flag_that_is_neither() -> None:
    said = str(usage_error(["--debug=perhaps", "list"], ""))
    assert "--debug 'perhaps': true, false are possible" in said
    said = str(usage_error(["--root", "/somewhere", "--log-format", "xml", "list"], ""))
    assert "--log-format 'xml': text, json are possible" in said
