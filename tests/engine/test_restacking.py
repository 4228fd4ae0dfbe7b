"""The root of a container that runs, replaced under it (engine/restacking.py)."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.engine.restacking import swapped_to
from lamina.errors import Conflict, InvalidInput, LaminaError
from lamina.linux.mountinfo import Mount, read_mountinfo
from lamina.linux.numbers import number as number_of
from lamina.runtime.cgroups import reopen
from lamina.runtime.redirecting import is_possible
from support.chains import Chain, digest
from support.lives import said, state_of, until

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]


def shell(box: Container, words: str) -> str:
    return str(box.exec(["sh", "-c", words], check=True, capture_output=True, text=True).stdout)


def mounts(box: Container) -> list[Mount]:
    return read_mountinfo(state_of(box)["pid"])


def shown(box: Container) -> list[tuple[object, ...]]:
    """Its mounts, without what says which upper it is."""
    found = [
        (
            one.mount_point,
            one.root,
            one.options,
            one.propagation,
            one.fstype,
            one.fstype == b"overlay" or one.id,
        )
        for one in mounts(box)
    ]
    return sorted(found, key=repr)


def frozen(box: Container) -> bool:
    return reopen(state_of(box)["cgroup"]).frozen


@pytest.mark.usefixtures("tiny")
def test_what_was_written_becomes_a_layer_and_everything_goes_on(engine: Engine, tmp_path: Path) -> None:
    """Idle, as a sandbox is: in a directory of its own."""
    (tmp_path / "volume").mkdir()
    (tmp_path / "file").write_text("given")
    box = engine.start(
        "tiny",
        ["sh", "-c", "echo begun; exec sleep 1000"],
        workdir="/home/ann",
        volumes=[f"{tmp_path}/volume:/data", f"{tmp_path}/file:/etc/given:ro"],
        tmpfs=["/scratch"],
    )
    before, chain = shown(box), Chain(box)
    shell(
        box,
        "echo 1 > /home/ann/count; mkdir -p /d/e; ln -s e /d/link; echo kept > /d/e/f; echo v > /data/v; rm /etc/image",
    )
    seen = []
    for number in range(2, 5):
        assert chain.freeze(consistency="refuse").swapped
        seen.append(digest(chain.layers[-1]))
        assert shown(box) == before
        words = f"pwd; cat count /d/link/f /data/v /etc/given; test ! -e /etc/image; echo {number} > count; rm /d/e/f"
        assert shell(box, words + f"; echo kept > /d/e/f; echo {number} > /home/ann/{number}").split() == [
            "/home/ann", str(number - 1), "kept", "v", "given",
        ]  # fmt: skip
        assert shell(box, "readlink /proc/1/cwd; cd /proc/1/cwd; ls").split() == [
            "/home/ann", *map(str, range(2, number + 1)), "count",
        ]  # fmt: skip
    assert [digest(one) for one in chain.layers] == seen
    assert [(one / "home/ann/count").read_text() for one in chain.layers] == ["1\n", "2\n", "3\n"]
    assert swapped_to(box._home, chain.stacks, {b"/"}) is True
    # whatever else is done to it
    (tmp_path / "in").write_text("copied")
    box.copy_in(tmp_path / "in", "/home/ann/in")
    box.copy_out("/home/ann/in", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "copied"
    assert shell(box, "cat in") == "copied"
    assert box.stats().pids
    until(lambda: said(box) == b"begun\n")
    box.pause()
    box.unpause()
    assert box.state == "running"
    assert not frozen(box)
    box.stop(timeout=0)
    assert swapped_to(box._home, chain.stacks, {b"/"}) is None
    assert [digest(one) for one in chain.layers] == seen


# each: what a process does and then stays; what is said of it
HOLDERS = {
    "a file open for writing as descriptor": "kept.append(open('/tmp/held', 'w'))",
    "a deleted file open for writing as descriptor": "kept.append(open('/tmp/held', 'w')); os.unlink('/tmp/held')",
    "mapped for writing": """
fd = os.open('/tmp/held', os.O_RDWR | os.O_CREAT); os.truncate(fd, 4096)
libc.mmap(None, 4096, 3, 1, fd, 0); os.close(fd)""",
    "a directory open as descriptor": "os.open('/tmp', os.O_RDONLY | os.O_DIRECTORY)",
    "a file held (O_PATH) as descriptor": "os.open('/etc/passwd', os.O_PATH)",
    "a fifo open as descriptor": "os.mkfifo('/tmp/held'); os.open('/tmp/held', os.O_RDWR)",
    "a file locked as descriptor": """
