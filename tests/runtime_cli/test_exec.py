"""`exec`: what a further process gets of its container, and what it is given besides."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from support.console import ConsoleSocket, read_until
from support.lives import until
from support.oci import PATH, Runtime

pytestmark = pytest.mark.root
MANY = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (2048, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
for _ in range(1100):
    os.set_inheritable(os.dup(0), True)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def box(runtime: Runtime) -> Runtime:
    """With a container `c` that sleeps."""
    runtime.begin("c", runtime.bundle("sleep", "600"))
    return runtime


def test_output_and_exit_status_are_the_commands(box: Runtime) -> None:
    done = box.ask("exec", "c", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    assert box.ask("exec", "c", "sh", "-c", "kill -9 $$").returncode == 137


def test_standard_input_reaches_it(box: Runtime) -> None:
    done = box("exec", "c", "cat", stdin=None, input="through", capture_output=True)
    assert done.stdout == "through"


def test_it_is_in_every_namespace_of_the_container(box: Runtime) -> None:
    pid = box.state("c")["pid"]
    kinds = ("mnt", "pid", "uts", "ipc", "net", "cgroup", "user", "time")
    shown = box.ask("exec", "c", "readlink", *[f"/proc/self/ns/{kind}" for kind in kinds]).stdout.split()
    assert shown == [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in kinds]
    assert box.ask("exec", "c", "hostname").stdout == "box\n"


def test_it_has_the_privileges_of_the_container_and_no_more(box: Runtime) -> None:
    pid = box.state("c")["pid"]
    lines = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Uid", "Gid", "Groups")

    def told(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.split(":")[0] in lines]

    inside = told(box.ask("exec", "c", "cat", "/proc/self/status").stdout)
    assert inside == told(Path(f"/proc/{pid}/status").read_text())
    assert "CapInh:\t0000000000000000" in inside


def test_it_lives_in_the_containers_control_groups(runtime: Runtime) -> None:
    bundle = runtime.bundle("sleep", "600")
    bundle.config["linux"]["resources"] = {"pids": {"limit": 50}}
    runtime.begin("c", bundle)
    pid = runtime.state("c")["pid"]
    groups = Path(f"/proc/{pid}/cgroup").read_text()
    assert re.search(
        r"/lamina-runtime-[0-9a-f]{8}/c$", groups, re.MULTILINE
    )  # another root than the default one
    with open(runtime.directory / "e.out", "w") as output:
        done = runtime(
            "exec", "-d", "--pid-file", runtime.directory / "e.pid", "c", "sleep", "600", stdout=output
        )
    assert done.returncode == 0
    assert Path("/proc", (runtime.directory / "e.pid").read_text(), "cgroup").read_text() == groups
    assert runtime.ask("ps", "--format", "json", "c").stdout.count(",") == 1


def test_user_groups_directory_and_variables(box: Runtime) -> None:
    words = ["--user", "1000:100", "-g", "4", "-g", "24", "--cwd", "/usr", "--env", "A=b c", "-e", "D="]
    said = box.ask(
        "exec", *words, "c", "sh", "-c", "id -u; id -g; id -G; pwd; echo $A; echo ${D-unset}; umask"
    )
    assert said.stdout.splitlines() == ["1000", "100", "100 4 24", "/usr", "b c", "", "0022"]


@pytest.mark.parametrize(
    "typed",
    [
        "01",
        "1:",
        ":1",
        "",
        "4294967296",
        "4294967295",
        "-1",
        " 0",
        "0 ",
        "1x",
        "root",
        "0x0",
        "1:2:3",
        "+1",
        "1,2",
        "１",
    ],
)
def test_cve_2026_30892_what_is_no_number_is_no_user(box: Runtime, typed: str) -> None:
    """`exec -u` that was read wrongly ran as somebody else."""
    done = box.ask("exec", f"--user={typed}", "c", "id", "-u")
    assert (done.returncode, done.stdout) == (255, "")
    assert "--user" in done.stderr


@pytest.mark.parametrize(("typed", "meant"), [("0", "0:0"), ("1", "1:0"), ("4294967294:7", "4294967294:7")])
def test_numbers_are_users(box: Runtime, typed: str, meant: str) -> None:
    done = box.ask("exec", "-u", typed, "c", "sh", "-c", "echo $(id -u):$(id -g)")
    assert done.stdout.strip() == meant


def test_a_capability_more_is_permitted_but_never_inheritable(box: Runtime) -> None:
    done = box.ask("exec", "--cap", "CAP_NET_RAW", "c", "grep", "^Cap", "/proc/self/status")
    sets = {line.split()[0]: int(line.split()[1], 16) for line in done.stdout.splitlines()}
    for name in ("CapPrm:", "CapEff:", "CapBnd:"):
        assert sets[name] >> 13 & 1
    assert sets["CapInh:"] == sets["CapAmb:"] == 0


def test_only_what_it_asks_for_itself_is_a_warning(runtime: Runtime) -> None:
    bundle = runtime.bundle("sleep", "600")
    bundle.config["process"]["capabilities"]["ambient"] = ["CAP_KILL"]
    assert "CAP_KILL is not ambient" in runtime.create("c", bundle)
    runtime.start("c")
    assert runtime.ask("exec", "c", "true").stderr == ""
    assert "CAP_NOSUCH is not given" in runtime.ask("exec", "--cap", "CAP_NOSUCH", "c", "true").stderr


def test_a_process_as_a_document(box: Runtime) -> None:
    process = {
        "args": ["sh", "-c", "pwd; echo $X; id -u"],
        "env": [PATH, "X=y"],
        "cwd": "/tmp",
        "user": {"uid": 5, "gid": 5},
    }
    file = box.directory / "process.json"
    file.write_text(json.dumps(process))
    assert box.ask("exec", "--process", file, "c").stdout.splitlines() == ["/tmp", "y", "5"]
    both = box.ask("exec", "--process", file, "c", "true")
    assert (both.returncode, "exclude each other" in both.stderr) == (255, True)
    for wrong in (
        {**process, "user": {"uid": 4294967295}},
        {**process, "env": ["A=\ud800"]},
        {**process, "env": 5},
    ):
        file.write_text(json.dumps(wrong))
        refused = box.ask("exec", "--process", file, "c")
        assert (refused.returncode, refused.stdout) == (255, "")
        assert "read process: " in refused.stderr
    file.write_text("{")
    assert box.ask("exec", "--process", file, "c").returncode == 255


def test_what_a_document_does_not_say_is_the_containers(runtime: Runtime) -> None:
    """As with runc. Limits, and whether it may gain privileges, it has as it says: none, and yes."""
    bundle = runtime.bundle("sleep", "600", oomScoreAdj=300)
    runtime.begin("c", bundle)
    script = "grep ^Cap /proc/self/status; cat /proc/self/oom_score_adj"
    process: dict[str, Any] = {"args": ["sh", "-c", script], "env": [PATH], "cwd": "/"}
    file = runtime.directory / "process.json"
    file.write_text(json.dumps(process))
    own = runtime.ask("exec", "c", *process["args"]).stdout
    assert own.endswith("\n300\n")
    assert runtime.ask("exec", "--process", file, "c").stdout == own
    file.write_text(json.dumps({**process, "capabilities": {}, "oomScoreAdj": 400}))
    said = runtime.ask("exec", "--process", file, "c").stdout.split()
    assert {*said[1:-1:2]} == {"0000000000000000"}
    assert said[-1] == "400"


def test_a_variable_that_is_given_twice_has_its_last_value(box: Runtime) -> None:
    """What is asked of `exec` comes after the container's own; getenv(3) would find that first."""
    words = ["--env", "A=1", "--env", "PATH=/usr/bin:/bin:/x", "--env", "A=2", "--env", "A", "--env", "B==="]
    said = box.ask("exec", *words, "c", "/usr/bin/env").stdout.splitlines()
    assert sorted(line for line in said if line[:1] in "ABP") == ["A", "A=2", "B===", "PATH=/usr/bin:/bin:/x"]


