"""SCMP_ACT_NOTIFY from end to end: an agent answers for a container."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import InvalidInput, KernelError
from lamina.linux.numbers import number
from lamina.runtime.launch import launch
from lamina.values import replace
from support.agent import ANSWER, CONTINUE, NOTIF, Agent, profile
from support.bundles import over_host, small
from support.held import held_descriptors
from support.process import children
from support.starting import run, said

pytestmark = pytest.mark.root

CODE = "import os; print(os.getppid(), flush=True); os._exit(0)"


@pytest.mark.parametrize("privileges", [True, False], ids=["no new privileges", "privileges"])
def test_an_agent_answers_for_a_container(tmp_path: Path, privileges: bool) -> None:
    spec = small(sys.executable, "-I", "-S", "-c", CODE, noNewPrivileges=privileges)
    spec["linux"]["seccomp"] = profile(tmp_path / "agent", "getppid")
    spec["annotations"] = {"a": "b" * 1_000_000}  # more than a socket has room for
    bundle = replace(over_host(tmp_path, spec), identity=b"box", directory=b"/bundle")
    with Agent(tmp_path / "agent", lambda call: (4711, 0, 0)) as agent:
        assert said(bundle) == "4711\n"
    assert agent.asked == [number("getppid")]
    state = agent.document.pop("state")
    assert agent.document.pop("pid") == state.pop("pid") > 1
    assert agent.document == {"ociVersion": "1.2.0", "fds": ["seccompFd"], "metadata": "who am I"}
    assert state == {
        "ociVersion": "1.2.0", "id": "box", "status": "creating", "bundle": "/bundle",
        "annotations": spec["annotations"],
    }  # fmt: skip


def test_even_the_command_itself_may_be_asked_about(tmp_path: Path) -> None:
    spec = small("/bin/echo", "started")
    spec["linux"]["seccomp"] = profile(tmp_path / "agent", "execve", "execveat")
    with Agent(tmp_path / "agent", lambda call: (0, 0, CONTINUE)) as agent:
        assert said(over_host(tmp_path, spec)) == "started\n"
    assert len(agent.asked) >= 2


def test_a_command_that_the_agent_denies_is_not_executed(tmp_path: Path) -> None:
    spec = small("/bin/echo", "started")
    spec["linux"]["seccomp"] = profile(tmp_path / "agent", "execve")
    with (
        Agent(tmp_path / "agent", lambda call: (0, 13, 0)),
        pytest.raises(OSError, match="Permission denied"),
    ):
        run(over_host(tmp_path, spec))


def test_without_an_agent_nothing_starts(tmp_path: Path) -> None:
    spec = small("/bin/true")
    spec["linux"]["seccomp"] = profile(tmp_path / "nobody", "getppid")
    gc.collect()  # what an earlier test let go of in a circle is not to go meanwhile
    descriptors, young = held_descriptors(), children()
    with pytest.raises(KernelError, match=r"hand on the seccomp listener.*nobody takes it"):
        run(over_host(tmp_path, spec))
    assert held_descriptors() == descriptors
    assert children() <= young  # others may end meanwhile


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"listenerPath": ""}, "listenerMetadata without listenerPath"),
        ({"listenerPath": "", "listenerMetadata": ""}, "needs a listenerPath"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "cannot be the default action"),
        ({"syscalls": [{"names": ["sendmsg"], "action": "SCMP_ACT_NOTIFY"}]}, "sendmsg cannot be"),
    ],
)
def test_listeners_that_could_not_be_handed_over(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    spec = small("/bin/true")
    spec["linux"]["seccomp"] = {**profile(tmp_path / "agent", "getppid"), **change}
    with pytest.raises(InvalidInput, match=complaint):
        run(over_host(tmp_path, spec))


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ({"action": "SCMP_ACT_ERRNO"}, "1"),
        ({"action": "SCMP_ACT_ERRNO", "errnoRet": 95}, "95"),
        ({"action": "SCMP_ACT_ALLOW"}, "0"),
        ({"action": "SCMP_ACT_LOG"}, "0"),
        ({"action": "SCMP_ACT_TRACE", "errnoRet": 7}, "38"),  # nobody traces it: ENOSYS
        ({"action": "SCMP_ACT_KILL"}, "signal 31"),
        ({"action": "SCMP_ACT_KILL_THREAD"}, "signal 31"),
        ({"action": "SCMP_ACT_KILL_PROCESS"}, "signal 31"),
        ({"action": "SCMP_ACT_TRAP"}, "signal 31"),
    ],
    ids=lambda v: v["action"] if isinstance(v, dict) else "",
)
def test_every_other_action_of_the_specifications_own_profile(
    tmp_path: Path, action: dict[str, Any], expected: str
) -> None:
    code = (
        "import ctypes; libc = ctypes.CDLL(None, use_errno=True); "
        f"libc.syscall({number('getppid')}); print(ctypes.get_errno(), flush=True)"
    )
    spec = small(sys.executable, "-I", "-S", "-c", code)
    spec["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"],
        "syscalls": [{"names": ["getppid"], **action}],
    }
    status, text = run(over_host(tmp_path, spec))
    assert (f"signal {status - 128}" if status > 128 else text.strip()) == expected


def test_a_profile_that_is_kept_is_the_same(tmp_path: Path) -> None:
    spec = small(sys.executable, "-I", "-S", "-c", "import os; print(os.getppid())")
    spec["linux"]["seccomp"] = profile(tmp_path / "agent", "getppid")
    for value in (1, 2):
        with Agent(tmp_path / "agent", lambda call, value=value: (value, 0, 0)):
            reader, writer = os.pipe()
            null = os.open("/dev/null", os.O_RDWR)
            running = launch(
                over_host(tmp_path, spec),
                stdin=null,
                stdout=writer,
                stderr=writer,
                cache=os.fsencode(tmp_path / "kept"),
            )
            os.close(writer)
            os.close(null)
            with open(reader, "rb") as output:
                assert output.read() == b"%d\n" % value
            running.wait()
            running.close()
        (tmp_path / "agent").unlink()


def test_the_layouts_are_the_kernels() -> None:
    assert (NOTIF.size, ANSWER.size) == (80, 24)
    assert ctypes.sizeof(ctypes.c_long) == 8