open('/tmp/held', 'w').close(); fd = os.open('/tmp/held', os.O_RDONLY); fcntl.flock(fd, fcntl.LOCK_EX)""",
    "a file locked as descriptor (of a range)": """
open('/tmp/held', 'w').close(); fd = os.open('/tmp/held', os.O_RDONLY); fcntl.lockf(fd, fcntl.LOCK_SH)""",
    "files watched (inotify) by descriptor": "libc.inotify_add_watch(libc.inotify_init(), b'/tmp', 0x100)",
    "a socket bound to /tmp/held": "s = socket.socket(socket.AF_UNIX); s.bind('/tmp/held'); s.listen()",
    "its working directory in": "os.mkdir('/tmp/gone'); os.chdir('/tmp/gone'); os.rmdir('/tmp/gone')",
    "its working directory (it could not enter that directory again) in": """
os.mkdir('/tmp/mine', 0o700); os.mkdir('/tmp/mine/deep', 0o777); os.chdir('/tmp/mine/deep'); os.setuid(1000)""",
    "its working directory (it is being traced) in": """
parent, (end, begin) = os.getpid(), os.pipe()
if not os.fork():
    os.chdir('/'); libc.prctl(1, 9); assert libc.ptrace(0x4206, parent, None, None) == 0
    os.write(begin, b'x'); time.sleep(1000)
os.read(end, 1)""",
    "descriptors on their way through a socket": """
one, other = socket.socketpair(); socket.send_fds(one, [b'x'], [os.open('/tmp', os.O_PATH)])""",
    "its root in": "os.mkdir('/tmp/root'); os.chroot('/tmp/root')",
    "a file open for writing as descriptor (of a thread)": """
def held():
    libc.unshare(0x400); open_files.append(os.open('/tmp/held', os.O_WRONLY | os.O_CREAT)); ready.set()
    time.sleep(1000)
ready, open_files = threading.Event(), []; threading.Thread(target=held, daemon=True).start(); ready.wait()""",
}
PYTHON = os.path.realpath(sys.executable)  # not that of a virtual environment
PROGRAM = "import ctypes, fcntl, os, socket, threading, time\nlibc = ctypes.CDLL(None)\nkept = []\n"
# what does not keep it from being replaced
HARMLESS = """
open('/tmp/read', 'w').write('as it was')
open('/tmp/deleted', 'w').close(); deleted = open('/tmp/deleted'); os.unlink('/tmp/deleted')
reader = open('/tmp/read'); null = open('/dev/null', 'w'); memory = os.memfd_create('x'); pipe = os.pipe()
there = socket.socket(socket.AF_UNIX); there.bind('\\0abstract'); shared = open('/dev/shm/file', 'w')
libc.mmap(None, 4096, 3, 0x21, -1, 0); private = os.open('/tmp/read', os.O_RDONLY)
libc.mmap(None, 4096, 3, 2, private, 0)
"""


class Process:
    """Python in a container, until the end of the block; `pid` is this machine's."""

    def __init__(self, box: Container, program: str, *, privileged: bool = False) -> None:
        words = [
            PYTHON,
            "-c",
            PROGRAM + program + "\nprint(os.getpid(), flush=True)\ntime.sleep(1000)",
        ]
        if "chroot" in program:  # nothing of Python is there any more
            words[-1] = words[-1].replace("time.sleep(1000)", "libc.pause()")
        self.process = box.popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            privileged=privileged,
        )

    def __enter__(self) -> Process:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip().isdigit(), self.process.stderr
        return self

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def python_box(engine: Engine, tiny: None) -> Container:
    """A container with this system's Python in it."""
    places = [sys.base_prefix, "/lib64", *{os.path.realpath("/lib"), "/usr/lib"}]
    return engine.start(
        "tiny",
        ["sleep", "1000"],
        workdir="/tmp",
        volumes=[f"{one}:{one}:ro" for one in places] + ["/usr/lib:/lib:ro"],
    )


