"""The program that uses the API: it stays what it was, whatever it does with containers, from wherever in it."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import DEVNULL, PIPE

import pytest

from lamina import Container, Engine
from lamina.engine.executing import reap_left
from lamina.errors import Conflict
from support.leaks import Leaks
from support.namespaces import in_mount_namespace
from support.rootless import Rootless
from support.small_images import small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]
THREADS = 16

# a program that changed what it could, does everything, and tells whether it still is what it was
PROGRAM = """if True:
    import ctypes, gc, json, locale, os, resource, signal, subprocess, sys, threading, time
    from pathlib import Path

    def odd(number, frame): seen.append(number)
    seen = []
    os.umask(0o017)
    os.chdir(sys.argv[2])
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM):
        signal.signal(number, odd)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    os.environ["CALLERS"] = "own"
    own = subprocess.Popen(["true"])
    os.waitid(os.P_PID, own.pid, os.WEXITED | os.WNOWAIT)
    libc = ctypes.CDLL(None)

    def what_it_is():
        gc.collect()
        while threading.active_count() > 1:
            time.sleep(0.001)
        status = Path("/proc/self/status").read_text().splitlines()
        wanted = ("Umask", "NStgid", "Uid", "Gid", "Groups", "NSsid", "NSpgid", "Sig", "Shd", "Cap", "NoNewPrivs",
                  "Seccomp", "Threads", "Cpus_allowed_list", "TracerPid")
        subreaper = ctypes.c_int()
        libc.prctl(37, ctypes.byref(subreaper), 0, 0, 0)
        death = ctypes.c_int()
        libc.prctl(2, ctypes.byref(death), 0, 0, 0)
        return {
            "namespaces": {n: os.readlink("/proc/self/ns/" + n) for n in sorted(os.listdir("/proc/self/ns"))},
            "cwd": os.getcwd(), "root": os.readlink("/proc/self/root"), "exe": os.readlink("/proc/self/exe"),
            "status": [line for line in status if line.startswith(wanted) and not line.startswith("SigQ")],
            "handlers": {n: repr(signal.getsignal(n)) for n in range(1, 65) if n not in (32, 33)},
            "wakeup": signal.set_wakeup_fd(-1),
            "timers": [signal.getitimer(n) for n in (0, 1, 2)],
            "limits": [resource.getrlimit(n) for n in range(16)],
            "environ": dict(os.environ), "locale": locale.setlocale(locale.LC_ALL), "path": sys.path,
            "subreaper": subreaper.value, "death": death.value, "dumpable": libc.prctl(3, 0, 0, 0, 0),
            "cgroup": Path("/proc/self/cgroup").read_text(), "session": os.getsid(0),
            "priority": os.getpriority(os.PRIO_PROCESS, 0), "name": Path("/proc/self/comm").read_text(),
            "mounts": Path("/proc/self/mountinfo").read_text(),
            "children": Path(f"/proc/self/task/{os.getpid()}/children").read_text(),
            "descriptors": sorted(
                os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                if os.path.lexists(f"/proc/self/fd/{n}")
            ),
        }

    from lamina import Engine, LaminaError
    engine = Engine(sys.argv[1])

    def everything(image):
        engine.run(image, ["true"], rm=True)
        engine.run(image, ["sh", "-c", "echo; echo >&2"], capture_output=True, text=True, input="x", memory="64m")
        for wrong in (["no-such"], ["/etc"]):
            try:
                engine.run(image, wrong, rm=True)
            except LaminaError:
                pass
        try:
            engine.run(image, ["sleep", "100"], rm=True, timeout=0.05)
        except LaminaError:
            pass
        with engine.popen(image, ["cat"], stdin=-1, stdout=-1, rm=True) as process:
            process.communicate(b"data")
        with engine.start(image, ["sleep", "100"], stop_timeout=0) as box:
            box.exec(["true"])
            box.exec(["cat"], input=b"data", capture_output=True)
            with box.popen(["sh"], stdin=-1, stdout=-1) as process:
                process.communicate(b"echo")
            with box.popen(["sleep", "100"], stdout=sys.stdout) as process:
                process.kill()
            box.exec_detached(["true"])
            box.pause(); box.unpause()
            box.top(); box.stats(); box.attrs; list(box.logs())
            box.restart(timeout=0)
            box.stop()
        engine.containers(all=True); engine.images(); engine.volumes()
        for box in engine.containers(all=True):
            box.remove(force=True)
        engine.create_volume("data").remove()
        from lamina.engine.executing import reap_left
        while reap_left():
            time.sleep(0.001)

    everything("tiny")      # what is opened once, and stays
    everything("host")
    before = what_it_is()
    everything("tiny")
    everything("host")
    after = what_it_is()
    differ = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
    assert own.wait() == 0
    os.kill(os.getpid(), signal.SIGUSR1)
    assert signal.SIGUSR1 in seen
    assert set(seen) <= {signal.SIGUSR1, signal.SIGCHLD}, seen
    print(json.dumps(differ))
