"""A process that joins a container must give nothing of the host to those who are there already."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lamina.runtime.container.directory import Container
from lamina.runtime.container.further import Joining
from lamina.runtime.container.join import execute
from support.oci import PATH, Bundle, Runtime

pytestmark = pytest.mark.root

# process 1 looks at everybody else: which file each executes, what it has open, whether it can be traced
HOSTILE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
ATTACH, DETACH, WALL = 16, 17, 0x40000000
mine = str(os.getpid())
# what the command itself has in the end: it may be looked at
fair_program, fair_open = set(sys.argv[1].split(",")), {"/dev/null", "pipe", *sys.argv[2:]}
def report(*words):
    print(*words, flush=True)
def look(pid):
    try:
        program = os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return "hidden"
    if program not in fair_program:
        report("BREACH executes", program)
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            held = os.readlink(f"/proc/{pid}/fd/{fd}")
        except OSError:
            continue
        if held.split(":")[0] not in fair_open and not held.startswith(("/usr/lib/", "/lib/", "/etc/ld.so")):
            # who holds it may have executed its own program meanwhile, but not become somebody else's
            report("BREACH has open", held)
    with open(f"/proc/{pid}/environ", "rb") as environment:
        if b"SECRET_OF_THE_HOST" in environment.read():
            report("BREACH environment")
    return "seen"
def trace(pid):
    if libc.ptrace(ATTACH, int(pid), None, None) != 0:
        return "refused"
    os.waitpid(int(pid), WALL)
    program = os.readlink(f"/proc/{pid}/exe")
    if program not in fair_program:
        report("BREACH traced", program)
    libc.ptrace(DETACH, int(pid), None, None)
    os.kill(int(pid), 18)  # or it stays stopped
    traced.add(pid)  # once: who is stopped again and again never gets to its end
    return "traced"
counts, traced = {}, set()
report("ready")
while not os.path.exists("/tmp/stop"):
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or pid == mine:
            continue
        for attempt in (look, trace)[: 1 + (pid not in traced)]:
            try:
                result = attempt(pid)
            except OSError:
                result = "gone"
            if result in ("hidden", "refused") and result not in counts:
                report("MET one that is on its way")
            counts[result] = counts.get(result, 0) + 1
report("COUNTS", counts)
"""


def python_bundle(runtime: Runtime, code: str, *args: str) -> Bundle:
    """A container whose first process is a Python program."""
    interpreter = os.path.realpath(sys.executable)
    bundle = runtime.bundle(interpreter, "-I", "-S", "-c", code, *args)
    home = os.path.realpath(sys.base_prefix)
    if not home.startswith("/usr"):
        (bundle.rootfs / home.lstrip("/")).mkdir(parents=True, exist_ok=True)
        mount = {"destination": home, "type": "bind", "source": home, "options": ["rbind", "ro"]}
        bundle.config["mounts"].append(mount)
    return bundle


def told_by(runtime: Runtime, identity: str, rounds: int, wanted: str = "") -> str:
    """What process 1 reports while so many processes join; more, where it has not reported what is *wanted* yet."""
    container = Container.find(os.fsencode(runtime.root), identity)
    process = {"args": ["/bin/true"], "env": [PATH], "cwd": "/", "noNewPrivileges": True}
    null = os.open("/dev/null", os.O_RDWR)
    saved = [os.dup(number) for number in range(3)]
    try:
        for number in range(3):
            os.dup2(null, number)
        joined, end = 0, time.monotonic() + 200
        while joined < rounds or (wanted not in runtime.output(identity) and time.monotonic() < end):
            joined += 1
            assert execute(container, dict(process), Joining()).wait() == 0
    finally:
        for number, fd in enumerate(saved):
            os.dup2(fd, number)
            os.close(fd)
        os.close(null)
    Path(f"/proc/{runtime.state(identity)['pid']}/root/tmp/stop").touch()
    return runtime.wait_output(identity, "COUNTS")