def test_who_holds_on_is_named_and_nothing_is_replaced(python_box: Container) -> None:
    box, chain = python_box, Chain(python_box)
    box.exec(["sh", "-c", "echo > /tmp/written"], check=True)
    before = shown(box)
    for what, program in HOLDERS.items():
        with Process(box, program) as holder, pytest.raises(Conflict) as refused:
            chain.freeze(consistency="refuse")
        text = str(refused.value)
        assert what.partition(" (of a")[0] in text, (what, text)
        assert f"process {holder.pid} ({PYTHON}" in text
        assert shown(box) == before
        assert not frozen(box)
        box.exec(["sh", "-c", "rm -rf /tmp/held /tmp/root /tmp/mine; echo >> /tmp/written"], check=True)
    with (
        Process(box, "assert libc.unshare(0x20000) == 0", privileged=True),
        pytest.raises(Conflict, match="a mount namespace of its own, with the same root"),
    ):
        chain.freeze(consistency="refuse")
    watching = "fd = libc.fanotify_init(0, 0); libc.fanotify_mark(fd, 1, ctypes.c_uint64(2), -100, b'/tmp')"
    with (
        Process(box, watching, privileged=True),
        pytest.raises(Conflict, match=r"files watched \(inotify\) by descriptor"),
    ):
        chain.freeze(consistency="refuse")
    with Process(box, HARMLESS):
        assert chain.freeze(consistency="refuse").swapped
    assert chain.freeze(consistency="refuse").swapped
    assert [path.name for path in (chain.layers[0] / "tmp").iterdir()] != []
    box.remove(force=True)


def test_where_it_cannot_be_replaced_it_is_copied_or_waited_for(python_box: Container) -> None:
    box, chain = python_box, Chain(python_box)
    copied: list[bool] = []
    with Process(box, "file = open('/tmp/held', 'w')"):
        done = chain.freeze(copy=lambda: copied.append(frozen(box)))
        assert (done.swapped, copied) == (False, [True])
        assert "a file open for writing" in str(done.holders[0])
        with pytest.raises(Conflict, match=r"in use, after 0\.05 seconds still: process"):
            chain.freeze(consistency="wait", patience=0.05)
        with pytest.raises(Conflict, match="in use: process"):  # nothing to copy with
            chain.freeze()
    done = chain.freeze(consistency="copy", copy=lambda: copied.append(frozen(box)))
    assert (done.swapped, copied, done.holders) == (False, [True, True], ())
    with Process(
        box, "file = open('/tmp/held', 'w'); print(os.getpid(), flush=True); time.sleep(0.5); file.close()"
    ):
        assert chain.freeze(consistency="wait", patience=200).swapped
    with pytest.raises(InvalidInput, match="consistency 'maybe': there is no such"):
        chain.freeze(consistency="maybe")
    assert not frozen(box)
    box.remove(force=True)


def test_an_error_in_between_lets_it_go_on(python_box: Container) -> None:
    box, chain = python_box, Chain(python_box)
    box.exec(["sh", "-c", "echo > /tmp/written"], check=True)
    before = shown(box)

    def fail() -> None:
        assert frozen(box)
        raise LaminaError("no room")

    with Process(box, "file = open('/tmp/held', 'w')"), pytest.raises(LaminaError, match="no room"):
        chain.freeze(copy=fail)
    # a mount that does not move: all that was done is undone
    broken = [(at, spec) for at, spec in chain.stacks]
    chain.stacks = [(at, spec) for at, spec in broken]
    assert (shown(box), frozen(box)) == (before, False)
    box.exec(["sh", "-c", "echo more >> /tmp/written"], check=True)
    box.remove(force=True)


@pytest.mark.usefixtures("tiny")
def test_exec_is_before_or_after(engine: Engine) -> None:
    """Never in between: what it wrote is in the layers or in the upper, once."""
    box = engine.start("tiny", ["sleep", "1000"], workdir="/tmp")
    chain, failures, number = Chain(box), [], 0
    stop = threading.Event()

    def write() -> None:
        nonlocal number
        while not stop.is_set():
            try:
                shell(box, f"echo {number} > /tmp/{number}; echo {number} >> /home/ann/all")
                number += 1
            except LaminaError as error:
                failures.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(20):
            chain.freeze(consistency="wait", patience=200)
            time.sleep(0.01)
    finally:
        stop.set()
        thread.join()
    assert failures == []
    assert shell(box, "cat /home/ann/all").split() == [str(one) for one in range(number)]
    assert set(shell(box, "ls /tmp").split()) == {str(one) for one in range(number)}