def test_detached_it_is_a_child_of_whoever_reaps(box: Runtime, subreaper: None) -> None:
    with open(box.directory / "e.out", "w") as output:
        done = box(
            "exec", "-d", "--pid-file", box.directory / "e.pid", "c", "sh", "-c", "exit 9", stdout=output
        )
    assert done.returncode == 0
    pid = int((box.directory / "e.pid").read_text())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


def test_home_is_what_the_containers_passwd_says(runtime: Runtime) -> None:
    bundle = runtime.shell("echo $HOME; exec sleep 600")
    (bundle.rootfs / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\n")
    runtime.begin("c", bundle)
    assert runtime.wait_output("c", "\n") == "/root\n"
    assert runtime.ask("exec", "-u", "1000", "c", "sh", "-c", "echo $HOME").stdout == "/home/u\n"
    assert runtime.ask("exec", "-e", "HOME=/x", "c", "sh", "-c", "echo $HOME").stdout == "/x\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["no-such"], "executable file not found in $PATH"),
        (["/etc"], "Permission denied"),
        ([], "no command is given"),
        (["--cwd", "relative", "true"], "not an absolute path"),
    ],
)
def test_what_cannot_be_is_said(box: Runtime, words: list[str], complaint: str) -> None:
    options = [w for w in words if w.startswith("--") or w == "relative"]
    command = [w for w in words if w not in options]
    failed = box.ask("exec", *options, "c", *command)
    assert (failed.returncode, complaint in failed.stderr) == (255, True), failed.stderr


