"""Hooks: each at its moment, in its namespaces, with the state, a clean environment, and the promised failures."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from support.oci import Bundle, Runtime

pytestmark = pytest.mark.root

MOMENTS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
# writes what it finds to $1/<moment>: its state, namespaces, variables, descriptors and directory
SPY = """#!/bin/sh
exec >"$2/$1"
cat
echo
readlink /proc/self/ns/mnt /proc/self/ns/net /proc/self/ns/pid /proc/self/ns/uts
env
ls /proc/self/fd
pwd
"""


def hook(path: Path | str, *args: str, **more: Any) -> dict[str, Any]:
    return {"path": str(path), "args": [str(path), *args], **more}


def shell(script: str, **more: Any) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], **more}


@pytest.fixture
def spied(runtime: Runtime) -> tuple[Bundle, Path]:
    """A bundle with a spy at every moment, and where these write."""
    bundle = runtime.shell("exec sleep 600")
    told = bundle.rootfs / "told"
    told.mkdir()
    told.chmod(0o777)
    for place in (runtime.directory / "spy", bundle.rootfs / "spy"):
        place.write_text(SPY)
        place.chmod(0o755)
    bundle.config["hooks"] = {
        moment: [hook("/spy", moment, "/told", env=["A=b", "PATH=/usr/bin:/bin"])]
        if moment == "startContainer"
        else [hook(runtime.directory / "spy", moment, str(told), env=["A=b", "PATH=/usr/bin:/bin"])]
        for moment in MOMENTS
    }
    return bundle, told


def read(told: Path, moment: str) -> tuple[dict[str, Any], list[str], str]:
    """The state, the four namespaces, and the rest."""
    state, rest = (told / moment).read_text().split("\n", 1)
    lines = rest.splitlines()
    return json.loads(state), lines[:4], "\n".join(lines[4:])


def namespaces(pid: int | str) -> list[str]:
    return [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("mnt", "net", "pid", "uts")]


def test_every_hook_at_its_moment_in_its_namespaces(runtime: Runtime, spied: tuple[Bundle, Path]) -> None:
    bundle, told = spied
    runtime.create("c", bundle)
    assert sorted(p.name for p in told.iterdir()) == ["createContainer", "createRuntime", "prestart"]
    pid = runtime.state("c")["pid"]
    inside, outside = namespaces(pid), namespaces("self")
    for moment in ("prestart", "createRuntime"):
        state, where, rest = read(told, moment)
        assert (state["id"], state["status"], state["pid"]) == ("c", "creating", pid)
        assert (state["bundle"], where) == (str(bundle.path), outside)
        assert rest.splitlines()[-1] == str(bundle.path)
    state, where, rest = read(told, "createContainer")
    assert (state["status"], state["pid"], where) == ("creating", 1, inside)
    assert rest.splitlines()[-1] == str(bundle.rootfs)
    runtime.start("c")
    assert {p.name for p in told.iterdir()} == {*MOMENTS[:5]}
    state, where, rest = read(told, "startContainer")
    assert (state["status"], state["pid"], where, rest.splitlines()[-1]) == ("created", 1, inside, "/")
    state, where, _ = read(told, "poststart")
    assert (state["status"], state["pid"], where) == ("running", pid, outside)
    runtime.ask("kill", "c", "9")
    runtime.wait("c")
    assert not (told / "poststop").exists()
    assert runtime.ask("delete", "c").returncode == 0
    state, where, _ = read(told, "poststop")
    assert (state["status"], where) == ("stopped", outside)
    assert "pid" not in state


def test_a_hook_gets_nothing_but_what_it_is_given(
    runtime: Runtime, spied: tuple[Bundle, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2025-23266: a variable of the image or of the caller must not reach a program on the host."""
    monkeypatch.setenv("LD_PRELOAD_X", "caller")
    bundle, told = spied
    bundle.config["process"]["env"].append("LD_PRELOAD=/image.so")
    runtime.begin("c", bundle)
    runtime.ask("delete", "-f", "c")
    for moment in MOMENTS:
        _, _, rest = read(told, moment)
        variables = {line.partition("=")[0] for line in rest.splitlines() if "=" in line}
        assert variables - {"_", "PWD", "SHLVL", "OLDPWD"} == {"A", "PATH"}, moment
        descriptors = [line for line in rest.splitlines() if line.isdigit()]
        assert descriptors == ["0", "1", "2", "3"], moment  # 3 is what ls reads


def test_the_root_is_not_changed_before_the_creating_hooks_have_run(runtime: Runtime) -> None:
    """What they mount is the container's."""
    bundle = runtime.shell("cat /mnt/there; ls /mnt/late")
    for name in ("mnt/late", "mnt"):
        (bundle.rootfs / name).mkdir(parents=True, exist_ok=True)
    source = runtime.directory / "source"
    source.mkdir()
    (source / "there").write_text("by a hook\n")
    mount = f"mount --bind {source} {bundle.rootfs}/mnt"
    bundle.config["hooks"] = {"createContainer": [shell(mount, env=["PATH=/usr/bin:/bin:/usr/sbin:/sbin"])]}
    runtime.begin("c", bundle)
    runtime.wait("c")
    assert runtime.output("c") == "by a hook\n"


