"""What the command writes is what the OCI specifications' schemas allow, and what it says of itself is true."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft4Validator
from referencing import Registry
from referencing.jsonschema import DRAFT4

from lamina.runtime.plan.namespaces import FLAGS
from support.oci import COMMAND, Runtime

SCHEMAS = Path(__file__).parent.parent / "data/runtime-spec"


def validator(name: str) -> Draft4Validator:
    """The schema *name*, whose references go to the files beside it."""
    resources = [
        (path.name, DRAFT4.create_resource(json.loads(path.read_text()))) for path in SCHEMAS.glob("*.json")
    ]
    schema = json.loads((SCHEMAS / name).read_text())
    schema.pop("id", None)
    return Draft4Validator(schema, registry=Registry().with_resources(resources))


def complaints(name: str, document: Any) -> list[str]:
    return [f"{list(error.path)}: {error.message}" for error in validator(name).iter_errors(document)]


def ask(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=200, **options)


def test_the_schemas_are_in_use() -> None:
    """A validator that finds nothing wrong with anything proves nothing."""
    assert complaints("features-schema.json", {"ociVersionMin": 1})
    assert complaints("state-schema.json", {"ociVersion": "1.0.2", "id": "x", "status": "x"})
    assert complaints("config-schema.json", {"ociVersion": "1.0.2", "linux": {"namespaces": [{"type": "x"}]}})


def test_features_are_as_the_schema_has_them_and_true() -> None:
    done = ask("features")
    assert (done.returncode, done.stderr) == (0, "")
    features = json.loads(done.stdout)
    assert complaints("features-schema.json", features) == []
    assert features["linux"]["namespaces"] == sorted(FLAGS)
    assert {"ro", "rro", "rbind", "rprivate", "nosymfollow", "relatime"} <= set(features["mountOptions"])
    schema = json.loads((SCHEMAS / "defs-linux.json").read_text())["definitions"]
    seccomp = features["linux"]["seccomp"]
    assert set(schema["SeccompAction"]["enum"]) == set(seccomp["actions"])
    assert set(schema["SeccompOperators"]["enum"]) == set(seccomp["operators"])
    assert set(seccomp["archs"]) <= set(schema["SeccompArch"]["enum"])
    assert set(seccomp["supportedFlags"]) <= set(seccomp["knownFlags"])
    known = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    assert len(features["linux"]["capabilities"]) == known + 1
    assert features["linux"]["intelRdt"] == {"enabled": False}


@pytest.mark.parametrize("words", [[], ["--rootless"]])
def test_spec_writes_a_specification(tmp_path: Path, words: list[str]) -> None:
    assert ask("spec", *words, "--bundle", str(tmp_path)).returncode == 0
    assert complaints("config-schema.json", json.loads((tmp_path / "config.json").read_text())) == []
    again = ask("spec", *words, cwd=tmp_path)
    assert (again.returncode, "it is there already" in again.stderr) == (1, True)


@pytest.mark.root
def test_what_spec_writes_can_be_run(runtime: Runtime) -> None:
    bundle = runtime.bundle()
    ours = bundle.config
    assert runtime.ask("spec", "--bundle", bundle.path).returncode == 0
    written = json.loads((bundle.path / "config.json").read_text())
    written["mounts"] += [mount for mount in ours["mounts"] if mount["type"] == "bind"]
    written["process"].update(terminal=False, args=["sh", "-c", "id -u; hostname"])
    bundle.config = written
    done = runtime.ask("run", "--bundle", bundle.write(), "c")
    assert (done.returncode, done.stdout) == (0, "0\nlamina\n"), done.stderr


@pytest.mark.root
def test_states_are_as_the_schema_has_them(runtime: Runtime) -> None:
    bundle = runtime.bundle("sleep", "600")
    bundle.config["annotations"] = {"com.example.key": "välue"}
    runtime.create("c", bundle)
    for step, status in ((None, "created"), ("start", "running"), ("kill", "stopped")):
        if step == "start":
            runtime.start("c")
        elif step == "kill":
            runtime.ask("kill", "c", "9")
            runtime.wait("c")
        state = runtime.state("c")
        assert complaints("state-schema.json", state) == []
        assert (state["status"], state["annotations"]) == (status, {"com.example.key": "välue"})
        assert (state["pid"] > 0) == (status != "stopped")


def test_version_is_what_callers_parse() -> None:
    for words in (["--version"], ["-v"]):
        done = ask(*words)
        assert done.returncode == 0
        # cri-o, podman and containerd look for these
        assert re.match(r"lamina-runtime version \S+\nspec: 1\.\d+\.\d+\n", done.stdout)


def test_help_is_there_for_everything() -> None:
    done = ask("--help")
    assert done.returncode == 0
    verbs = re.findall(r"^  ([a-z]+) ", done.stdout, re.MULTILINE)
    assert {"create", "start", "state", "kill", "delete", "run", "exec", "features"} <= set(verbs)
    for verb in verbs:
        own = ask(verb, "--help")
        assert own.returncode == 0
        assert own.stdout.startswith(f"usage: lamina-runtime {verb}")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--nonsense", "list"], "there is no option --nonsense"),
        (["create", "--nonsense", "c"], "there is no option --nonsense"),
        (["create"], "the arguments do not fit (it takes ID)"),
        (["state", "a", "b"], "the arguments do not fit"),
        (["create", "--preserve-fds", "x", "c"], "--preserve-fds 'x' is not a number"),
        (["create", "--pid-file"], "--pid-file needs a value"),
        (["list", "--format", "xml"], "table, json are possible"),
        (["creat", "c"], "did you mean create?"),
        (["checkpoint", "c"], "not supported"),
        (["restore", "c"], "not supported"),
    ],
)
def test_what_cannot_be_meant_is_said(words: list[str], complaint: str) -> None:
    done = ask(*words)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_flags_may_be_spelt_as_in_go(tmp_path: Path) -> None:
    words = [
        "--root",
        str(tmp_path),
        "--systemd-cgroup=false",
        "--debug=true",
        "--rootless=false",
        "list",
        "--quiet=true",
    ]
    assert ask(*words).returncode == 0


def test_errors_are_lines_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    done = ask("--root", str(tmp_path / "r"), "--log", str(log), "--log-format", "json", "state", "none")
    assert done.returncode == 1
    assert "container none does not exist" in done.stderr
    assert (
        ask(
            "--root", str(tmp_path / "r"), "--log", str(log), "--log-format=json", "state", "b\xe4d"
        ).returncode
        == 1
    )
    first, second = (json.loads(line) for line in log.read_text().splitlines())
    assert (first["level"], first["msg"]) == ("error", "container none does not exist")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first["time"])
    assert "invalid" in second["msg"]
    text = tmp_path / "log.txt"
    ask("--root", str(tmp_path / "r"), "--log", str(text), "state", "none")
    assert re.fullmatch(r'time="\S+" level=error msg="container none does not exist"\n', text.read_text())


def test_an_unwritable_log_hides_no_error(tmp_path: Path) -> None:
    done = ask("--root", str(tmp_path / "r"), "--log", "/no/such/log", "state", "none")
    assert done.returncode == 1
    assert "container none does not exist" in done.stderr


FOLLOW = """
import sys
sys.path.insert(0, {src!r})
before = set(sys.modules)
from lamina.runtime_cli.entry import command_line
status = command_line({words!r})
with open({report!r}, "w") as report:
    report.write("\\n".join(sorted(set(sys.modules) - before)))