def test_there_must_be_something_running_to_join(runtime: Runtime) -> None:
    assert "does not exist" in runtime.ask("exec", "c", "true").stderr
    runtime.begin("c", runtime.bundle("true"))
    runtime.wait("c")
    failed = runtime.ask("exec", "c", "true")
    assert (failed.returncode, "cannot exec in a stopped container" in failed.stderr) == (255, True)


# -- terminals


def test_create_hands_the_terminal_over(runtime: Runtime) -> None:
    socket = ConsoleSocket(runtime.directory / "console")
    bundle = runtime.shell("tty; ls -l /dev/console; stty size; read line; echo got $line", terminal=True)
    bundle.config["process"]["consoleSize"] = {"height": 30, "width": 90}
    runtime.create("c", bundle, "--console-socket", str(socket.path))
    master = socket.take()
    socket.close()
    assert socket.name == b"/dev/ptmx"
    runtime.start("c")
    said = read_until(master, b"30 90\r\n")
    assert said.startswith(b"/dev/pts/0\r\ncrw")
    os.write(master, b"typed\n")
    assert b"got typed\r\n" in read_until(master, b"got typed\r\n")
    os.close(master)
    runtime.wait("c")


def test_the_console_is_its_own_terminal_where_others_have_some_there(runtime: Runtime) -> None:
    """Where /dev/pts is the host's, or is written with a slash."""
    socket = ConsoleSocket(runtime.directory / "console")
    bundle = runtime.shell("stat -c %t:%T /dev/console $(tty) | uniq -c", terminal=True)
    pts = next(mount for mount in bundle.config["mounts"] if mount["destination"] == "/dev/pts")
    pts.update(type="bind", source="/dev/pts", options=["rbind"], destination="/dev/pts/")
    others = os.openpty()  # so that it gets another number than the first
    runtime.create("c", bundle, "--console-socket", str(socket.path))
    master = socket.take()
    socket.close()
    runtime.start("c")
    assert read_until(master, b"\n").split()[:1] == [b"2"]
    for fd in (master, *others):
        os.close(fd)
    runtime.wait("c")


def test_a_console_socket_may_lie_deeper_than_a_socket_can_say(runtime: Runtime) -> None:
    bundle = runtime.shell("tty", terminal=True)
    deep = runtime.directory / ("d" * 100)
    deep.mkdir()
    socket = ConsoleSocket(runtime.directory / "s")
    socket.path.rename(deep / "s")
    runtime.create("c", bundle, "--console-socket", str(deep / "s"))
    os.close(socket.take())
    socket.close()
    with pytest.raises(AssertionError, match="File name too long"):
        runtime.create("d", bundle, "--console-socket", str(deep / ("s" * 120)))


def test_exec_gets_a_terminal_of_the_containers_own(box: Runtime) -> None:
    socket = ConsoleSocket(box.directory / "console")
    script = "tty; ps -o tty= -p $$; exec sleep 600"
    words = ["exec", "-d", "-t", "--console-socket", str(socket.path), "-u", "1000", "c", "sh", "-c", script]
    assert box.ask(*words).returncode == 0
    master = socket.take()
    socket.close()
    said = read_until(master, b"pts/0\r\npts/0\r\n")
    assert b"/dev/pts/0" in said
    assert os.stat(f"/proc/{box.state('c')['pid']}/root/dev/pts/0").st_uid == 1000
    os.close(master)


def test_a_terminal_and_its_taker_belong_together(runtime: Runtime) -> None:
    with pytest.raises(AssertionError, match="nobody takes the terminal"):
        runtime.create("c", runtime.bundle("true", terminal=True))
    with pytest.raises(AssertionError, match=r"process\.terminal is not true"):
        runtime.create("c", runtime.bundle("true"), "--console-socket", "/nowhere")
    with pytest.raises(AssertionError, match="send a descriptor to /nowhere"):
        runtime.create("c", runtime.bundle("true", terminal=True), "--console-socket", "/nowhere")
    assert not (runtime.root / "c").exists()


