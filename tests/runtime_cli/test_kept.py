"""Containers whose plans are kept: the second is as the first would have been, whatever changed meanwhile."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from support.oci import Bundle, Runtime

pytestmark = pytest.mark.root
ONE, OTHER = "1" * 40 + "a" * 24, "f0" * 32


def said(runtime: Runtime, identity: str, bundle: Bundle) -> str:
    """What the container writes, run to its end."""
    done = runtime.ask("run", "--bundle", bundle.write(), identity)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def plans(runtime: Runtime) -> dict[str, int]:
    """The recipes that are kept, and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in (runtime.root / ".plans").glob("*.plan")}


def test_each_container_has_its_own_root_name_and_mounts(runtime: Runtime) -> None:
    for identity in (ONE, OTHER, ONE):
        bundle = runtime.shell("hostname; cat /mark /mnt/source; tail -n1 /proc/self/mountinfo | wc -l")
        (bundle.rootfs / "mark").write_text(f"root of {identity}\n")
        (bundle.rootfs / "mnt").mkdir()
        source = runtime.directory / identity
        source.mkdir(exist_ok=True)
        (source / "source").write_text(f"source of {identity}\n")
        bundle.config["hostname"] = identity[:12]
        bundle.config["mounts"].append(
            {"destination": "/mnt", "type": "bind", "source": str(source), "options": ["rbind", "ro"]}
        )
        assert said(runtime, identity, bundle) == (
            f"{identity[:12]}\nroot of {identity}\nsource of {identity}\n1\n"
        )
    assert len(plans(runtime)) == 1
    assert (runtime.root / ".plans").stat().st_mode & 0o777 == 0o700


def test_a_source_in_the_bundle_is_the_bundles_own(runtime: Runtime) -> None:
    for name in ("one", "two"):
        bundle = runtime.shell("cat /mnt/source")
        for place in (bundle.rootfs / "mnt", bundle.path / "data"):
            place.mkdir()
        (bundle.path / "data/source").write_text(f"of {name}\n")
        bundle.config["mounts"].append(
            {"destination": "/mnt", "type": "none", "source": "data", "options": ["bind"]}
        )
        assert said(runtime, "c", bundle) == f"of {name}\n"


def test_the_second_run_of_a_bundle_compiles_nothing(runtime: Runtime) -> None:
    bundle = runtime.shell("echo $HOME")
    bundle.config["process"]["env"].append("HOME=/x")
    first = said(runtime, "one", bundle)
    before = plans(runtime)
    assert len(before) == 1
    assert said(runtime, "another", bundle) == first == "/x\n"
    assert plans(runtime) == before


def test_what_a_file_of_the_container_says_is_read_each_time(runtime: Runtime) -> None:
    bundle = runtime.shell("echo $HOME")
    for home in ("/one", "/two", "/one"):
        (bundle.rootfs / "etc/passwd").write_text(f"root:x:0:0::{home}:/bin/sh\n")
        assert said(runtime, "c", bundle) == f"{home}\n"


def test_a_source_may_have_become_a_file_or_a_directory(runtime: Runtime) -> None:
    bundle = runtime.shell("test -d /mnt/x && echo directory; test -f /mnt/x && echo file; true")
    (bundle.rootfs / "mnt").mkdir()
    source = runtime.directory / "source"
    bundle.config["mounts"].append(
        {"destination": "/mnt/x", "type": "bind", "source": str(source), "options": ["rbind"]}
    )
    for kind in ("file", "directory", "file"):
        target = bundle.rootfs / "mnt/x"
        if target.is_dir():
            target.rmdir()
        else:
            target.unlink(missing_ok=True)
        if kind == "file":
            source.touch()
        else:
            source.unlink()
            source.mkdir()
        assert said(runtime, "c", bundle) == f"{kind}\n"
        if kind == "directory":
            source.rmdir()
    source.unlink()
    done = runtime.ask("run", "--bundle", bundle.write(), "c")
    assert done.returncode == 1 and "source" in done.stderr


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_a_command_that_is_not_there_is_named_each_time(verb: str, runtime: Runtime) -> None:
    runtime.begin("long", runtime.bundle("sleep", "600"))
    bundle = runtime.bundle("no-such-command")
    complaints = []
    for _ in range(2):
        if verb == "run":
            done = runtime.ask("run", "--bundle", bundle.write(), "c")
        else:
            done = runtime.ask("exec", "long", "no-such-command")
        assert done.returncode == (1 if verb == "run" else 255)
        complaints.append(done.stderr)
    assert complaints[0] == complaints[1]
    assert "no-such-command" in complaints[0]


def test_a_mount_that_fails_is_named_each_time(runtime: Runtime) -> None:
    bundle = runtime.bundle("true")
    bundle.config["mounts"].append({"destination": "/srv", "type": "nosuchfs", "source": "x"})
    complaints = [runtime.ask("run", "--bundle", bundle.write(), ONE).stderr for _ in range(2)]
    assert complaints[0] == complaints[1]
    assert "nosuchfs" in complaints[0]


def test_limits_are_this_containers(runtime: Runtime) -> None:
    bundle = runtime.shell("ulimit -n")
    for limit in (512, 1024, 512):
        bundle.config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": limit, "hard": limit}]
        assert said(runtime, "c", bundle) == f"{limit}\n"


def test_what_exec_adds_is_its_own(runtime: Runtime) -> None:
    runtime.begin("long", runtime.bundle("sleep", "600"))
    for name in ("one", "two", "one"):
        done = runtime.ask("exec", "-e", f"NAME={name}", "long", "sh", "-c", "echo $NAME")
        assert done.stdout == f"{name}\n", done.stderr
    for uid in (7, 8):
        assert runtime.ask("exec", "-u", str(uid), "long", "id", "-u").stdout == f"{uid}\n"


@pytest.mark.parametrize("damage", ["cut", "other", "empty"])
def test_a_damaged_plan_is_as_good_as_none(damage: str, runtime: Runtime) -> None:
    bundle = runtime.shell("echo here")
    assert said(runtime, "c", bundle) == "here\n"
    for path in (runtime.root / ".plans").iterdir():
        data = path.read_bytes()
        changed = {"cut": data[:-1], "other": data[:-9] + b"x" + data[-8:], "empty": b""}[damage]
        path.write_bytes(changed)
    assert said(runtime, "c", bundle) == "here\n"


def test_a_place_that_cannot_be_written_costs_time_only(runtime: Runtime) -> None:
    runtime.root.mkdir(mode=0o700)
    (runtime.root / ".plans").write_text("in the way")
    assert said(runtime, "c", runtime.shell("echo here")) == "here\n"


def test_nothing_of_it_is_a_container(runtime: Runtime) -> None:
    said(runtime, "c", runtime.shell("true"))
    assert json.loads(runtime.ask("list", "--format", "json").stdout or "[]") in (None, [])
    assert {name for name in os.listdir(runtime.root) if not Path(runtime.root, name).is_dir()} == set()
