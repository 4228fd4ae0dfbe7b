"""Who replaces the file systems of a container that runs is killed at any of his steps, alone or with everybody else
who would have taken care: the next command makes one thing of what is half old and half new.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from lamina import Container, Engine
from lamina.engine import replacing
from lamina.errors import Conflict
from lamina.linux.program import Step, Struct
from lamina.runtime import swapping
from lamina.runtime.cgroups import reopen
from support.lives import state_of, until
from support.workers import FULL

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox"), pytest.mark.usefixtures("tiny")]

SLEEP = ["sleep", "1000"]


@pytest.fixture
def several(engine: Engine, tmp_path: Path) -> Iterator[Container]:
    """A container over this machine, which has two file systems more: one in the other, beside the root's. Its working
    directory is in neither, and their places are no part of its path.
    """
    outer, working = tmp_path / "outer", tmp_path / "working/directory"
    outer.mkdir()
    working.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", outer], check=True)
    try:
        (outer / "inner").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", outer / "inner"], check=True)
        box = engine.start("host", SLEEP, name="box", network="none", workdir=str(working), stop_timeout=0)
        yield box
        box.remove(force=True)
    finally:
        subprocess.run(["umount", "-R", outer], check=True)


def killed_at(engine: Engine, number: int, verb: str, everybody: bool) -> str:
    """The step of the replacing, the *number*-th, at which whoever does it was killed; "" where there is none. With him
    is the one that asked for it, and *everybody*: the one that would have the container go on as well.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            _die(engine, number, verb, everybody, writing)
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading) as said:
        step = said.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == (-signal.SIGKILL if step else 0)
    return step


