"""Whose surroundings differ has the command done where he is, not where the warm process is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lamina.warm.surroundings import Process
from support.sources import REPOSITORY
from support.warm import House, alive, request, until

pytestmark = [pytest.mark.root, pytest.mark.peer("unshare", "setpriv")]

# what executes a command in other surroundings; a client that lies gets nothing done there either
PRLIMIT = ["prlimit", "--nofile=1000"]
DIFFERENT = {
    # who may still read a clone that lies in a home directory
    "user": [
        *("setpriv", "--reuid=65534", "--clear-groups"),
        *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
    ],
    "group": ["setpriv", "--regid=12345", "--clear-groups"],
    "supplementary groups": ["setpriv", "--groups=12345"],
    "bounding set": ["setpriv", "--bounding-set=-sys_chroot"],
    "inheritable capabilities": ["setpriv", "--inh-caps=+chown"],
    "no new privileges": ["setpriv", "--no-new-privs"],
    "hard limit": PRLIMIT,
    "soft limit": ["prlimit", "--core=1234:"],
    "network namespace": ["unshare", "--net"],
    "uts namespace": ["unshare", "--uts"],
    "ipc namespace": ["unshare", "--ipc"],
    "cgroup namespace": ["unshare", "--cgroup"],
    "mount namespace": ["unshare", "--mount"],
    "pid namespace": ["unshare", "--pid", "--fork"],
    "pid namespace of children": ["unshare", "--pid", "sh", "-c", '"$@"', "sh"],
    "time namespace": ["unshare", "--time"],
    "user namespace": ["unshare", "--user", "--map-root-user"],
    "processors": ["taskset", "-c", "0"],
    "out-of-memory score": ["sh", "-c", 'echo 17 > /proc/self/oom_score_adj; exec "$@"', "sh"],
}
# what a client tells by the name at which it asks, and a liar gains nothing by
ONLY_ASKED = {
    "niceness": ["nice", "-n", "5"],
    "scheduler": ["chrt", "--batch", "0"],
    "priority of input and output": ["ionice", "-c", "3"],
    "personality": ["setarch", "-R"],
    "locale": ["env", "LC_ALL=C.UTF-8"],
    "loader": ["env", "LD_BIND_NOW=1"],
    "allocator": ["env", "MALLOC_ARENA_MAX=1"],
}


def wrapped(what: str) -> list[str]:
    """What executes a command in these surroundings, with "sh" as their first process where that counts."""
    if (
        what == "pid namespace of children"
    ):  # the second child of the shell would be in none: the first is init
        return ["unshare", "--pid", "sh", "-c", 'exec "$@"', "sh"]
    return {**DIFFERENT, **ONLY_ASKED}[what]


def differing(*names: str) -> list[str]:
    """Those that this machine has."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two processors")
    return [*names]


def test_a_caller_who_differs_gets_another_warm_process_or_none(house: House, server: int) -> None:
    for what in differing(*DIFFERENT, *ONLY_ASKED)[1:]:  # another user cannot even reach this command
        with house.expected(server, warm=False):
            status, out, err = house.run("version", wrap=wrapped(what), env={"XDG_RUNTIME_DIR": ""})
        # a process whose children would be in a namespace that has no init cannot fork for Python either
        assert (status, out[:7]) == (0, b"lamina "), (what, err)
        with house.expected(server, warm=True):
            assert house.run("version")[0] == 0, what


def test_a_client_that_lies_about_its_surroundings_is_refused(house: House, server: int) -> None:
    (name,) = house.sockets()
    for what in differing(*DIFFERENT):
        house.run_directory.chmod(0o755)  # the directory keeps others out already
        name.chmod(0o666)
        with house.expected(server, warm=False):
            assert house.ask(wrap=wrapped(what)) in (b"n\n", b"\n"), what
        house.run_directory.chmod(0o700)
        with house.expected(server, warm=True):
            assert house.run("version")[0] == 0, what


def test_the_same_client_is_served_where_it_does_not_differ(house: House, server: int) -> None:
    """That the test above refuses for the reason it names."""
    assert house.ask() == b"r\n"


def test_a_caller_in_another_control_group(house: House, server: int, group: Path) -> None:
    into = ["sh", "-c", f'echo 0 > {group}/cgroup.procs; exec "$@"', "sh"]
    with house.expected(server, warm=False):
        assert house.run("version", wrap=into)[0] == 0
    until(lambda: len(house.sockets()) == 2, "no warm process of that group")


