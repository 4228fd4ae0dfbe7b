"""A Ctrl-C in the main thread, between any two instructions: what it leaves is what was there before."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina import Container, Engine
from support.leaks import Leaks
from support.small_images import small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]

# the interpreter looks for signals where a function begins and after each call of one written in C: there the program
# is sent one, in each round a few places later
SWEEP = """if True:
    import gc, os, re, signal, sys, threading, time
    from collections import Counter
    from lamina import Engine
    from subprocess import DEVNULL, PIPE
    from lamina.engine.executing import reap_left
    from lamina.engine.reaping import is_idle

    engine = Engine(sys.argv[1])
    box = engine.container("box")
    what, stride = sys.argv[2], int(sys.argv[3])
    def act():
        if what == "exec":
            box.exec(["cat"], input=bytes(300_000), capture_output=True)
        elif what == "popen":
            with box.popen(["cat"], stdin=PIPE, stdout=PIPE) as process:
                process.communicate(bytes(300_000))
        elif what == "run":
            engine.run("tiny", ["true"], rm=True)
        elif what == "files":
            (box.files / "tmp/file").write_text("x")
            (box.files / "tmp/file").unlink()

    class Interrupter:
        def __init__(self, left):
            self.left, self.place = left, None

        def __call__(self, frame, event, arg):
            if event not in ("call", "c_return") or "/lamina/" not in frame.f_code.co_filename:
                return
            # what is raised in there is said to be ignored, whoever raises it
            if frame.f_code.co_name == "__del__" or (frame.f_back and frame.f_back.f_code.co_name == "__del__"):
                return
            self.left -= 1
            if self.left == 0:
                sys.setprofile(None)
                self.place = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
                signal.raise_signal(signal.SIGINT)

    def held():
        "What is locked as long as somebody has it open."
        links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
        names = [os.readlink(link) for link in links if os.path.lexists(link)]
        return [name for name in names if name.endswith(("joining", "lock")) and is_locked(name)]

    def descriptors():
        "How many of which file; what is forgotten closes itself."
        gc.collect()
        links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
        return Counter(re.sub("[0-9]+", "", os.readlink(link)) for link in links if os.path.lexists(link))

    def is_locked(name):
        import fcntl
        with open(name) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def inside():
        return len(box.top()["Processes"])

    def until(what, place):
        end = time.monotonic() + 100
        while not what():
            assert time.monotonic() < end, place
            time.sleep(0.001)

    act(), act()
    until(is_idle, "the beginning")
    before = descriptors()
    rounds = number = 0
    while True:
        number += stride
        interrupter = Interrupter(number)
        try:
            sys.setprofile(interrupter)
            try:
                act()
            finally:
                sys.setprofile(None)
        except KeyboardInterrupt:
            pass
        if interrupter.place is None:
            break
        rounds += 1
        place = interrupter.place
        until(lambda: not reap_left() and is_idle(), place)
        until(lambda: inside() == 1, place)
        assert held() == [], place
        if what in ("exec", "popen"):  # of the others one that was opened in that very moment may stay open
            assert descriptors() == before, (place, descriptors() - before)
        assert engine.containers(all=True) == [box], place
    box.pause()  # which nobody who began something keeps from coming
    box.unpause()
    print(rounds)
"""


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks) -> Engine:
    small_image(store_root)
    return Engine(store_root)


@pytest.fixture
def box(engine: Engine) -> Iterator[Container]:
    with engine.start("tiny", ["sleep", "600"], name="box") as found:
        yield found


def swept(store_root: Path, what: str, stride: int) -> int:
    argv = [sys.executable, "-c", SWEEP, str(store_root), what, str(stride)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=250)
    assert (done.returncode, done.stderr) == (0, "")
    return int(done.stdout)


@pytest.mark.parametrize(("what", "stride"), [("exec", 47), ("popen", 47), ("run", 101), ("files", 23)])
def test_nothing_is_left(box: Container, store_root: Path, what: str, stride: int) -> None:
    assert swept(store_root, what, stride) > 10


BEGUN = """if True:
    import os, signal, sys
    from lamina import Engine
    from lamina.engine import executing

    box = Engine(sys.argv[1]).container("box")
    begin, begun = executing.further, []

    def and_then(*args):
        joined = begin(*args)
        begun.append(joined.pid)
        signal.raise_signal(signal.SIGINT)
        return joined

    executing.further = and_then
    for act in (box.exec, box.popen, box.exec_detached):
        try:
            act(["sleep", "600"])
        except KeyboardInterrupt as failure:
            assert not os.path.exists(f"/proc/{begun[-1]}"), act
        else:
            raise AssertionError(act)
    assert len(begun) == 3
"""


def test_a_process_that_has_begun_in_that_moment_is_ended(box: Container, store_root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", BEGUN, str(store_root)], stderr=subprocess.PIPE, timeout=200)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(box.top()["Processes"]) == 1


FORKED = """if True:
    import os, sys
    from subprocess import DEVNULL
    from lamina import Engine

    box = Engine(sys.argv[1]).container("box")
    with box.popen(["sleep", "600"], stdout=DEVNULL, stderr=DEVNULL) as process:
        execution = process._body._execution
        execution._maker = os.getpid()  # as in the moment before somebody sees its end
        child = os.fork()
        if child == 0:
            execution.__del__()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert process.poll() is None
        process.kill()
    assert process.returncode == 137
"""


def test_a_fork_ends_nothing_of_its_parents(box: Container, store_root: Path) -> None:
    quiet = "ignore:This process:DeprecationWarning"  # said of a fork beside threads, since Python 3.12
    done = subprocess.run(
        [sys.executable, "-W", quiet, "-c", FORKED, str(store_root)], stderr=subprocess.PIPE, timeout=200
    )
    assert (done.returncode, done.stderr) == (0, b"")


LEAVES = """if True:
    import sys
    from subprocess import DEVNULL
    from lamina import Engine

    box = Engine(sys.argv[1]).container("box")
    process = box.popen(["sleep", "600"], stdout=DEVNULL, stderr=DEVNULL)
    print(process.pid, box.exec_detached(["sleep", "600"]))
"""


def test_what_was_begun_lives_on_when_the_program_ends(box: Container, store_root: Path) -> None:
    argv = [sys.executable, "-c", LEAVES, str(store_root)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    assert {line[1] for line in box.top()["Processes"]} >= set(done.stdout.split())