def test_run_joins_its_terminal_with_ours(runtime: Runtime) -> None:
    import pty

    master, slave = pty.openpty()
    bundle = runtime.shell("tty; stty size; read line; echo got $line; exit 4", terminal=True)
    words = [*runtime.command, "--root", str(runtime.root), "run", "--bundle", str(bundle.write()), "c"]
    with subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave) as running:
        os.close(slave)
        read_until(master, b"/dev/pts/0\r\n")
        time.sleep(0.1)
        os.write(master, b"typed\r")
        read_until(master, b"got typed\r\n")
        assert running.wait(100) == 4
    os.close(master)


def test_output_that_does_not_block_is_written_when_there_is_room(runtime: Runtime) -> None:
    """Whoever made the pipe may have set O_NONBLOCK, which is everybody's who has it."""
    bundle = runtime.shell("stty -onlcr; seq 40000", terminal=True)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    command = [*runtime.command, "--root", str(runtime.root), "run", "--bundle", str(bundle.write()), "c"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.PIPE
    ) as running:
        room = select.poll()
        room.register(writer, select.POLLOUT)
        until(lambda: not room.poll(0) or running.poll() is not None)  # however many bytes fill its pages
        os.close(writer)
        with open(reader, "rb") as file:
            shown = file.read()
        complaint = running.stderr.read() if running.stderr is not None else b""
    assert (running.returncode, complaint) == (0, b"")
    assert shown == b"".join(b"%d\n" % number for number in range(1, 40001))


def test_it_goes_on_when_nobody_reads_what_it_writes_to_its_terminal(runtime: Runtime) -> None:
    bundle = runtime.shell("seq 40000; (trap '' HUP; yes) & exit 5", terminal=True)
    command = [*runtime.command, "--root", str(runtime.root), "run", "--bundle", str(bundle.write()), "c"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.read(10)
        running.stdout.close()
        assert (running.wait(100), running.stderr.read()) == (5, b"")


def test_a_process_that_is_behind_with_reading_its_terminal_does_not_stop_it(runtime: Runtime) -> None:
    """More is typed than the terminal holds, by far, and all of it comes back; the descriptors are above 1023."""

    much = 1 << 18
    bundle = runtime.shell(
        f"stty raw -echo; echo ready; head -c {much} | cat; echo; echo over", terminal=True
    )
    words = [*runtime.command, "--root", str(runtime.root), "run", "--bundle", str(bundle.write()), "c"]
    words = [sys.executable, "-c", MANY, *words]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        said, output = running.stdout.readline(), running.stdout.fileno()
        assert said == b"ready\n"
        writer = threading.Thread(target=running.stdin.write, args=(b"x" * much,), daemon=True)
        writer.start()
        watch = threading.Timer(200, running.kill)
        watch.start()
        said = b"".join(iter(lambda: os.read(output, 65536), b""))
        watch.cancel()
        assert (said.count(b"x"), said[-6:], running.wait()) == (much, b"\nover\n", 0)
        writer.join()


def test_signals_to_run_reach_the_container(runtime: Runtime) -> None:
    import signal

    script = "trap 'echo terminated; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    bundle = runtime.shell(script)
    words = [*runtime.command, "--root", str(runtime.root), "run", "--bundle", str(bundle.write()), "c"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.stdout.readline() == "terminated\n"
        assert running.wait(100) == 5


@pytest.mark.parametrize("verb", ["exec", "update"])
def test_a_document_may_come_through_a_pipe_piece_by_piece(box: Runtime, verb: str) -> None:
    document: object = {"args": ["echo", "whole"], "cwd": "/", "env": [PATH]}
    words = ["exec", "--process"]
    if verb == "update":
        document, words = {"pids": {"limit": 50}}, ["update", "--resources"]
    pipe = box.directory / "pipe"
    os.mkfifo(pipe)
    text = json.dumps(document).encode()

    def write() -> None:
        with open(pipe, "wb", buffering=0) as file:
            file.write(text[:10])
            until(lambda: fcntl.ioctl(file, termios.FIONREAD, bytes(4)) == bytes(4))  # it has been read
            file.write(text[10:])

    writer = threading.Thread(target=write)
    writer.start()
    done = box.ask(*words, pipe, "c")
    writer.join()
    assert (done.returncode, done.stdout) == (0, "whole\n" if verb == "exec" else ""), done.stderr
