"""Somebody is in a namespace already when a newcomer joins it: what he sees of the newcomer, and of who made that."""

from __future__ import annotations

import os
import select
import sys
import time
from pathlib import Path

import pytest

from lamina.runtime.launch import launch
from support.bundles import over_host, small
from support.leaks import Leaks
from support.starting import DEV, PROC, run

pytestmark = pytest.mark.root
STARTS, READY = 60, b"ready\n"

# becomes the tracer of whoever is new, without stopping him, and tells what he was executing at that moment
ATTACKER = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
SEIZE, WALL = 0x4206, 0x40000000
seen = {"1", str(os.getpid())}
print("ready", flush=True)
while True:
    try:
        os.waitpid(-1, WALL | os.WNOHANG)
    except ChildProcessError:
        pass
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or pid in seen:
            continue
        if libc.ptrace(SEIZE, int(pid), None, None) == 0:
            seen.add(pid)
            try:
                print("traced", os.readlink(f"/proc/{pid}/exe"), *os.listdir(f"/proc/{pid}/fd"), flush=True)
            except OSError:
                pass
        try:
            with open(f"/proc/{pid}/mem", "rb"):
                print("memory", os.readlink(f"/proc/{pid}/exe"), flush=True)
        except OSError:
            pass
"""


def has_come(reader: int) -> bool:
    return bool(select.select([reader], [], [], 0)[0])


def test_cve_2016_9962_who_joins_a_pid_namespace_shows_nothing_of_his_maker(
    tmp_path: Path, untouched_host: Leaks
) -> None:
    """Between clone3 and execve the newcomer has a copy of this interpreter's memory, and descriptors of the host."""
    first, second = tmp_path / "first", tmp_path / "second"
    for place in (first, second):
        place.mkdir()
    attacker = small(sys.executable, "-I", "-S", "-c", ATTACKER)
    attacker["mounts"] = [PROC, DEV]
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    running = launch(over_host(first, attacker), stdin=null, stdout=writer, stderr=writer)
    os.close(writer)
    os.close(null)
    with open(reader, "rb", buffering=0) as output:
        assert output.read(len(READY)) == READY
        spec = small("/bin/true")
        spec["linux"]["namespaces"] = [
            {"type": "mount"},
            {"type": "pid", "path": f"/proc/{running.pid}/ns/pid"},
        ]
        starts, end = 0, time.monotonic() + 200
        # one is met while it executes something, at least: on a busy machine that may be a later one
        while starts < STARTS or (not has_come(reader) and time.monotonic() < end):
            assert run(over_host(second, spec))[0] == 0
            starts += 1
        running.kill(9)
        said = output.readall().decode(errors="replace").splitlines()
    running.wait()
    running.close()
    assert said  # some were met: those who had executed something
    for line in said:
        word, program, *descriptors = line.split()
        # whoever has executed something has no more than the container has, and nothing of the host
        assert "python" not in program, line
        assert word == "memory" or len(descriptors) <= 5, line
