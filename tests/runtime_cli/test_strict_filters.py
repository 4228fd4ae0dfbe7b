"""Filters of system calls that permit next to nothing: the command is started, or it is said that it was not."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import LaminaError
from support.bundles import over_host, small
from support.oci import Bundle, Runtime
from support.starting import run

pytestmark = [pytest.mark.root, pytest.mark.peer("gcc")]
KILL, REFUSE, ALLOW = "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW"
TRAPPED = 128 + 5
SYS_ADMIN = 1 << 21
# programs without a system call: one that ends by a trap of its own, and one that goes on
TRAP = "void _start(void) { __asm__ volatile(%s); }"
SPIN = "void _start(void) { for (;;); }"
INSTRUCTION = {"x86_64": '"int3"', "aarch64": '"brk #0"'}
GAINING = pytest.mark.parametrize("confined", [True, False], ids=["gains none", "may gain privileges"])


def permitting(*names: str, otherwise: str = KILL) -> dict[str, Any]:
    rules = [{"names": list(names), "action": ALLOW}] if names else []
    return {"defaultAction": otherwise, "syscalls": rules}


def program(place: Path, source: str) -> None:
    text = source % INSTRUCTION[platform.machine()] if "%s" in source else source
    subprocess.run(
        ["gcc", "-static", "-nostdlib", "-O1", "-x", "c", "-o", place, "-"], input=text, text=True, check=True
    )


def bundle_of(runtime: Runtime, source: str, confined: bool, uid: int = 0) -> Bundle:
    bundle = runtime.bundle("/program", noNewPrivileges=confined, user={"uid": uid, "gid": uid})
    program(bundle.rootfs / "program", source)
    return bundle


@GAINING
@pytest.mark.parametrize("uid", [0, 1000])
def test_execve_is_all_that_a_container_needs(runtime: Runtime, confined: bool, uid: int) -> None:
    bundle = bundle_of(runtime, TRAP, confined, uid)
    bundle.config["linux"]["seccomp"] = permitting("execve")
    done = runtime("run", "--bundle", bundle.write(), "c", capture_output=True)
    assert (done.returncode, done.stderr) == (TRAPPED, "")


@GAINING
def test_execve_is_all_that_a_further_process_needs(runtime: Runtime, confined: bool) -> None:
    bundle = bundle_of(runtime, SPIN, confined)
    program(bundle.rootfs / "trap", TRAP)
    bundle.config["linux"]["seccomp"] = permitting("execve")
    runtime.begin("c", bundle)
    done = runtime.ask("exec", "c", "/trap")
    assert (done.returncode, done.stderr) == (TRAPPED, "")


@GAINING
@pytest.mark.usefixtures("subreaper")  # of whom somebody has reaped already, nobody can tell how he ended
@pytest.mark.parametrize("otherwise", [KILL, REFUSE])
def test_without_execve_it_is_said_that_nothing_was_started(
    runtime: Runtime, confined: bool, otherwise: str
) -> None:
    bundle = bundle_of(runtime, TRAP, confined)
    bundle.config["linux"]["seccomp"] = permitting(otherwise=otherwise)
    runtime.create("c", bundle)
    done = runtime.ask("start", "c")
    assert done.returncode == 1
    assert "start: the process was killed before it could execute its command" in done.stderr
    runtime.wait("c")
    assert runtime.ask("delete", "c").returncode == 0


@GAINING
def test_a_command_that_is_not_there_is_found_out_before_the_filter(runtime: Runtime, confined: bool) -> None:
    bundle = runtime.bundle("/nothing", noNewPrivileges=confined)
    bundle.config["linux"]["seccomp"] = permitting("execve")
    with pytest.raises(AssertionError, match="No such file or directory"):
        runtime.create("c", bundle)


@GAINING
@pytest.mark.parametrize("closing", ["fcntl", "ioctl", "close"])
def test_what_the_library_needs(tmp_path: Path, confined: bool, closing: str) -> None:
    spec = small("/program", noNewPrivileges=confined)
    bundle = over_host(tmp_path, spec)
    program(tmp_path / "upper/program", TRAP)
    # where a call is refused and nobody is killed for it, the next is tried
    spec["linux"]["seccomp"] = permitting("execveat", "execve", closing, otherwise=REFUSE)
    assert run(bundle)[0] == TRAPPED


@GAINING
@pytest.mark.parametrize("names", [(), ("execveat",), ("execveat", "fcntl")])
def test_what_the_library_cannot_start(tmp_path: Path, confined: bool, names: tuple[str, ...]) -> None:
    spec = small("/bin/true", noNewPrivileges=confined)
    spec["linux"]["seccomp"] = permitting(*names)
    with pytest.raises(LaminaError, match="killed before it could execute its command"):
        run(over_host(tmp_path, spec))


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "listed"])
@pytest.mark.parametrize("names", [(), ("execveat",)])
def test_what_may_not_even_exit_ends_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], compiled: bool
) -> None:
    if not compiled:
        monkeypatch.setattr("lamina.runtime.init._compiled", lambda: b"")
    spec = small("/bin/true")
    spec["linux"]["seccomp"] = permitting(*names, otherwise=REFUSE)
    with pytest.raises(LaminaError, match=r"killed before it could execute its command|not permitted"):
        run(over_host(tmp_path, spec))


@pytest.mark.parametrize("uid", [0, 1000])
def test_nothing_is_left_of_what_the_filter_took(runtime: Runtime, tmp_path: Path, uid: int) -> None:
    """CAP_SYS_ADMIN, which is kept for as long as that is to be done."""
    given = {kind: ["CAP_CHOWN", "CAP_KILL"] for kind in ("bounding", "permitted", "effective")}
    process: dict[str, Any] = {"noNewPrivileges": False, "capabilities": given}
    process["user"] = {"uid": uid, "gid": uid}
    filtering = {"defaultAction": ALLOW, "syscalls": [{"names": ["swapon"], "action": REFUSE}]}

    def is_free(status: str) -> bool:
        sets = dict(line.split(":\t") for line in status.splitlines() if line.startswith(("Cap", "Seccomp:")))
        assert sets.pop("Seccomp") == "2"
        assert int(sets["CapBnd"], 16) == 1 | 1 << 5
        return not any(int(bits, 16) & SYS_ADMIN for bits in sets.values())

    bundle = runtime.shell("cat /proc/self/status; exec sleep 600", **process)
    bundle.config["linux"]["seccomp"] = filtering
    runtime.begin("c", bundle)
    assert is_free(runtime.wait_output("c", "Seccomp:\t2"))
    assert is_free(runtime.ask("exec", "c", "cat", "/proc/self/status").stdout)
    assert is_free(Path(f"/proc/{runtime.state('c')['pid']}/status").read_text())
    spec = small("/bin/cat", "/proc/self/status", **process)
    spec["linux"]["seccomp"] = filtering
    spec["mounts"] = [{"destination": "/proc", "type": "proc", "source": "proc"}]
    (tmp_path / "launched").mkdir()
    assert is_free(run(over_host(tmp_path / "launched", spec))[1])
    assert os.path.exists(runtime.root / "c")