sys.exit(status)
"""
BUILT_IN = (
    "__future__ errno fcntl gc marshal resource select stat struct time _json _posixsubprocess _signal _socket _stat "
    "_struct binascii os os.path posixpath genericpath abc _abc _collections_abc codecs encodings io pwd"
)
ALLOWED = frozenset(BUILT_IN.split())


@pytest.mark.root
def test_verbs_load_only_what_they_need(runtime: Runtime, tmp_path: Path) -> None:
    """The start-up budget (see tests/architecture/test_start_up.py): each of these costs more than a mount."""
    src = str(Path(__file__).resolve().parent.parent.parent / "src")
    bundle = runtime.bundle("sleep", "600")
    bundle.config["linux"]["resources"] = {"pids": {"limit": 50}, "memory": {"limit": 1 << 28}}
    root = ["--root", str(runtime.root)]
    for _ in range(2):  # the second time nothing has to be compiled and kept any more
        for words in (
            ["create", "--bundle", str(bundle.write()), "c"],
            ["state", "c"],
            ["start", "c"],
            ["exec", "c", "true"],
            ["kill", "c", "KILL"],
            ["delete", "--force", "c"],
        ):
            report = tmp_path / "loaded"
            text = FOLLOW.format(src=src, words=[*root, *words], report=str(report))
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", text],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                timeout=200,
            )
            assert done.returncode == 0, words
            loaded = {name for name in report.read_text().split() if name.split(".")[0] != "lamina"}
            assert loaded <= ALLOWED, (words, sorted(loaded - ALLOWED))
