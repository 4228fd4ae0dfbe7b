"""`Container.files` without root: one process in a user namespace does it all, and is gone when nobody asks."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import pytest

from lamina.engine import file_service
from lamina.linux.fd import Fd
from support.lives import until
from support.rootless import Rootless
from support.small_images import import_tiny

pytestmark = [pytest.mark.userns, pytest.mark.root, pytest.mark.peer("busybox", "newuidmap")]

MAKE = "mkdir -p /d/shut; echo of seven > /d/shut/f; chown -R 7:8 /d; chmod 0400 /d/shut/f; chmod 0500 /d /d/shut"
CODE = """
import errno, json, os, sys, threading
from lamina import Engine
from lamina.engine import file_service
from lamina.errors import Conflict, LaminaError, Unsupported
from lamina.linux.fd import ready
box = Engine().container("box")
d = box.files / "d"
found = {}
found["read"] = (d / "shut/f").read_text()
status = (d / "shut/f").stat()
found["stat"] = [status.st_uid, status.st_gid, oct(status.st_mode), status.st_size, status.st_mtime_ns > 0]
(d / "shut/new").write_text("new")
(d / "made").mkdir()
(d / "link").symlink_to("made")
found["owners"] = [(path.name, path.lstat().st_uid, path.lstat().st_gid) for path in sorted(d.iterdir())]
found["new"] = [(d / "shut/new").stat().st_uid, (d / "shut/new").read_text()]
errors = []
for act in (
    lambda: (d / "nosuch").read_bytes(),
    lambda: (d / "made").mkdir(),
    lambda: (d / "shut").read_bytes(),
    lambda: (box.files / "proc/sys/x").mkdir(),
):
    try:
        act()
    except OSError as error:
        errors.append([type(error).__name__, error.filename])
    except LaminaError as error:
        errors.append([type(error).__name__, None])
found["errors"] = errors
with (d / "shut/new").open("r+b") as file:
    file.seek(0, 2)
    file.write(b"er")
found["longer"] = (d / "shut/new").read_text()
results = []
def many():
    for _ in range(50):
        results.append((d / "shut/new").read_text())