"""


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks) -> Iterator[Engine]:
    small_image(store_root)
    yield Engine(store_root)
    end = time.monotonic() + 100
    while reap_left():
        assert time.monotonic() < end


@pytest.fixture
def box(engine: Engine) -> Iterator[Container]:
    with engine.start("tiny", ["sleep", "600"], name="box") as found:
        yield found


def python(program: str, *words: object, **options: object) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-W", "error", "-c", program, *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=200, **options)  # type: ignore[call-overload,no-any-return]


def test_a_program_is_what_it_was(engine: Engine, store_root: Path, tmp_path: Path) -> None:
    # it compares what is mounted, and others mount something meanwhile
    done = in_mount_namespace(python, PROGRAM, store_root, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {}


IGNORES = """if True:
    import signal, sys
    from lamina import Engine
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # then the kernel reaps
    engine = Engine(sys.argv[1])
    assert engine.run("tiny", ["sh", "-c", "exit 3"], rm=True).returncode == 3
    for how in ({"userns": "auto"}, {"userns": "auto", "tmpfs": ["/etc:tmpcopyup"]}):
        assert engine.run("tiny", ["sh", "-c", "exit 6"], rm=True, **how).returncode == 6
    with engine.start("tiny", ["sleep", "600"], ipc="shareable") as one:
        other = engine.run("tiny", ["sh", "-c", "exit 7"], rm=True, ipc=f"container:{one.name}")
        assert other.returncode == 7
        one.kill()
    with engine.start("tiny", ["sleep", "600"]) as box:
        assert box.exec(["sh", "-c", "exit 4"]).returncode == 4
        with box.popen(["sh", "-c", "exit 5"]) as process:
            pass
        assert process.returncode == 5
        box.kill()
        assert box.wait() == 137
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN
"""


@pytest.mark.kernel("6.15")
def test_a_program_that_lets_the_kernel_reap_gets_every_status(engine: Engine, store_root: Path) -> None:
    done = python(IGNORES, store_root)
    assert done.returncode == 0, done.stderr


REAPS = """if True:
    import os, sys, threading, time
    from lamina import Engine
    engine = Engine(sys.argv[1])
    over = False
    def reap():
        while not over:
            try:
                os.wait()
            except ChildProcessError:
                time.sleep(0.001)
    thread = threading.Thread(target=reap)
    thread.start()
    try:
        with engine.start("tiny", ["sleep", "600"]) as box:
            for _ in range(5):
                assert box.exec(["sh", "-c", "exit 4"]).returncode == 4
                assert engine.run("tiny", ["sh", "-c", "exit 3"], rm=True).returncode == 3
        for how in ({"userns": "auto"}, {"userns": "auto", "tmpfs": ["/etc:tmpcopyup"]}):
            assert engine.run("tiny", ["sh", "-c", "exit 6"], rm=True, **how).returncode == 6
        with engine.start("tiny", ["sleep", "600"], ipc="shareable") as one:
            other = engine.run("tiny", ["sh", "-c", "exit 7"], rm=True, ipc=f"container:{one.name}")
            assert other.returncode == 7
            one.kill()
    finally:
        over = True
        thread.join()
"""


@pytest.mark.kernel("6.15")
def test_a_program_that_waits_for_any_child_gets_every_status(engine: Engine, store_root: Path) -> None:
    done = python(REAPS, store_root)
    assert done.returncode == 0, done.stderr


# -- threads


def test_one_engine_in_sixteen_threads(engine: Engine, box: Container) -> None:
    def work(number: int) -> None:
        word = f"thread {number}"
        done = engine.run("tiny", ["echo", word], capture_output=True, text=True, rm=True)
        assert (done.returncode, done.stdout) == (0, f"{word}\n")
        done = box.exec(["sh", "-c", f"echo {word}; exit {number}"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (number, f"{word}\n")
        with box.popen(["cat"], stdin=PIPE, stdout=PIPE, text=True) as process:
            assert process.communicate(word) == (word, None)
        with engine.popen("tiny", ["cat"], stdin=PIPE, stdout=PIPE, text=True, rm=True) as process:
            assert process.communicate(word) == (word, None)
        with engine.start("tiny", ["sleep", "600"], name=f"box-{number}") as own:
            assert own in engine.containers()
            assert engine.container(f"box-{number}") == own
            assert own.exec(["true"]).returncode == 0

    with ThreadPoolExecutor(THREADS) as pool:
        assert len(list(pool.map(work, range(THREADS)))) == THREADS
    assert engine.containers(all=True) == [box]


def test_one_container_asked_for_by_sixteen_threads(engine: Engine) -> None:
    """One of them makes it; the others are told that the name is taken."""
    start = threading.Barrier(THREADS)

    def make(number: int) -> Container | None:
        start.wait()
        try:
            return engine.start("tiny", ["sleep", "600"], name="the-one")
        except Conflict:
            return None

    with ThreadPoolExecutor(THREADS) as pool:
        made = [found for found in pool.map(make, range(THREADS)) if found is not None]
    assert made == engine.containers(all=True)
    with made[0]:
        pass


# -- forks


def in_fork(work: Callable[[], None]) -> None:
    """*work*, done by a fork of this process."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_fork_uses_the_same_engine(engine: Engine, box: Container) -> None:
    def work() -> None:
        assert engine.run("tiny", ["true"], rm=True).returncode == 0
        assert box.exec(["echo", "hello"], capture_output=True).stdout == b"hello\n"
        with box.popen(["cat"], stdin=PIPE, stdout=PIPE) as process:
            assert process.communicate(b"data") == (b"data", None)
        with engine.start("tiny", ["sleep", "600"]) as own:
            assert own.status == "running"
        assert engine.containers() == [box]

    in_fork(work)
    work()