@pytest.mark.parametrize("moment", ["prestart", "createRuntime", "createContainer"])
@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (shell("echo because >&2; exit 3"), "exit status 3: because"),
        (shell("kill -9 $$"), "signal 9"),
        (shell("exec sleep 60", timeout=1, env=["PATH=/usr/bin:/bin"]), "not ended within 1 s, and killed"),
        (shell("exec yes >&2", timeout=1, env=["PATH=/usr/bin:/bin"]), "not ended within 1 s, and killed"),
        (hook("/no/such"), "No such file or directory"),
    ],
    ids=["status", "signal", "late", "late and loud", "missing"],
)
def test_a_hook_that_fails_ends_the_creation(
    runtime: Runtime, moment: str, bad: dict[str, Any], complaint: str
) -> None:
    bundle = runtime.bundle("true")
    mark = runtime.directory / "poststop"
    bundle.config["hooks"] = {moment: [bad], "poststop": [shell(f"touch {mark}", env=["PATH=/usr/bin:/bin"])]}
    with pytest.raises(AssertionError, match=f"{moment} hook .*{complaint}"):
        runtime.create("c", bundle)
    assert not (runtime.root / "c").exists()
    assert mark.exists()  # its life goes on behind its end (runtime.md, lifecycle, step 4 and 12)


def test_a_hook_ends_when_it_ends_whatever_its_children_say(runtime: Runtime) -> None:
    """Who goes on writing to where it complained keeps nobody waiting."""
    bundle = runtime.shell("exec sleep 600")
    script = "yes >&2 & exit 7"  # which ends when nobody reads it any more
    bundle.config["hooks"] = {"createRuntime": [shell(script, env=["PATH=/usr/bin:/bin"])]}
    with pytest.raises(AssertionError, match=r"createRuntime hook .*exit status 7"):
        runtime.create("c", bundle)


def test_a_start_hook_that_fails_stops_the_container(runtime: Runtime) -> None:
    bundle = runtime.shell("echo started; exec sleep 600")
    bundle.config["hooks"] = {"startContainer": [shell("echo no >&2; exit 1")]}
    runtime.create("c", bundle)
    failed = runtime.ask("start", "c")
    assert (failed.returncode, "startContainer hook /bin/sh: exit status 1: no" in failed.stderr) == (1, True)
    assert (runtime.status("c"), runtime.output("c")) == ("stopped", "")


def test_a_start_hook_has_no_more_privileges_than_the_process(runtime: Runtime) -> None:
    """It is a file of the container."""
    bundle = runtime.shell("exec sleep 600")
    bundle.config["process"]["user"] = {"uid": 1000, "gid": 1000}
    (bundle.rootfs / "told").mkdir()
    (bundle.rootfs / "told").chmod(0o777)
    script = "grep -E '^(Uid|Cap|NoNewPrivs)' /proc/self/status >/told/status"
    bundle.config["hooks"] = {"startContainer": [shell(script, env=["PATH=/usr/bin:/bin"])]}
    runtime.begin("c", bundle)
    own = Path(f"/proc/{runtime.state('c')['pid']}/status").read_text().splitlines()
    told = (bundle.rootfs / "told/status").read_text().splitlines()
    assert told == [line for line in own if line.startswith(("Uid", "Cap", "NoNewPrivs"))]


def test_hooks_after_the_fact_are_only_written_down(runtime: Runtime) -> None:
    bundle = runtime.shell("exec sleep 600")
    mark = runtime.directory / "second"
    second = shell(f"touch {mark}", env=["PATH=/usr/bin:/bin"])
    bundle.config["hooks"] = {"poststart": [shell("exit 4"), second], "poststop": [shell("exit 5")]}
    log = runtime.directory / "log"
    runtime.create("c", bundle)
    assert runtime.ask("--log", log, "--log-format", "json", "start", "c").returncode == 0
    assert runtime.status("c") == "running"
    assert mark.exists()
    assert runtime.ask("--log", log, "--log-format", "json", "delete", "-f", "c").returncode == 0
    said = [json.loads(line) for line in log.read_text().splitlines()]
    assert [one["level"] for one in said] == ["warning", "warning"]
    assert "poststart hook /bin/sh: exit status 4" in said[0]["msg"]
    assert "poststop hook /bin/sh: exit status 5" in said[1]["msg"]


@pytest.mark.parametrize("words", [("run",), ("run", "--detach")])
def test_run_says_what_hooks_failed_at_that_stop_nothing(runtime: Runtime, words: tuple[str, ...]) -> None:
    bundle = runtime.shell("exec sleep 600 >/dev/null 2>&1" if "--detach" in words else "echo ran")
    bundle.config["hooks"] = {"poststart": [shell("exit 4")], "poststop": [shell("exit 5")]}
    done = runtime.ask(*words, "--bundle", bundle.write(), "c")
    assert done.returncode == 0
    assert "poststart hook /bin/sh: exit status 4" in done.stderr
    assert ("poststop hook /bin/sh: exit status 5" in done.stderr) is ("--detach" not in words)


def test_a_hook_may_have_all_the_time_that_the_specification_can_say(runtime: Runtime) -> None:
    bundle = runtime.bundle("true")
    bundle.config["hooks"] = {
        "createRuntime": [{"path": "/bin/true", "timeout": most} for most in (1 << 31, (1 << 63) - 1)]
    }
    runtime.create("c", bundle)


@pytest.mark.parametrize(
    "hooks",
    [
        {"createRuntime": [{"path": "relative"}]},
        {"createRuntime": [{"args": ["x"]}]},
        {"createRuntime": [{"path": "/bin/true", "timeout": 0}]},
        {"createRuntime": [{"path": "/bin/true", "timeout": -1}]},
        {"createRuntime": [{"path": "/bin/true", "args": ["a\0b"]}]},
        {"sometimes": [{"path": "/bin/true"}]},
    ],
)
def test_a_hook_that_cannot_be_meant_is_refused(runtime: Runtime, hooks: dict[str, Any]) -> None:
    bundle = runtime.bundle("true")
    bundle.config["hooks"] = hooks
    with pytest.raises(AssertionError, match="hook"):
        runtime.create("c", bundle)
    assert not (runtime.root / "c").exists()