def test_it_does_not_keep_a_control_group_in_use_that_everybody_else_has_left(group: Path) -> None:
    script = (
        "import os, sys; from lamina.warm.groups import is_alone\n"
        "print(is_alone({os.getpid()}), flush=True)\n"
        "sys.stdin.readline()\n"
        "print(is_alone({os.getpid()}), flush=True)\n"
    )
    other = subprocess.Popen(["sleep", "600"])
    asking = subprocess.Popen(
        ["sh", "-c", f'echo 0 > {group}/cgroup.procs; exec "$@"', "sh", sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other, asking:
        assert asking.stdin is not None and asking.stdout is not None
        assert asking.stdout.readline() == "True\n"
        (group / "cgroup.procs").write_text(str(other.pid))
        asking.stdin.write("\n")
        asking.stdin.close()
        assert asking.stdout.readline() == "False\n"
        other.kill()


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of this test's."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    tree = next(
        tree for tree in ("pids", "unified", "") if Path("/sys/fs/cgroup", tree, "cgroup.procs").exists()
    )
    path = next(line.split(":", 2)[2] for line in lines if tree in line.split(":")[1])
    made = Path("/sys/fs/cgroup", tree, path.lstrip("/"), f"lamina-warm-test-{os.getpid()}")
    made.mkdir()
    try:
        yield made
    finally:
        until(lambda: is_cleared(made), "somebody stays in the group")
        made.rmdir()


def is_cleared(group: Path) -> bool:
    """Whether nobody is in it; who is, is killed."""
    pids = [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # a worker goes with its warm process
            continue
    return not pids


def test_a_traced_caller_is_not_done_elsewhere(house: House, server: int) -> None:
    """Who runs a command under strace wants to see it."""
    assert Process(os.getpid()).same is not None
    script = (
        "import ctypes, os, sys\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    ctypes.CDLL(None).ptrace(0, 0, None, None)\n"
        "    os.execv(sys.argv[1], sys.argv[1:])\n"
        "while True:\n"
        "    _, status = os.waitpid(pid, 0)\n"
        "    if not os.WIFSTOPPED(status): break\n"
        "    ctypes.CDLL(None).ptrace(7, pid, None, ctypes.c_void_p(0))\n"
        "sys.exit(os.waitstatus_to_exitcode(status))\n"
    )
    with house.expected(server, warm=False):
        status, out, _ = house.run("version", wrap=[sys.executable, "-c", script])
    assert (status, out[:7]) == (0, b"lamina ")


def test_a_filtered_caller_is_like_nobody() -> None:
    """seccomp(2) filters cannot be compared, let alone passed on."""
    script = (
        "import ctypes, os\n"
        "from lamina.warm.surroundings import Process\n"
        "assert Process(os.getpid()).same is not None\n"
        "libc = ctypes.CDLL(None)\n"
        "allow = ctypes.create_string_buffer(b'\\x06\\0\\0\\0\\0\\0\\xff\\x7f', 8)\n"
        "program = (ctypes.c_void_p * 2)(1, ctypes.addressof(allow))\n"
        "assert libc.prctl(22, 2, program, 0, 0) == 0\n"
        "assert Process(os.getpid()).same is None\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr


def test_a_container_reaches_nothing_through_the_socket(house: House, server: int) -> None:
    """Also where somebody shows it the socket, and it is root in there."""
    (name,) = house.sockets()
    words = [
        "run",
        "--rm",
        "-v",
        "/run/lamina:/mnt",
        "-e",
        "PYTHONPATH",
        "-w",
        str(REPOSITORY / "tests"),
        "host",
        "--",
    ]
    with house.expected(server, warm=False):
        done = house.run(*words, sys.executable, "-m", "support.warm", f"/mnt/{name.name}", way="cold")
    assert done[1] in (b"n\n", b"\n"), done


# -- the private place


@pytest.mark.parametrize("how", ["open to others", "another's", "a link"])
def test_a_directory_that_is_not_ours_alone_is_not_used(house: House, server: int, how: str) -> None:
    place = house.run_directory
    if how == "open to others":
        place.chmod(0o711)
    elif how == "another's":
        os.chown(place, 65534, 65534)
    else:
        place.rename(place.with_name("elsewhere"))
        place.symlink_to("elsewhere")
    before = set(os.listdir(place))
    with house.expected(server, warm=False):
        assert house.run("version")[0] == 0
    time.sleep(0.1)
    assert set(os.listdir(place)) == before
    assert house.run("system", "warm")[1].startswith(b"off (")


def test_a_socket_of_another_user_is_not_spoken_to(house: House, server: int) -> None:
    """Somebody who got one into the directory: its name is right, the peer is not."""
    (name,) = house.sockets()
    code = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "s.bind(sys.argv[1])\n"
        "os.setresuid(65534, 65534, 65534)\n"
        "s.listen()\n"
        "print('listening', flush=True)\n"
        "c, _ = s.accept()\n"
        "print(c.recv(100), flush=True)\n"
    )
    os.kill(server, signal.SIGSTOP)
    name.unlink()
    planted = subprocess.Popen([sys.executable, "-c", code, name], stdout=subprocess.PIPE)
    assert planted.stdout is not None and planted.stdout.readline() == b"listening\n"
    assert house.run("version")[0] == 0
    assert planted.communicate(timeout=200)[0] == b"b''\n"


def test_others_cannot_reach_the_socket(house: House, server: int) -> None:
    (name,) = house.sockets()
    assert name.stat().st_mode & 0o777 == 0o600
    assert house.run_directory.stat().st_mode & 0o7777 == 0o700
    listed = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "ls", "/run/lamina"],
        preexec_fn=lambda: house._enter("/"),
        capture_output=True,
        timeout=200,
    )
    assert listed.returncode != 0


def test_the_memory_of_the_warm_process_is_nobodys(house: House, server: int) -> None:
    """PR_SET_DUMPABLE: its files below /proc are root's, whoever it is."""
    worker = until(lambda: house.parked(server), "no worker")
    for pid in (server, worker):
        core = subprocess.run(
            ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "cat", f"/proc/{pid}/environ"],
            capture_output=True,
            timeout=200,
        )
        assert core.returncode != 0


NONSENSE = (
    b"",
    b"x",
    b"\xff" * 5000,
    request([b"lamina", b"version"])[:100],
    request([]),
    request([b"lamina"], [b"A=1"])[:-1],
    b"\x63" + request([b"lamina"])[1:],
)


def test_nonsense_does_not_hurt_it(house: House, server: int) -> None:
    """One after the other, and all at once: some is waited for, because more could come."""
    for data in NONSENSE[1:3]:
        assert house.ask(data) == b"\n"
        until(lambda: house.parked(server), "no worker")
    with ThreadPoolExecutor(len(NONSENSE)) as pool:
        assert {*pool.map(house.ask, NONSENSE)} == {b"\n"}
    until(lambda: house.parked(server), "no worker")
    with house.expected(server, warm=True):
        assert house.run("version")[0] == 0
    assert alive(server)
