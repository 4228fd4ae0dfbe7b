"""AppArmor profiles, on a kernel that has them (`make test-vm`): who is confined, by what, and what is said if not."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.errors import StepFailed
from support.bundles import over_host, small
from support.oci import Bundle, Runtime
from support.starting import run, said

pytestmark = [pytest.mark.root, pytest.mark.vm]
CURRENT = "/proc/self/attr/apparmor/current"
LOOK = f"cat {CURRENT}; cat /secret || true; echo seen >/tmp/a; cat /tmp/a"
# what is not said is allowed, but for one file
PROFILE = """profile {name} flags=(attach_disconnected,mediate_deleted) {{
  file, capability, network, unix, signal, ptrace, mount, umount, pivot_root, userns,
  deny {secret} rw,
}}
"""


@pytest.fixture
def profile(tmp_path: Path) -> Iterator[str]:
    """A profile that forbids /secret and nothing else, loaded into the kernel."""
    name = f"lamina-test-{os.urandom(4).hex()}"
    text = PROFILE.format(name=name, secret="/secret")
    subprocess.run(["apparmor_parser", "-q", "-K", "-a"], input=text, text=True, check=True)
    yield name
    subprocess.run(["apparmor_parser", "-q", "-K", "-R"], input=text, text=True, check=True)


def guarded(runtime: Runtime, script: str, **process: object) -> Bundle:
    bundle = runtime.shell(script, **process)
    (bundle.rootfs / "secret").write_text("told\n")
    return bundle


@pytest.mark.parametrize("new_privileges", [False, True])
def test_the_first_process_is_confined_from_its_first_instruction(
    runtime: Runtime, profile: str, new_privileges: bool
) -> None:
    bundle = guarded(runtime, LOOK, apparmorProfile=profile, noNewPrivileges=not new_privileges)
    runtime.begin("c", bundle)
    runtime.wait("c", patience=60)
    confined, *rest = runtime.output("c").splitlines()
    assert confined == f"{profile} (enforce)"
    assert rest == ["seen"]
    assert "/secret: Permission denied" in (runtime.directory / "c.err").read_text()


@pytest.mark.parametrize("asked", [None, "unconfined"])
def test_nobody_is_confined_who_did_not_ask_for_it(runtime: Runtime, profile: str, asked: str | None) -> None:
    runtime.begin("c", guarded(runtime, LOOK, **({"apparmorProfile": asked} if asked else {})))
    runtime.wait("c", patience=60)
    assert runtime.output("c").splitlines() == ["unconfined", "told", "seen"]


def test_a_further_process_is_confined_as_the_container_or_as_it_asks(runtime: Runtime, profile: str) -> None:
    runtime.begin("c", guarded(runtime, "exec sleep 600", apparmorProfile=profile))
    done = runtime.ask("exec", "c", "/bin/sh", "-c", LOOK)
    assert (done.stdout.splitlines(), done.returncode) == ([f"{profile} (enforce)", "seen"], 0)
    assert "/secret: Permission denied" in done.stderr
    done = runtime.ask("exec", "--apparmor", "unconfined", "c", "/bin/sh", "-c", LOOK)
    assert done.stdout.splitlines() == ["unconfined", "told", "seen"]


def test_a_further_process_is_confined_where_the_container_is_not(runtime: Runtime, profile: str) -> None:
    runtime.begin("c", guarded(runtime, "exec sleep 600"))
    done = runtime.ask("exec", "--apparmor", profile, "c", "/bin/sh", "-c", LOOK)
    assert done.stdout.splitlines() == [f"{profile} (enforce)", "seen"], done.stderr


def test_a_hook_inside_is_confined_as_the_container(runtime: Runtime, profile: str) -> None:
    bundle = guarded(runtime, "exec sleep 600", apparmorProfile=profile)
    (bundle.rootfs / "told").mkdir()
    script = f"exec >/told/it; {LOOK}"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}
    bundle.config["hooks"] = {"startContainer": [hook]}
    runtime.begin("c", bundle)
    assert (bundle.rootfs / "told/it").read_text().splitlines() == [f"{profile} (enforce)", "seen"]


def test_a_profile_that_is_not_loaded_is_named(runtime: Runtime, profile: str) -> None:
    bundle = guarded(runtime, "true", apparmorProfile="no-such-profile")
    log = runtime.directory / "log"
    with pytest.raises(AssertionError, match="AppArmor profile no-such-profile: it is not loaded"):
        runtime.create("c", bundle)
    done = runtime("--log", log, "--log-format", "json", "create", "--bundle", bundle.path, "c")
    assert done.returncode == 1
    assert "no-such-profile" in json.loads(log.read_text().splitlines()[-1])["msg"]
    runtime.begin("c", guarded(runtime, "exec sleep 600", apparmorProfile=profile))
    done = runtime.ask("exec", "--apparmor", "no-such-profile", "c", "true")
    assert done.returncode == 255
    assert "AppArmor profile no-such-profile: it is not loaded" in done.stderr
    assert runtime.status("c") == "running"


def test_in_a_user_namespace(runtime: Runtime, profile: str) -> None:
    bundle = guarded(runtime, LOOK, apparmorProfile=profile)
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    for kind in ("uidMappings", "gidMappings"):
        bundle.config["linux"][kind] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    runtime.begin("c", bundle)
    runtime.wait("c", patience=60)
    assert runtime.output("c").splitlines() == [f"{profile} (enforce)", "seen"]


@pytest.mark.parametrize("init", [False, True])
def test_what_the_library_starts_is_confined(tmp_path: Path, profile: str, init: bool) -> None:
    """Here the command is executed by a launcher that is confined already, below an init or not."""
    spec = small("/bin/sh", "-c", f"cat {CURRENT}", apparmorProfile=profile)
    spec["mounts"] = [{"destination": "/proc", "type": "proc", "source": "proc"}]
    assert said(over_host(tmp_path, spec, init=init)) == f"{profile} (enforce)\n"
    spec["process"]["apparmorProfile"] = "no-such-profile"
    with pytest.raises(StepFailed, match="AppArmor profile no-such-profile: it is not loaded"):
        run(over_host(tmp_path, spec, init=init))