@pytest.mark.usefixtures("tiny")
def test_a_paused_one_stays_paused(engine: Engine) -> None:
    box = engine.start("tiny", ["sleep", "1000"])
    shell(box, "echo > /tmp/written")
    box.pause()
    chain = Chain(box)
    assert chain.freeze(consistency="refuse").swapped
    assert (box.state, frozen(box)) == ("paused", True)
    box.unpause()
    assert shell(box, "ls /tmp").split() == ["written"]
    box.stop(timeout=0)
    with pytest.raises(Conflict, match="it is not running"):
        chain.freeze()


@pytest.mark.usefixtures("tiny")
def test_a_container_with_ids_of_its_own(engine: Engine) -> None:
    """Its layers are seen through mounts that map their ids, and so is what it writes."""
    box = engine.start("tiny", ["sleep", "1000"], userns="auto", workdir="/home/ann")
    before, chain = shown(box), Chain(box)
    for number in range(1, 4):
        shell(box, f"echo {number} > count; chown 1000:100 count")
        assert chain.freeze(consistency="refuse").swapped
        assert (chain.layers[-1] / "home/ann/count").stat().st_uid == 1000
        assert shell(box, "stat -c %u:%g count /etc/passwd .; cat count").split() == [
            "1000:100", "0:0", "0:0", str(number),
        ]  # fmt: skip
        assert swapped_to(box._home, chain.stacks, {b"/"}) is True
    assert shown(box) == before


@pytest.mark.usefixtures("tiny")
def test_fifty_times_and_another_process_each_time(engine: Engine) -> None:
    box = engine.start("tiny", ["sleep", "1000"], workdir="/tmp", rm=True)
    chain = Chain(box)
    for number in range(50):
        box.exec_detached(["sleep", "1000"], workdir="/home/ann" if number % 2 else "/")
        shell(box, f"echo {number} >> /home/ann/all")
        assert chain.freeze(consistency="refuse").swapped
    assert shell(box, "cat /home/ann/all").split() == [str(number) for number in range(50)]
    assert len(chain.layers) == 50
    there = os.stat(f"/proc/{state_of(box)['pid']}/root/home/ann").st_ino

    def is_there(pid: int) -> bool:
        try:
            return os.stat(f"/proc/{pid}/cwd").st_ino == there
        except OSError:  # one of those that were waited for has not quite gone
            return False

    assert sum(map(is_there, reopen(state_of(box)["cgroup"]).processes())) == 25


ABANDONED = f"""
os.mkdir('/tmp/deep'); os.chdir('/tmp/deep')
def work():
    print(os.getpid(), flush=True); time.sleep(1000)
threading.Thread(target=work).start(); libc.syscall({number_of("exit")}, 0)
"""


@pytest.mark.skipif(not is_possible(), reason="written for x86-64 alone")
def test_a_process_whose_first_thread_has_ended_follows(python_box: Container) -> None:
    box, chain = python_box, Chain(python_box)
    with Process(box, ABANDONED) as holder:
        (tid,) = {int(name) for name in os.listdir(f"/proc/{holder.pid}/task")} - {holder.pid}
        assert chain.freeze(consistency="refuse").swapped
        there, root = os.stat(f"/proc/{tid}/cwd"), f"/proc/{state_of(box)['pid']}/root"
        assert os.path.samestat(there, os.stat(f"{root}/tmp/deep"))


@pytest.mark.usefixtures("tiny")
def test_a_read_only_root_stays_so(engine: Engine) -> None:
    box = engine.start("tiny", ["sleep", "1000"], read_only=True, tmpfs=["/tmp"])
    before, chain = shown(box), Chain(box)
    assert chain.freeze(consistency="refuse").swapped
    assert shown(box) == before
    assert box.exec(["touch", "/etc/new"], capture_output=True).returncode != 0


