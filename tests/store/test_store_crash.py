"""Stopped at any step, or let down by the disk at any write: nothing that was promised is lost, nothing half-done is
seen, and the next call goes on or cleans up.
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from errno import EIO, ENOSPC
from pathlib import Path

import pytest

from lamina.errors import KernelError, LaminaError
from lamina.store import burial, containers, garbage, trace
from lamina.store.check import DAMAGED, check
from lamina.store.root import Store
from lamina.store.scratch import Scratch
from support.namespaces import in_mount_namespace
from support.store_life import VERBS, broken, live
from support.stores import in_memory


@pytest.fixture(autouse=True)
def _unwatched() -> Iterator[None]:
    yield
    trace.hook = None


def steps(place: Path) -> list[str]:
    """The names of the steps of a whole life."""
    seen: list[str] = []
    trace.hook = seen.append
    store, promised = Store(place), set[str]()
    for _ in live(store, promised.discard, promised.add):
        pass
    trace.hook = None
    assert broken(store, promised) == []
    return seen


def stopped_at(number: int, place: Path) -> set[str]:
    """Live until the step *number*, at which the process is killed; what was promised until then."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reading)
            trace.hook = trace.parse(f"kill:{number}")

            def say(sign: str) -> Callable[[str], None]:
                return lambda fact: _ignore(os.write(writing, f"{sign}{fact}\n".encode()))

            for _ in live(Store(place), say("-"), say("+")):
                pass
            os._exit(0)
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)
    os.close(writing)
    with open(reading) as pipe:
        lines = pipe.read().splitlines()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    promised: set[str] = set()
    for line in lines:
        (promised.add if line[0] == "+" else promised.discard)(line[1:])
    return promised


def _ignore(value: object) -> None:
    """os.write says how much."""


def damaged(store: Store) -> list[str]:
    return [
        f"{one.kind} {one.what}: {one.problem}" for one in check(store).findings if one.severity == DAMAGED
    ]


def clean_up(store: Store) -> None:
    """What every verb does now and then, and what `lamina gc` does."""
    for home in containers.abandoned(store):
        home.discard(None) if home.read("container") is None else home.unmark()
        home.release()
    for home in containers.unfinished(store):
        home.discard(None)
    burial.bury_all(store)
    garbage.collect(store)


def test_every_write_of_the_store_has_a_step(tmp_path: Path) -> None:
    """The life that is stopped everywhere passes everywhere."""
    source = "".join(path.read_text() for path in Path(trace.__file__).parent.glob("*.py"))
    named = {part.split('"')[0] for part in source.split('point("')[1:]} - {"name"}
    passed = set(steps(tmp_path / "s"))
    # a write that is never reached while all goes well: the source begins anew; a partial download is too old; a
    # network moves only away from what this machine has (tests/engine/test_networks_apart.py stops it there)
    assert named - passed == {"blob.truncate", "collect.partial", "network.change", "network.changed"}
    assert {"image.rename", "name.rename", "layer.syncfs", "blob.sync-directory"} <= passed


def test_killed_at_every_step(tmp_path: Path) -> None:
    in_memory(kill_at_every_step, tmp_path)


def kill_at_every_step(place: Path) -> None:
    total = len(steps(place / "s"))
    assert total > 150
    for number in range(1, total + 1):
        promised = stopped_at(number, place / "k")
        store = Store(place / "k")
        assert (number, broken(store, promised), damaged(store)) == (number, [], [])
        clean_up(store)
        assert (number, broken(store, promised), check(store).findings) == (number, [], ())
        if number % 7 == 0:  # going on is possible from anywhere
            again: set[str] = set()
            for _ in live(store, again.discard, again.add):
                pass
            assert (number, broken(store, again), damaged(store)) == (number, [], [])
        shutil.rmtree(place / "k")


@pytest.mark.parametrize(
    ("errno", "for_ever"), [(ENOSPC, True), (EIO, False)], ids=["full for good", "EIO once"]
)
def test_let_down_at_every_write(tmp_path: Path, errno: int, for_ever: bool) -> None:
    in_memory(let_down_at_every_write, tmp_path, errno, for_ever)


