"""Control groups on demand: containers in the foreground, which begin without."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina import Container, Engine
from lamina.engine import grouping
from lamina.engine.recover import recover
from lamina.engine.supervising import Supervisor
from lamina.errors import Conflict, NotFound, Unsupported
from lamina.runtime.cgroups import find, reopen
from support.groups import LAYOUT
from support.lives import is_gone, kill_supervisor, state_of, until

pytestmark = pytest.mark.root

Begun = Callable[..., tuple[Container, "subprocess.Popen[bytes]"]]


@pytest.fixture
def begun(engine: Engine) -> Iterator[Begun]:
    """Starts containers with `lamina run`, which stays with each."""
    commands: list[subprocess.Popen[bytes]] = []

    def begin(*words: str, script: str = "sleep 1000 & sleep 1000 & wait") -> tuple[Container, Any]:
        command = subprocess.Popen(
            [sys.executable, "-m", "lamina", "--root", os.fsdecode(engine.store.path), "run", "--name", "box", *words,
             "host", "sh", "-c", script],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "LAMINA_WARM": "0"},
        )  # fmt: skip
        commands.append(command)
        until(lambda: any(one.name == "box" and one.state == "running" for one in engine.containers()))
        return engine.container("box"), command

    yield begin
    for command in commands:
        command.kill()
        command.wait()


def groups(container: Container) -> set[Path]:
    return {Path(os.fsdecode(place)) for place in reopen(state_of(container)["cgroup"]).paths.values()}


def all_of(container: Container) -> set[int]:
    return {int(row[0]) for row in container.top(["-o", "pid"])["Processes"]}


def until_all(container: Container) -> None:
    until(lambda: len(all_of(container)) == 3)


def test_it_can_be_paused(engine: Engine, begun: Begun) -> None:
    box, command = begun("--rm")
    assert not state_of(box).get("cgroup")
    until(lambda: len(all_of(box)) == 3)
    everybody = all_of(box)
    box.pause()
    assert box.state == "paused"
    for place in groups(box):
        assert set(map(int, (place / "cgroup.procs").read_text().split())) == everybody
    assert reopen(state_of(box)["cgroup"]).frozen
    box.unpause()
    assert box.state == "running"
    places = groups(box)
    box.pause()
    box.unpause()
    assert places == groups(box), "they are made once"
    box.kill()
    assert command.wait(100) == 137
    assert not [place for place in places if place.exists()]
    assert not engine.containers(all=True)


def test_it_ends_though_it_is_paused(engine: Engine, begun: Begun) -> None:
    box, command = begun()
    box.pause()
    places = groups(box)
    box.stop(timeout=0)
    assert command.wait(100) in (137, 143)
    assert not [place for place in places if place.exists()]
    assert engine.container("box").state == "exited"


def test_its_command_is_killed_though_it_is_paused(engine: Engine, begun: Begun) -> None:
    box, command = begun()
    box.pause()
    places = groups(box)
    command.kill()
    command.wait()
    recover(engine.store)
    assert engine.container("box").state == "dead"
    engine.container("box").remove(force=True)
    assert not [place for place in places if place.exists()]


def test_time_runs_out_though_it_is_paused(engine: Engine) -> None:
    from threading import Event, Thread

    from lamina.errors import TimeoutExpired

    paused: list[bool] = []

    def pause() -> None:
        try:
            until(lambda: any(one.state == "running" for one in engine.containers()) or over.is_set())
            engine.container("box").pause()
            paused.append(True)
        except (Conflict, NotFound, OSError):  # it has just ended
            pass

    for seconds in (5, 25, 90):  # on a busy machine it has ended before it is paused
        thread, over = Thread(target=pause), Event()
        thread.start()
        with pytest.raises(TimeoutExpired):
            engine.run("host", ["sleep", "1000"], name="box", rm=True, timeout=seconds)
        over.set()
        thread.join()
        if paused:
            break
    assert paused


def test_limits_are_put_on_it(engine: Engine, begun: Begun) -> None:
    for words in ((), ("--rm",)):
        box, command = begun(*words)
        until_all(box)
        box.update(pids_limit=50, memory="64m")
        (pids,) = (place for place in groups(box) if "pids" in str(place) or (place / "pids.max").exists())
        assert (pids / "pids.max").read_text() == "50\n"
        assert len((pids / "cgroup.procs").read_text().split()) == 3
        if not words:
            assert box.inspect()["HostConfig"]["PidsLimit"] == 50
        box.kill()
        command.wait(100)
        if not words:
            engine.container("box").remove()


def test_what_has_groups_of_its_limits_gets_the_others(engine: Engine, begun: Begun) -> None:
    box, command = begun("--rm", "--pids-limit", "40")
    before = groups(box)
    box.pause()
    assert before <= groups(box)  # of v2 there is one for all
    assert reopen(state_of(box)["cgroup"]).frozen
    box.unpause()
    places = groups(box)
    box.kill()
    command.wait(100)
    assert not [place for place in places if place.exists()]


def test_what_it_uses_is_told_without_groups(engine: Engine, begun: Begun) -> None:
    box, _ = begun("--rm", script="while :; do :; done")
    until(lambda: (box.stats().cpu_ns or 0) > 10**7)
    found = box.stats()
    assert found.pids == 1
    assert found.memory_bytes and found.memory_bytes < 10**8
    assert not state_of(box).get("cgroup")


def test_nobody_escapes_by_forking(engine: Engine, begun: Begun) -> None:
    """Processes that fork and end all the time are all in the groups, or it is an error and they go on."""
    script = "for n in 1 2 3 4; do (while :; do (sleep 0.01); done) & done; wait"
    box, _ = begun("--rm", script=script)
    until(lambda: len(all_of(box)) >= 5)
    box.pause()

    def is_whole() -> bool:
        """Not so while one is left that ended just before: it has left its group, and is no zombie so far."""
        here = all_of_namespace(box)
        return all(
            here <= set(map(int, (place / "cgroup.procs").read_text().split())) for place in groups(box)
        )

    until(is_whole)
    seen = all_of_namespace(box)
    time.sleep(0.1)
    assert all_of_namespace(box) <= seen
    assert len(seen) >= 5
    box.unpause()


def all_of_namespace(container: Container) -> set[int]:
    """Those that live."""
    from lamina.engine.processes import members

    found = members(int(state_of(container)["pid"]), {})
    return {pid for pid in found if not grouping._is_zombie(pid)}


def test_an_exec_joins_them(engine: Engine, begun: Begun) -> None:
    box, _ = begun("--rm")
    box.pause()
    with pytest.raises(Conflict, match="paused"):
        box.exec(["true"])
    box.unpause()
    done = box.exec(["cat", "/proc/self/cgroup"], capture_output=True, text=True)
    assert box.id in done.stdout


def test_what_shares_the_hosts_processes(engine: Engine, begun: Begun) -> None:
    box, _ = begun("--rm", "--pid", "host", script="sleep 1000")
    if "" in reopen(state_of(box)["cgroup"]).paths:
        pytest.skip("a group of cgroup v2, which such a container always has, can be frozen")
    with pytest.raises(Unsupported, match="not told from others"):
        box.pause()
    assert box.state == "running"


def killed_while_it_groups(box: Container) -> None:
    """Somebody who limits it is killed when some of its processes are held, and not all."""
    child = os.fork()
    if child == 0:
        move = grouping._move

        def move_first(outside: list[int], *where: Any) -> None:
            move(sorted(outside)[:1], *where)
            os.kill(os.getpid(), signal.SIGKILL)

        grouping._move = move_first  # type: ignore[assignment]
        try:
            box.update(pids_limit=50)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert reopen(state_of(box)["cgroup"]).frozen


def test_what_is_held_when_its_holder_is_killed_is_paused(engine: Engine, begun: Begun) -> None:
    box, command = begun("--rm")
    until_all(box)
    killed_while_it_groups(box)
    assert box.state == "paused"
    box.unpause()
    assert not reopen(state_of(box)["cgroup"]).frozen
    box.update(pids_limit=60)
    (pids,) = (place for place in groups(box) if "pids" in str(place) or (place / "pids.max").exists())
    assert len((pids / "cgroup.procs").read_text().split()) == 3, "it does not depend on who was killed"
    assert box.state == "running"
    box.kill()
    assert command.wait(100) == 137


def test_what_is_held_when_its_holder_is_killed_is_stopped(engine: Engine, begun: Begun) -> None:
    box, command = begun()
    until_all(box)
    killed_while_it_groups(box)
    box.stop(timeout=0)
    assert command.wait(100) in (137, 143)


@pytest.mark.parametrize("words", [(), ("--pids-limit", "40")])
@pytest.mark.parametrize("end", ["its own", "its command's"])
def test_groups_that_nobody_wrote_down_are_removed(
    engine: Engine, begun: Begun, end: str, words: tuple[str, ...]
) -> None:
    """Whoever made them was killed in that moment."""
    box, command = begun(*words)
    child = os.fork()
    if child == 0:
        type(box._home).write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        try:
            box.pause()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    places = [Path(os.fsdecode(place)) for place in find(grouping._path(box._home)).paths.values()]
    assert {*places} > (groups(box) if words else set())
    if end == "its own":
        box.kill()
        assert command.wait(100) == 137
    else:
        command.kill()
        command.wait()
        recover(engine.store)
    assert not [place for place in places if place.exists()]
    engine.container("box").remove()


def test_one_that_ends_meanwhile_leaves_nothing(
    engine: Engine, begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    box, command = begun("--rm")
    made = grouping._made
    places: list[Path] = []

    def kill_first(*words: Any) -> Any:
        group, whole = made(*words)
        pid = int(state_of(box)["pid"])
        os.kill(pid, signal.SIGKILL)
        until(lambda: is_gone(pid))  # the command that stays with it waits for its turn now
        places.extend(Path(os.fsdecode(place)) for place in group.paths.values())
        return group, whole

    monkeypatch.setattr(grouping, "_made", kill_first)
    with pytest.raises((Conflict, OSError)):
        box.pause()
    assert command.wait(100) == 137
    assert places and not [place for place in places if place.exists()]
    assert not engine.containers(all=True)


def test_who_adopts_it_meanwhile_is_in_the_record_and_so_are_its_groups(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both write the same record, each with what the other does not know."""
    if "cpuset" not in LAYOUT.v1:
        pytest.skip("there is no controller that a container in the background has no group of")
    box = engine.start("host", ["sleep", "1000"], name="box")
    kill_supervisor(box)
    make, adopting = grouping._made, []

    def made(*asked: Any) -> Any:
        found = make(*asked)
        adopting.append(child := os.fork())
        if child == 0:
            try:
                Supervisor(box.store, box.id).adopt()
            finally:
                os._exit(0)
        until(lambda: is_gone(child) or waits_for_a_lock(child))
        return found

    monkeypatch.setattr(grouping, "_made", made)
    box.update(cpuset_cpus="0")
    assert os.waitpid(adopting[0], 0)[1] == 0
    assert state_of(box)["supervisor"]["pid"] == adopting[0]
    assert "cpuset" in reopen(state_of(box)["cgroup"]).paths


def waits_for_a_lock(pid: int) -> bool:
    """proc_locks(5)"""
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return any(words[1] == "->" and words[5] == str(pid) for words in lines)