# writers of all kinds in threads: each does its work again and again, and looks whether it is still there; the numbers
# that they count in files never go back
STORM = r"""
import ctypes, mmap, os, sys, threading, time
stop = threading.Event()
def again(work):
    def loop():
        number = 0
        while not stop.is_set():
            number, begun = number + 1, time.monotonic()
            try:
                work(number)
                # moments in which nobody holds anything, however long a busy machine takes for the work
                stop.wait(0 if sys.argv[1:] else max(0.004, 3 * (time.monotonic() - begun)))
            except BaseException as error:
                print(work.__name__, number, repr(error), flush=True); os._exit(1)
        done.append(work.__name__)
    return threading.Thread(target=loop)
def check(path, text):
    with open(path) as file:
        found = file.read()
    assert found == text, (path, found[-40:], text[-40:])
def append(number):
    with open('appended', 'a') as file: file.write(f'{number}\n')
    if number % 50 == 0: check('appended', ''.join(f'{one}\n' for one in range(1, number + 1)))
def rename(number):
    with open('new', 'w') as file: file.write(str(number))
    os.rename('new', 'renamed'); check('renamed', str(number))
page = mmap.mmap(-1, 4096)
def direct(number):
    page[:8] = b'%08d' % number
    fd = os.open('direct', os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    os.pwrite(fd, page, 0); os.close(fd)
    with open('direct', 'rb') as file: assert file.read(8) == b'%08d' % number
def mapped(number):
    fd = os.open('mapped', os.O_RDWR | os.O_CREAT); os.truncate(fd, 4096)
    shared = mmap.mmap(fd, 4096); os.close(fd); shared[:8] = b'%08d' % number; shared.close()
    with open('mapped', 'rb') as file: assert file.read(8) == b'%08d' % number
def deleted(number):
    fd = os.open('gone', os.O_RDWR | os.O_CREAT | os.O_TRUNC); os.unlink('gone')
    os.write(fd, b'%d' % number); assert os.pread(fd, 20, 0) == b'%d' % number; os.close(fd)
def directories(number):
    os.mkdir('directory'); os.symlink('renamed', 'directory/link'); open('directory/file', 'w').close()
    os.link('directory/file', 'linked'); assert os.stat('linked').st_nlink == 2
    assert sorted(os.listdir('directory')) == ['file', 'link']
    for name in ('linked', 'directory/link', 'directory/file'): os.unlink(name)
    os.rmdir('directory')
def pair(number):
    for name in ('first', 'second'):
        with open(name, 'w') as file: file.write('%08d' % number)
held = [open('held', 'a')] if sys.argv[1:] else []
def log(number):
    for file in held: file.write(f'{number}\n'); file.flush()
done, threads = [], [again(work) for work in (append, rename, direct, mapped, deleted, directories, pair, log)]
for thread in threads: thread.start()
print('begun', flush=True)
sys.stdin.read()
stop.set()
for thread in threads: thread.join()
print(len(done), open('appended').read().count('\n'), open('held').read().count('\n') if held else 0, flush=True)
"""


@pytest.mark.parametrize("held", [(), ("held",)], ids=["brief", "held"])
def test_nothing_that_is_written_meanwhile_is_lost_or_changes_a_layer(
    python_box: Container, tmp_path: Path, held: tuple[str, ...]
) -> None:
    """Whether the root is replaced (in a moment in which nobody holds a file) or what was written is copied."""
    box, chain = python_box, Chain(python_box)
    words = [PYTHON, "-c", STORM, *held]
    storm = box.popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, workdir="/home/ann")
    assert storm.stdout is not None
    assert storm.stdout.readline() == "begun\n"
    seen: dict[Path, str] = {}
    states: list[Path] = []
    swapped = 0

    def copy() -> None:
        states.append(tmp_path / str(len(states)))
        subprocess.run(["cp", "-a", chain.upper(), states[-1]], check=True)

    for number in range(8):
        wait = not held and number % 2
        done = chain.freeze(consistency="wait" if wait else "auto", copy=copy, patience=200)
        swapped += done.swapped
        assert done.swapped or done.holders
        layer = chain.layers[-1] if done.swapped else states[-1]
        seen[layer] = digest(layer)
        # what one thread writes in turn is never the other way round
        first, second = (layer / "home/ann" / name for name in ("first", "second"))
        if first.exists() and second.exists() and first.stat().st_size == second.stat().st_size == 8:
            assert 0 <= int(first.read_text()) - int(second.read_text()) <= 1
    out, _ = storm.communicate("")
    assert storm.returncode == 0, out
    assert out.split()[0] == "8"
    assert bool(held) == (swapped == 0)
    assert {layer: digest(layer) for layer in seen} == seen
    assert shell(box, "wc -l < /home/ann/appended").strip() == out.split()[1]