def test_cve_2016_9962_a_newcomer_shows_and_gives_nothing(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1000 processes join while process 1 looks into each: it sees none before it is its own command."""
    monkeypatch.setenv("SECRET_OF_THE_HOST", "yes")
    bundle = python_bundle(runtime, HOSTILE, os.path.realpath("/bin/true"))
    runtime.begin("c", bundle)
    runtime.wait_output("c", "ready")
    said = told_by(runtime, "c", 1000, "MET")
    assert "BREACH" not in said, said
    assert "MET" in said, said


def test_cve_2016_9962_not_even_with_the_capability_to_trace(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may trace anybody finds a process without privileges whose memory and files are not the host's."""
    monkeypatch.setenv("SECRET_OF_THE_HOST", "yes")
    programs = f"{os.path.realpath('/bin/true')},/memfd:lamina-init (deleted)"
    # of the start itself there is only the socket to its maker, who believes nothing but a failure of it
    bundle = python_bundle(runtime, HOSTILE, programs, "socket")
    for kind in ("bounding", "effective", "permitted"):
        bundle.config["process"]["capabilities"][kind].append("CAP_SYS_PTRACE")
    runtime.begin("c", bundle)
    runtime.wait_output("c", "ready")
    said = told_by(runtime, "c", 300)
    assert "BREACH" not in said, said


def test_one_that_waits_for_its_start_is_closed_to_those_who_join(runtime: Runtime) -> None:
    runtime.create("c", runtime.bundle("sleep", "600"))
    for attempt in (
        "ls -l /proc/1/exe",
        "ls -l /proc/1/fd/6",
        "cat /proc/1/fd/3",
        "cat /proc/1/environ",
        "cat /proc/1/maps",
        ": >/proc/1/exe",
    ):
        done = runtime.ask("exec", "c", "sh", "-c", attempt)
        assert done.returncode != 0, attempt
        assert "ermission denied" in done.stderr, attempt


@pytest.mark.parametrize("how", ["create", "exec"])
def test_cve_2019_5736_who_interprets_a_script_is_not_the_hosts(runtime: Runtime, how: str) -> None:
    """`#!/proc/self/exe` is interpreted by the program that executes it: a sealed memory file, which refuses."""
    before = hashlib.sha256(Path(os.path.realpath(sys.executable)).read_bytes()).hexdigest()
    bundle = runtime.bundle("/tmp/script" if how == "create" else "sleep", "600")
    script = bundle.rootfs / "tmp/script"
    script.write_text("#!/proc/self/exe\nimport os; os.system('touch /tmp/owned')\n")
    script.chmod(0o755)
    if how == "create":
        with open(runtime.directory / "c.err", "w+") as complaint:
            runtime.begin("c", bundle, stderr=complaint)
            runtime.wait("c")
            complaint.seek(0)
            said = complaint.read()
    else:
        runtime.begin("c", bundle)
        done = runtime.ask("exec", "c", "/tmp/script")
        assert done.returncode == 126
        said = done.stderr
    assert "a script cannot be interpreted by the program that executes it" in said
    assert not (bundle.rootfs / "tmp/owned").exists()
    assert hashlib.sha256(Path(os.path.realpath(sys.executable)).read_bytes()).hexdigest() == before


def test_cve_2024_21626_no_leaked_descriptor_is_a_working_directory(runtime: Runtime) -> None:
    held = [os.open("/", os.O_RDONLY | os.O_DIRECTORY) for _ in range(5)]
    for fd in held:
        os.set_inheritable(fd, True)
    try:
        runtime.begin("c", runtime.bundle("sleep", "600"), pass_fds=held)
        for number in range(3, 30):
            words = ["exec", "--cwd", f"/proc/self/fd/{number}", "c", "sh", "-c", "pwd -P; ls"]
            done = runtime.ask(*words, pass_fds=held)
            assert done.returncode == 255, (number, done.stdout)
        for place in (
            "/proc/1/fd/3",
            "/proc/thread-self/fd/4",
            "/proc/self/cwd/fd",
            "/proc/1/root/../../etc",
        ):
            assert runtime.ask("exec", "--cwd", place, "c", "true", pass_fds=held).returncode == 255, place
        for number in range(3, 16):
            bundle = runtime.bundle("sh", "-c", "pwd -P", cwd=f"/proc/self/fd/{number}")
            with pytest.raises(AssertionError):
                runtime.create("d", bundle, pass_fds=held)
    finally:
        for fd in held:
            os.close(fd)


def test_nothing_of_the_host_is_open_in_a_newcomer(runtime: Runtime) -> None:
    held = os.open("/etc", os.O_RDONLY)
    os.set_inheritable(held, True)
    try:
        runtime.begin("c", runtime.bundle("sleep", "600"), pass_fds=(held,))
        done = runtime.ask(
            "exec",
            "c",
            "sh",
            "-c",
            "ls /proc/self/fd; ls /proc/1/fd; readlink /proc/self/cwd",
            pass_fds=(held,),
        )
    finally:
        os.close(held)
    assert done.stdout.split() == ["0", "1", "2", "3", "0", "1", "2", "/"]


def test_a_file_in_the_place_of_the_terminal_is_found_out(runtime: Runtime) -> None:
    """/dev/pts/ptmx as a link or a file of the container's: nothing of it is opened as a terminal."""
    bundle = runtime.bundle("sleep", "600")
    bundle.config["mounts"] = [
        m for m in bundle.config["mounts"] if m["destination"] not in ("/dev", "/dev/pts")
    ]
    (bundle.rootfs / "dev/pts").mkdir(parents=True)
    target = runtime.directory / "target"
    target.write_text("unchanged")
    (bundle.rootfs / "dev/pts/ptmx").write_text("no terminal")
    runtime.begin("c", bundle)
    words = [*runtime.command, "--root", str(runtime.root), "exec", "-t", "c", "true"]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=200)
    assert done.returncode == 255
    assert "Inappropriate ioctl" in done.stderr or "Permission denied" in done.stderr
    (bundle.rootfs / "dev/pts/ptmx").unlink()
    (bundle.rootfs / "dev/pts/ptmx").symlink_to("/proc/1/root/../../dev/ptmx")
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=200)
    assert done.returncode == 255
    assert "symbolic links" in done.stderr


def test_inheritable_capabilities_stay_empty(runtime: Runtime) -> None:
    """CVE-2022-29162: also where capabilities are added."""
    runtime.begin("c", runtime.bundle("sleep", "600"))
    done = runtime.ask("exec", "--cap", "CAP_NET_ADMIN", "c", "grep", "CapInh", "/proc/self/status")
    assert done.stdout == "CapInh:\t0000000000000000\n"