threads = [threading.Thread(target=many) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
found["threads"] = [len(results), sorted(set(results))]
found["services"] = len(file_service._services)
found["alone"] = [threading.active_count()]
try:
    found["alone"].append(os.wait())  # it would be a stranger to this program
except ChildProcessError:
    pass
service, = file_service._services.values()
child = os.fork()
if not child:  # a fork has its own, or none
    os._exit(0 if (d / "shut/new").read_text() == "newer" and not service.usable else 1)
found["fork"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
file_service._services.clear()
file_service.IDLE = 0.2
(d / "shut/new").read_text()
service, = file_service._services.values()
file_service.IDLE = 60
assert ready(200, service._ours)  # it ends for want of work
found["again"] = (d / "shut/new").read_text()
class Interrupted(BaseException): pass
real = file_service.receive
def interrupted(*args):
    file_service.receive = real
    raise Interrupted
file_service.receive = interrupted
try:
    (d / "shut/f").read_text()  # its answer is on its way
except Interrupted:
    found["interrupted"] = (d / "shut/new").read_text()
found["descriptors"] = len(os.listdir("/proc/self/fd"))
for _ in range(20):
    (d / "shut/new").read_text()
    (d / "shut/new").write_text("newer")
found["descriptors"] = len(os.listdir("/proc/self/fd")) - found["descriptors"]
print(json.dumps(found))
"""


IMPATIENT = """
import os, socket, threading
socket.setdefaulttimeout(0.001)  # of this program's own sockets
from lamina import Engine
d = Engine().container("box").files / "d"
(d / "large").write_bytes(bytes(4_000_000))
assert (d / "large").read_bytes() == bytes(4_000_000)
for n in range(100):
    with (d / "new").open("wb") as file:
        file.write(b"%d" % n)
    assert (d / "new").read_text() == str(n)
"""


@pytest.fixture(params=["running", "stopped"])
def user(rootless: Rootless, request: pytest.FixtureRequest) -> Iterator[Rootless]:
    """Somebody with a container `box` of files of the user 7, that runs or has ended."""
    import_tiny(rootless)
    made = rootless.lamina("run", "-d", "--name", "box", "tiny", "sleep", "600")
    assert made.returncode == 0, made.stderr
    made = rootless.lamina("exec", "box", "sh", "-ec", MAKE)
    assert made.returncode == 0, made.stderr
    if request.param == "stopped":
        assert rootless.lamina("stop", "-t", "0", "box").returncode == 0
    yield rootless
    assert rootless.lamina("rm", "-f", "box").returncode == 0


def test_how_long_a_programs_own_sockets_wait_is_not_for_ours(user: Rootless) -> None:
    done = user.python(IMPATIENT)
    assert done.returncode == 0, done.stderr


def test_what_only_root_of_the_container_may(user: Rootless) -> None:
    running = user.lamina("ps", "-q").stdout != ""
    done = user.python(CODE)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["read"] == "of seven\n"
    assert found["stat"] == [7, 8, "0o100400", 9, True]
    assert found["owners"] == [["link", 0, 0], ["made", 0, 0], ["shut", 7, 8]]
    assert found["new"] == [0, "new"]
    assert found["errors"][:3] == [
        ["FileNotFoundError", "/d/nosuch"], ["FileExistsError", "/d/made"], ["IsADirectoryError", "/d/shut"],
    ]  # fmt: skip
    assert found["errors"][3] == (["Unsupported", None] if running else ["FileNotFoundError", "/proc/sys/x"])
    assert found["longer"] == "newer"
    assert found["threads"] == [200, ["newer"]]
    assert (found["services"], found["fork"], found["again"]) == (1, 0, "newer")
    assert found["alone"] == [1]  # no thread of ours, and no child that a program meets which waits for any
    assert found["interrupted"] == "newer"
    assert found["descriptors"] == 0
    # the process ends with the program that asked it
    until(lambda: servants(user) == [])


OTHER = """
import json
from lamina import Engine
box = Engine().container("other")
found = []
for _ in range(2):
    file = box.files / "tmp" / box.state
    file.write_text(box.state)
    (box.files / "root" / box.state).mkdir()
    found.append([file.stat().st_uid, (box.files / "etc/passwd").stat().st_uid, file.read_text()])
    if box.state == "running":
        done = box.exec(["stat", "-c", "%u", "/tmp/running", "/root/running"], capture_output=True, text=True)
        found.append(done.stdout)
        box.stop(timeout=0)
print(json.dumps(found))
"""


@pytest.mark.parametrize("userns", ["keep-id", "nomap"])
def test_of_containers_with_other_ids(user: Rootless, userns: str) -> None:
    """Whose root is not the user, who may not even be in there."""
    made = user.lamina(
        "run", "-d", "--name", "other", "--userns", userns, "--user", "0", "tiny", "sleep", "600"
    )
    assert made.returncode == 0, made.stderr
    done = user.python(OTHER)
    assert user.lamina("rm", "-f", "other").returncode == 0
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[0, 0, "running"], "0\n0\n", [0, 0, "exited"]]


KILLED = """
import sys
from lamina import Engine
assert Engine().container("box").files.joinpath("d/shut/f").read_text()
print("ready", flush=True)
sys.stdin.read()
"""


def servants(user: Rootless) -> list[int]:
    """Who works on files for programs of *user*: other tests have theirs under the same number."""
    found, top = [], Path(user.tmp)
    while not top.is_mount():
        top = top.parent
    # as a mount table says it, without where the file system is mounted: /tmp may be one of its own
    accounts = os.fsencode(f"/{Path(user.tmp).relative_to(top)}/")
    for number in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if b"within.serve" in Path("/proc", number, "cmdline").read_bytes():
                mounts = Path("/proc", number, "mountinfo").read_bytes()
                if accounts in mounts:  # his accounts, over those of this machine
                    found.append(int(number))
    return found


def test_it_ends_with_its_program_although_it_is_no_child_of_it(user: Rootless) -> None:
    with user.popen(sys.executable, "-c", KILLED, stdin=PIPE, stdout=PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        assert servants(user) != []
        program.kill()
    until(lambda: servants(user) == [])


def test_a_call_that_does_not_come_back_keeps_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one to a FUSE file system whose daemon hangs; here it is a pipe from which nothing comes."""
    monkeypatch.setattr(file_service, "BUSY", 0.2)
    monkeypatch.setattr(file_service, "_services", services := dict[str, file_service.Service]())
    maps = {
        kind: [{"containerID": 0, "hostID": 100_000, "size": 1}] for kind in ("uidMappings", "gidMappings")
    }
    silent, speaking, pipes = os.pipe(), os.pipe(), []

    def read(descriptor: int) -> bytes:
        done: bytes = file_service.ask(maps, (100_000, 100_000), Fd(os.dup(descriptor)), False, os.read, 5)
        return done

    def ask() -> None:
        pipes.append(read(silent[0]))

    hanging = threading.Thread(target=ask)
    hanging.start()
    until(lambda: any(service._turn.locked() for service in list(services.values())))
    [first] = services.values()
    os.write(speaking[1], b"hello")
    assert read(speaking[0]) == b"hello"
    assert not pipes
    os.write(silent[1], b"late")
    hanging.join()
    assert pipes == [b"late"]
    for descriptor in (*silent, *speaking):
        os.close(descriptor)
    for service in {first, *services.values()}:
        service.let_go()  # it leaves then