def test_a_fork_holds_nothing_of_what_its_parent_does(engine: Engine, box: Container) -> None:
    """It may live for long; then locks and pipes that it got by the way would keep others waiting."""
    with engine.popen("tiny", ["cat"], stdin=PIPE, stdout=PIPE, name="job") as job:
        go_on, end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(end)
            os.read(go_on, 1)
            os._exit(0)
        try:
            assert job.stdin is not None
            os.close(go_on)
            job.kill()  # the fork has the other end of its input as well
            assert job.wait(200) == 137
            found = engine.container("job")
            assert found.status == "exited"
            found.remove()
        finally:
            os.close(end)
            os.waitpid(child, 0)


def test_a_process_is_waited_for_where_it_was_started(engine: Engine, box: Container) -> None:
    beside = box.popen(["sleep", "600"], stdout=DEVNULL, stderr=DEVNULL)
    own = engine.popen("tiny", ["sleep", "600"], rm=True)

    def work() -> None:
        for process in (beside, own):
            with pytest.raises(Conflict, match="another process started it"):
                process.wait()

    in_fork(work)
    for process in (beside, own):
        process.kill()
        assert process.wait() == 137


WORKERS = """
import multiprocessing, sys
from lamina import Engine

def work(engine, box, number):
    done = engine.run("tiny", ["echo", str(number)], capture_output=True, text=True, rm=True)
    with box:  # it was looked up here: nothing happens to it
        return done.stdout, box.exec(["hostname"], capture_output=True, text=True).stdout

if __name__ == "__main__":
    engine = Engine(sys.argv[1])
    box = engine.container("box")
    hostname = box.exec(["hostname"], capture_output=True, text=True).stdout
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            found = pool.starmap(work, [(engine, box, number) for number in range(4)])
        assert found == [(f"{number}\\n", hostname) for number in range(4)], (method, found)
    assert box.status == "running"
"""


def test_workers_of_multiprocessing_are_given_engines_and_containers(
    box: Container, store_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "workers.py").write_text(WORKERS)
    argv = [sys.executable, str(tmp_path / "workers.py"), str(store_root)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


def test_what_goes_to_another_process_is_which_one_it_is(engine: Engine, box: Container) -> None:
    assert pickle.loads(pickle.dumps(box)) == box
    assert pickle.loads(pickle.dumps(engine)).containers() == [box]
    assert (
        pickle.loads(pickle.dumps(Engine(engine.store.path, store_limit="5g"))).store.limit == 5_000_000_000
    )


WITHOUT_ROOT = """if True:
    import gc, os, sys
    from subprocess import DEVNULL, PIPE
    from lamina import Engine
    engine = Engine()
    before = sorted(os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns"))
    with engine.start("host", ["sleep", "600"], lifetime="owner") as box:
        with box.popen(["cat"], stdin=PIPE, stdout=PIPE) as process:
            assert process.communicate(b"data") == (b"data", None)
        with box.popen(["sleep", "600"], stdout=DEVNULL, stderr=DEVNULL) as process:
            process.terminate()
        assert process.returncode == 143
        left = box.popen(["sleep", "600"], stdout=DEVNULL, stderr=DEVNULL)
        box.exec_detached(["true"])
    assert left.wait() == 137
    with engine.popen("host", ["sh", "-c", "cat; exit 3"], stdin=PIPE, stdout=PIPE, text=True, rm=True) as process:
        assert process.communicate("text") == ("text", None)
    assert process.returncode == 3
    assert engine.containers(all=True) == []
    assert before == sorted(os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns"))
"""


@pytest.mark.userns
def test_without_root_as_well(rootless: Rootless) -> None:
    done = rootless.run(sys.executable, "-W", "error", "-c", WITHOUT_ROOT)
    assert done.returncode == 0, done.stderr
