"""Killed at any moment: the next call finds nothing that runs, mounts or lies about, and tells what happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

import pytest

from lamina import Engine
from lamina.engine import recover
from lamina.errors import KernelError
from lamina.runtime import identity
from support.leaks import Leaks
from support.lives import is_gone, until

pytestmark = pytest.mark.root

RUN = """if True:
    import sys
    from lamina import Engine
    engine = Engine(sys.argv[1])
    options = eval(sys.argv[2])
    while True:
        engine.run("host", ["sh", "-c", sys.argv[3]], **options)
        if not options.pop("repeat", None) and "repeat" not in sys.argv:
            break
"""


class Victim:
    """An engine in another process, to be killed."""

    def __init__(self, root: Path, options: dict[str, object], script: str, *more: str) -> None:
        words = [sys.executable, "-c", RUN, str(root), repr(options), script, *more]
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )

    def await_line(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def engine(store_root: Path) -> Engine:
    return Engine(store_root)


@pytest.fixture
def victim(store_root: Path, untouched_host: Leaks) -> Iterator[Callable[..., Victim]]:
    made: list[Victim] = []

    def start(options: dict[str, object], script: str = "echo ready; sleep 99", *more: str) -> Victim:
        made.append(Victim(store_root, options, script, *more))
        return made[-1]

    yield start
    for one in made:
        one.close()


def everything(root: Path) -> list[str]:
    """What a store holds apart from its own furniture."""
    return sorted(
        str(path.relative_to(root))
        for place in ("containers", "names", "running", "tmp")
        for path in (root / place).iterdir()
    )


def nobody_is_starting(engine: Engine, rm: bool) -> bool:
    """A child that was just starting finds out at the end of its start, and holds the lock until then."""
    return not any(rm or one.state in ("running", "created") for one in engine.containers(all=True))


def test_a_container_dies_with_its_engine(engine: Engine, victim: Callable[..., Victim]) -> None:
    killed = victim({"name": "web", "memory": "64m"})
    killed.await_line()
    pid = engine.container("web").inspect()["State"]["Pid"]
    killed.kill()
    until(partial(is_gone, pid))
    container = engine.container("web")
    assert (container.state, container.exit_code) == ("dead", None)
    assert engine.containers() == []
    assert [c.name for c in engine.containers(all=True)] == ["web"]
    assert next(iter(container.logs())).data == b"ready\n"
    container.remove()


def test_what_a_dead_container_did_can_still_be_seen_and_applied(
    engine: Engine, victim: Callable[..., Victim], tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    killed = victim({"name": "web", "workdir": str(target)}, "echo x >new; echo ready; sleep 99")
    killed.await_line()
    killed.kill()
    container = engine.container("web")
    assert os.fsencode(target / "new") in {c.path for c in container.changes()}
    container.apply([str(target / "new")])
    assert (target / "new").read_text() == "x\n"
    container.remove()


@pytest.mark.parametrize("verb", ["list", "find", "run"])
def test_one_that_was_to_be_removed_is_removed_by_the_next_call(
    engine: Engine, victim: Callable[..., Victim], store_root: Path, verb: str
) -> None:
    killed = victim({"rm": True, "name": "web", "pids_limit": 50})
    killed.await_line()
    assert everything(store_root)
    killed.kill()
    if verb == "list":
        assert engine.containers(all=True) == []
    elif verb == "find":
        with pytest.raises(LookupError):
            engine.container("web")
    else:
        engine.run("host", ["true"], rm=True)
    assert everything(store_root) == []


def test_the_container_is_killed_instead(engine: Engine, victim: Callable[..., Victim]) -> None:
    """Its engine notices, and writes down how it ended."""
    running = victim({"name": "web"})
    running.await_line()
    os.kill(engine.container("web").inspect()["State"]["Pid"], signal.SIGKILL)
    assert running.process.wait(200) == 0
    container = engine.container("web")
    assert (container.state, container.exit_code) == ("exited", 137)


@pytest.mark.slow
@pytest.mark.parametrize("rm", [True, False])
def test_killed_at_random_moments_nothing_is_left(
    engine: Engine, victim: Callable[..., Victim], store_root: Path, rm: bool
) -> None:
    """Engines that start one container after another, killed in the middle of whatever they do."""
    chance = Random()
    pids: set[int] = set()
    for _ in range(12):
        killed = victim({"rm": rm, "memory": "64m", "pids_limit": 50}, "true", "repeat")
        time.sleep(0.12 + chance.random() * 0.1)
        for entry in (store_root / "containers").glob("*/state.json"):
            try:
                pids.add(int(entry.read_text().partition('"pid":')[2].split(",")[0]))
            except (FileNotFoundError, ValueError):
                pass
        killed.close()
    until(partial(nobody_is_starting, engine, rm))
    for container in engine.containers(all=True):
        assert container.state in ("exited", "dead")
        container.inspect()
        container.changes()
        container.remove()
    assert everything(store_root) == []
    for pid in pids:
        until(partial(is_gone, pid))


@pytest.mark.slow
def test_killed_at_each_step_of_its_life_nothing_is_left(
    engine: Engine, store_root: Path, untouched_host: Leaks
) -> None:
    """Instead of chance: die at the n-th change of the file system, for every n."""
    code = """if True:
        import os, signal, sys
        from lamina import Engine
        left = int(sys.argv[2])
        def counting(real):
            def call(*arguments, **keywords):
                global left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **keywords)
            return call
        for name in ("mkdir", "rename", "unlink", "rmdir", "symlink", "chmod", "write", "fsync"):
            setattr(os, name, counting(getattr(os, name)))
        engine = Engine(sys.argv[1])
        engine.run("host", ["touch", "/srv/x"], name="web", rm=sys.argv[3] == "rm", memory="64m")
    """
    for rm in ("rm", "kept"):
        for step in range(0, 400, 3):
            done = subprocess.run(
                [sys.executable, "-c", code, str(store_root), str(step), rm], timeout=200, check=False
            )
            assert done.returncode in (0, -signal.SIGKILL)
            again = Engine(store_root)
            until(partial(nobody_is_starting, again, rm == "rm"))
            for container in again.containers(all=True):
                assert (container.name, rm) == ("web", "kept")
                container.changes()
                container.remove()
            assert everything(store_root) == [], (rm, step)
            if done.returncode == 0:
                break
        else:
            pytest.fail("it never came to an end")


# -- processes


def test_a_process_is_known_by_more_than_its_number() -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        state = identity.identity_of(process.pid)
        assert identity.same_process(process.pid, state)
        assert not identity.same_process(process.pid, {**state, "start_time": state["start_time"] + 1})
        assert not identity.same_process(process.pid, {**state, "boot": "another"})
        assert not identity.same_process(process.pid, {})
        recover.kill_and_wait(process.pid, {**state, "start_time": 1})
        assert process.poll() is None
        recover.kill_and_wait(process.pid, state)
        assert process.wait(100) == -signal.SIGKILL
        recover.kill_and_wait(process.pid, state)
        assert not identity.same_process(process.pid, state)
    finally:
        process.kill()
        process.wait()


def test_a_left_over_process_is_killed(engine: Engine, store_root: Path) -> None:
    """Should the kernel not have done it: the record says who it is."""
    engine.run("host", ["true"], name="web")
    home = store_root / "containers" / engine.container("web").id
    process = subprocess.Popen(["sleep", "60"])
    try:
        from lamina.store import record

        (home / "exit.json").unlink()
        record.write(os.fsencode(home), b"state.json", identity.identity_of(process.pid))
        (store_root / "running" / home.name).touch()
        assert engine.container("web").state == "dead"
        assert process.wait(100) == -signal.SIGKILL
        assert everything(store_root) == [f"containers/{home.name}", "names/web"]
    finally:
        process.kill()
        process.wait()


def test_left_over_cgroups_are_emptied_and_removed(engine: Engine, store_root: Path) -> None:
    """The engine died before it could write down where they are."""
    from lamina.runtime.cgroups import create

    engine.run("host", ["true"], name="web", memory="64m")
    identity = engine.container("web").id
    home = store_root / "containers" / identity
    cgroup = create(f"/lamina/{identity}", {"memory": {"limit": 64 << 20}, "pids": {"limit": 50}})
    assert cgroup is not None
    places = [Path(os.fsdecode(path)) for path in cgroup.paths.values()]
    process = subprocess.Popen(["sleep", "60"])
    try:
        for place in places:
            (place / "cgroup.procs").write_text(str(process.pid))
        cgroup.close()
        for name in ("state", "exit"):
            (home / f"{name}.json").unlink()
        (store_root / "running" / identity).touch()
        assert engine.containers(all=True) == []
        assert process.wait(100) == -signal.SIGKILL
        assert not [place for place in places if place.exists()]
    finally:
        process.kill()
        process.wait()
        for place in places:
            if place.exists():
                place.rmdir()


# -- what cannot be cleaned up keeps nobody from his work


@pytest.fixture
def immutable(store_root: Path) -> Iterator[Callable[[Path], None]]:
    """Makes a file that not even root can remove (ioctl_iflags(2)), for as long as the test lasts."""
    made: list[Path] = []

    def flag(path: Path, sign: str) -> None:
        subprocess.run(["chattr", f"{sign}i", str(path)], check=True, capture_output=True, timeout=200)

    def make(path: Path) -> None:
        try:
            flag(path, "+")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"files cannot be made immutable here: {error}")
        made.append(path)

    yield make
    for path in store_root.rglob("*"):
        if path.name in {one.name for one in made} and not path.is_symlink():
            flag(path, "-")


def test_a_file_that_cannot_be_removed(engine: Engine, immutable: Callable[[Path], None]) -> None:
    engine.run("host", ["touch", "/srv/one-that-stays"], name="x")
    (stuck,) = Path(os.fsdecode(engine.store.containers)).glob("*/upper-0/srv/one-that-stays")
    immutable(stuck)
    with pytest.raises(KernelError, match=r"remove .*because of 'one-that-stays'.*chattr -i"):
        engine.container("x").remove()
    assert engine.containers(all=True) == []
    assert engine.run("host", ["true"], name="x", rm=True).returncode == 0
    (stuck,) = Path(os.fsdecode(engine.store.tmp)).rglob("one-that-stays")
    subprocess.run(["chattr", "-i", str(stuck)], check=True, timeout=200)
    engine.containers()
    assert os.listdir(engine.store.tmp) == []


def test_a_container_that_cannot_be_settled(
    engine: Engine, victim: Callable[..., Victim], immutable: Callable[[Path], None]
) -> None:
    one = victim({"name": "stuck", "rm": True}, "touch /srv/one-that-stays; echo ready; sleep 99")
    one.await_line()
    (stuck,) = Path(os.fsdecode(engine.store.containers)).glob("*/upper-0/srv/one-that-stays")
    immutable(stuck)
    other = victim({"name": "other", "rm": True})
    other.await_line()
    one.kill()
    other.kill()
    assert engine.containers(all=True) == []
    assert os.listdir(engine.store.running) == []
    assert engine.run("host", ["true"], name="stuck", rm=True).returncode == 0