def let_down_at_every_write(place: Path, errno: int, for_ever: bool) -> None:
    total = len(steps(place / "s"))
    for number in range(1, total + 1):
        store, promised = Store(place / "k"), set[str]()
        trace.hook = trace.parse(f"fail:{number}{'+' if for_ever else ''}:{errno}")
        try:
            for _ in live(store, promised.discard, promised.add):
                pass
        except LaminaError as error:
            assert isinstance(error, KernelError) and error.errno == errno, error
        else:
            # once: a directory that was not cleaned up, a record that stays for the collector
            assert not for_ever or number > total - 3, f"nobody noticed, at {number} of {total}"
        trace.hook = None
        assert (number, broken(store, promised), damaged(store)) == (number, [], [])
        clean_up(store)
        assert (number, broken(store, promised), check(store).findings) == (number, [], ())
        shutil.rmtree(place / "k")


@pytest.mark.root
def test_a_disk_that_is_full_in_earnest(tmp_path: Path) -> None:
    """A file system that fills up at every possible moment, block after block."""

    def fill(free: int) -> bytes:
        from lamina.linux.constants import MNT_DETACH
        from lamina.linux.mount import mount, umount2

        place = tmp_path / "disk"
        place.mkdir(exist_ok=True)
        mount("tmpfs", place, "tmpfs", 0, f"size={free}k,nr_inodes={free * 2}")
        try:
            promised: set[str] = set()
            said = ""
            try:
                store = Store(place / "s")
                for _ in live(store, promised.discard, promised.add):
                    pass
            except LaminaError as error:
                said = str(error)
                assert isinstance(error, KernelError) and error.errno == ENOSPC, error
            if said and not (place / "s/version").exists():
                return pickle.dumps(said)
            store = Store(place / "s")
            assert (free, broken(store, promised), damaged(store)) == (free, [], [])
            clean_up(store)
            assert (free, broken(store, promised), check(store).findings) == (free, [], ())
            return pickle.dumps(said)
        finally:
            umount2(place, MNT_DETACH)  # what failed may still be held by an error's traceback

    full = [bool(pickle.loads(in_mount_namespace(fill, free))) for free in range(8, 400, 24)]
    assert full[0] and not full[-1]


def test_the_variable_is_read_once(tmp_path: Path) -> None:
    import subprocess

    imports = "from lamina.store.root import Store; from support.stores import make_image"
    code = f"{imports}; make_image(Store({str(tmp_path / 's')!r}), 'a')"
    tests = str(Path(__file__).parent.parent)

    def run(asked: str) -> subprocess.CompletedProcess[str]:
        env = {
            **os.environ,
            trace.VARIABLE: asked,
            "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], tests]),
        }
        return subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=200
        )

    log = tmp_path / "log"
    assert run(f"log:{log}").returncode == 0
    assert "layer.rename" in log.read_text().splitlines()
    assert run("kill:3").returncode == -signal.SIGKILL
    failed = run(f"fail:3:{ENOSPC}")
    assert failed.returncode == 1 and "No space left on device" in failed.stderr
    assert run("sing").returncode == 1


def test_the_life_has_every_verb() -> None:
    assert {name for name, *_ in VERBS} >= {
        "pull",
        "tag",
        "untag",
        "rmi -f",
        "start",
        "rm",
        "gc",
        "prune",
        "limit",
    }


def test_somebody_buries_what_is_just_being_removed(tmp_path: Path) -> None:
    """Between the lock's removal and the directory's he makes a lock of his own, and then removes both."""
    store = Store(tmp_path / "s")
    scratch = Scratch(store)
    buriers: list[int] = []

    def meanwhile(name: str) -> None:
        if name == "scratch.rmdir":
            buriers.append(os.open(scratch.path + b"/lock", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))

    trace.hook = meanwhile
    try:
        scratch.remove()
    finally:
        trace.hook = None
    os.close(buriers.pop())
    assert not scratch._lock.held
    burial.bury_all(store)
    assert os.listdir(store.tmp) == []