def _die(engine: Engine, number: int, verb: str, everybody: bool, writing: int) -> None:
    steps_of, walk = swapping.swap_steps, replacing.Swap._walk

    def cut(*given: Any) -> tuple[list[Step], int]:
        steps, needed = steps_of(*given)
        last = next(index for index, step in enumerate(steps) if step.call == "getpid")
        if number < last:
            os.write(writing, steps[number].call.encode())
            steps[number] = Step("exit_group", 0)
        return steps, needed

    def walked(swap: replacing.Swap, *given: Any) -> Any:
        try:
            return walk(swap, *given)
        except BaseException:
            assert swap.still._guard is not None
            if everybody:
                os.kill(swap.still._guard._child.pid, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
            raise

    replacing.swap_steps, replacing.Swap._walk = cut, walked  # type: ignore
    box = Engine(os.fsdecode(engine.store.path)).container("box")
    if verb == "snapshot":
        box.snapshot(consistency="refuse")
    else:
        box.rewind("first")
    os._exit(0)


def sh(box: Container, script: str) -> str:
    done = box.exec(["sh", "-ec", script], capture_output=True, text=True, timeout=200, check=True)
    return str(done.stdout)


def mounts_of(box: Container) -> list[tuple[str, str, str]]:
    """Place, what kind of, and how it may be written to, of everything that its processes see."""
    lines = Path(f"/proc/{state_of(box)['pid']}/mountinfo").read_text().splitlines()
    words = [line.split() for line in lines]
    return sorted((word[4], word[word.index("-") + 1], word[5].partition(",")[0]) for word in words)


def steps(seed: int) -> range:
    return range(200) if FULL else range(seed % 4, 200, 4)


@pytest.mark.parametrize("everybody", [False, True], ids=["alone", "everybody"])
@pytest.mark.parametrize("verb", ["snapshot", "rewind"])
def test_of_one_file_system(engine: Engine, verb: str, everybody: bool, seed: int) -> None:
    box = engine.start(
        "tiny", SLEEP, name="box", network="none", volumes=["data:/data"], tmpfs=["/tmp"], stop_timeout=0
    )
    _goes_on(engine, box, ["/f", "/d/f"], verb, everybody, seed)


@pytest.mark.parametrize("everybody", [False, True], ids=["alone", "everybody"])
@pytest.mark.parametrize("verb", ["snapshot", "rewind"])
def test_of_several(
    engine: Engine, several: Container, tmp_path: Path, verb: str, everybody: bool, seed: int
) -> None:
    files = [str(tmp_path / name) for name in ("f", "outer/f", "outer/inner/f")]
    _goes_on(engine, several, files, verb, everybody, seed)


def _goes_on(engine: Engine, box: Container, files: list[str], verb: str, everybody: bool, seed: int) -> None:
    sh(box, f"mkdir -p {' '.join(os.path.dirname(file) for file in files)}")
    write = "for file in {files}; do echo {text} >$file; done".format
    look = f"cat {' '.join(files)}"
    sh(box, write(files=" ".join(files), text="first"))
    first = box.snapshot("first", consistency="refuse")
    mounts, calls = mounts_of(box), []
    for number in steps(seed):
        sh(box, write(files=" ".join(files), text=number))
        step = killed_at(engine, number, verb, everybody)
        calls.append(step)
        if verb == "snapshot":
            made = box.snapshot(consistency="refuse")
            assert sh(box, look).split() == [str(number)] * len(files), (number, step)
            assert not reopen(state_of(box)["cgroup"]).frozen
            sh(box, write(files=" ".join(files), text="other"))
            box.rewind(made)
        else:
            box.snapshot()
            assert sh(box, look).split() in ([str(number)] * len(files), ["first"] * len(files)), step
            box.rewind(first)
        assert mounts_of(box) == mounts, (number, step)
        if not step:
            break
    assert "" in calls and len(calls) > 3
    engine.storage.collect()
    assert engine.storage.check().findings == ()


def test_who_asked_is_killed_and_it_stands_still_until_all_is_replaced(engine: Engine) -> None:
    box = engine.start("tiny", SLEEP, name="box", network="none", stop_timeout=0)
    sh(box, "echo 1 >/f")
    reading, writing = os.pipe()
    holding, letting_go = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setpgid(0, 0)
            os.close(letting_go)
            _replace_slowly(engine, writing, holding)
        finally:
            os._exit(1)
    os.close(writing)
    os.close(holding)
    with open(reading) as said:
        assert said.read(1) == "m", "the new root lies over the old one, and whoever put it there waits"
    group = reopen(state_of(box)["cgroup"])
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    sleep(0.05)
    assert group.frozen
    os.close(letting_go)
    until(lambda: not group.frozen)
    lines = Path(f"/proc/{state_of(box)['pid']}/mountinfo").read_text().splitlines()
    [upper] = [line for line in lines if "upperdir" in line]
    assert "/upper-1," in upper
    assert sh(box, "cat /f; echo 2 >/f") == "1\n"
    box.snapshot("second", consistency="refuse")
    assert sh(box, "cat /f") == "2\n"
    assert [one.name for one in box.snapshots()] == ["second"]  # the first one was not written down yet


def _replace_slowly(engine: Engine, writing: int, holding: int) -> None:
    """In the middle it is said on *writing*, and what comes next waits for the end of *holding*."""
    steps_of = swapping.swap_steps

    def slow(*given: Any) -> tuple[list[Step], int]:
        steps, needed = steps_of(*given)
        first = next(index for index, step in enumerate(steps) if step.call == "move_mount")
        steps[first + 1 : first + 1] = [
            Step("write", writing, b"m", 1),
            Step("ppoll", Struct("pollfd", "ihh", (holding, select.POLLIN, 0)), 1, None, None, 0),
        ]
        return steps, needed + 2

    replacing.swap_steps = slow  # type: ignore
    swapping._WALKING = Struct("timespec", "qq", (100, 0))  # how long who replaces it is waited for
    Engine(os.fsdecode(engine.store.path)).container("box").snapshot(consistency="refuse")


def test_one_that_was_left_standing_still_is_let_go_on_by_unpause(engine: Engine) -> None:
    """As whoever would start a process in it is told; verbs of states have it go on by themselves."""
    box = engine.start("tiny", SLEEP, name="box", network="none", stop_timeout=0)
    sh(box, "echo 1 >/f")
    assert killed_at(engine, 8, "snapshot", everybody=True)
    group = reopen(state_of(box)["cgroup"])
    assert group.frozen
    with pytest.raises(Conflict, match="unpause the container"):
        sh(box, "cat /f")
    box.unpause()
    assert not group.frozen
    assert sh(box, "cat /f") == "1\n"
    with pytest.raises(Conflict, match="not paused"):
        box.unpause()
