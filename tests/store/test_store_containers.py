"""The directories of containers: their states follow from locks and records, whoever dies when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from lamina.errors import Conflict, Corrupt, InvalidInput, KernelError, LaminaError, NotFound
from lamina.store import burial, containers, lock, names, root
from lamina.store.containers import Home
from lamina.store.leases import lease
from lamina.store.root import Store
from lamina.store.stage import Stage
from lamina.store.tree import remove_tree
from support.process import child_with_copies


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "s")


def made(store: Store, name: str | None = None) -> Home:
    """A container whose record is written, still held."""
    home, name = containers.create(store, name)
    home.write("container", {"id": home.id, "name": name, "image": "x", "command": [], "created": 1})
    return home


def again(home: Home) -> Home:
    """The same container as another command sees it."""
    return Home(home.store, home.id)


def entries(directory: bytes) -> list[str]:
    return sorted(map(os.fsdecode, os.listdir(directory)))


# -- states


@pytest.mark.parametrize(("meanwhile", "state"), [("is started", "running"), ("ends as well", "exited")])
def test_one_that_is_started_between_two_looks_was_never_dead(
    store: Store, monkeypatch: pytest.MonkeyPatch, meanwhile: str, state: str
) -> None:
    home = made(store, "web")
    home.release()
    looks: list[bool] = []

    def look(one: Home) -> bool:
        looks.append(meanwhile == "is started" and len(looks) > 0)
        if len(looks) == 1:
            home.write("state", {"pid": 1})
        elif len(looks) == 2 and meanwhile == "ends as well":
            home.write("exit", {"status": 0})
        return looks[-1]

    monkeypatch.setattr(Home, "is_looked_after", look)
    assert again(home).state(lambda record: False) == state


def test_the_states_of_a_life(store: Store) -> None:
    home = made(store, "web")
    assert again(home).state() == "created"
    home.write("state", {"pid": 1})
    assert again(home).state() == home.state() == "running"
    home.write("exit", {"status": 0})
    assert again(home).state() == "exited"
    home.release()
    assert again(home).state() == "exited"


def test_one_that_is_started_again_just_then_is_not_taken_for_one_that_ended(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = made(store, "web")
    home.write("state", {"pid": 1})
    home.write("exit", {"status": 7, "restarting": True})
    assert again(home).state() == "restarting"
    has = Home.has

    def then_started(self: Home, name: str) -> bool:
        found = has(self, name)
        if name == "exit":
            home.drop_record("exit")
        return found

    monkeypatch.setattr(Home, "has", then_started)
    assert again(home).state() == "running"


def test_a_container_whose_holder_died_is_dead(store: Store) -> None:
    home = made(store)
    home.write("state", {"pid": 1})
    home.release()  # what the kernel does for one who is killed
    assert again(home).state() == "dead"


def test_looking_does_not_disturb(store: Store) -> None:
    """Many look at once: none is taken for the holder."""
    home = made(store)
    home.write("state", {})
    home.release()
    wrong: list[str] = []

    def look() -> None:
        states = {again(home).state() for _ in range(200)}
        wrong.extend(states - {"dead"})

    threads = [threading.Thread(target=look) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_one_who_wants_the_lock_waits_for_those_who_look(store: Store) -> None:
    home = made(store)
    home.release()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            again(home).is_looked_after()

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(100):
            mine = again(home)
            assert mine.hold()
            mine.release()
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_the_lock_is_exclusive_and_ends_with_its_holder(store: Store) -> None:
    home = made(store)
    assert not again(home).hold()
    home.release()
    home.release()
    other = again(home)
    assert other.hold()
    assert other.held
    assert not home.hold()


def test_a_forked_child_of_the_caller_does_not_keep_the_lock(store: Store) -> None:
    home = made(store)
    home.write("state", {})
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, b"x")
        time.sleep(60)
        os._exit(0)
    try:
        os.read(reader, 1)
        home.release()
        assert again(home).state() == "dead"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


def test_a_forked_child_that_lets_go_leaves_descriptors_of_its_own_alone(store: Store) -> None:
    """The number of the lock's descriptor is free in the child, for whatever it opens next."""
    home = made(store)
    pid = os.fork()
    if pid == 0:
        try:
            files = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(64)]
            holds = home.held
            home.release()
            for file in files:
                os.fstat(file)
            os._exit(1 if holds else 0)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_child_that_was_forked_while_a_removal_failed_does_not_keep_it_from_going_on(store: Store) -> None:
    home = made(store)
    held = ExitStack()

    def refuse(path: bytes) -> None:
        raise PermissionError(1, "not mine", path)

    def fork_and_refuse(path: bytes) -> None:
        held.enter_context(child_with_copies())
        refuse(path)

    with pytest.raises(PermissionError):
        home.discard(None, refuse)
    with held:
        with pytest.raises(PermissionError):
            burial.bury(home.grave, fork_and_refuse)
        assert burial.bury(home.grave)
    assert entries(store.tmp) == []


# -- making and finding


def test_a_new_container_is_private_held_and_marked(store: Store) -> None:
    home, name = containers.create(store, None)
    assert names.check_name(name) == name
    assert os.stat(home.path).st_mode & 0o777 == 0o700
    assert home.held
    assert entries(store.running) == [home.id]
    assert entries(store.names) == [name]


def test_a_taken_name_leaves_nothing_behind(store: Store) -> None:
    made(store, "web")
    for name, error in (("web", Conflict), ("../web", InvalidInput), ("", InvalidInput)):
        with pytest.raises(error):
            containers.create(store, name)
    assert len(entries(store.containers)) == len(entries(store.running)) == len(entries(store.names)) == 1
    assert entries(store.tmp) == []


def test_found_by_name_id_and_the_beginning_of_an_id(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(["ab12" + "0" * 60, "ab34" + "0" * 60, "cd" + "0" * 62])
    monkeypatch.setattr(names, "new_id", lambda: next(ids))
    first, second, third = made(store, "one"), made(store, "two"), made(store, "ab")
    for reference, home in (("one", first), (first.id, first), ("ab1", first), ("ab3", second), ("c", third)):
        assert containers.find(store, reference).id == home.id
    assert containers.find(store, "ab").id == third.id, "a name comes before the beginning of an id"
    with pytest.raises(InvalidInput, match="multiple IDs found"):
        containers.find(store, "a")


@pytest.mark.parametrize(
    "reference", ["", "nobody", ".", "..", "../../etc", "/", "a\0b", "x" * 300, "0" * 64, "\udcff", "e\n"]
)
def test_what_is_not_there_is_not_found_whatever_it_is_called(store: Store, reference: str) -> None:
    made(store, "web")
    with pytest.raises(NotFound):
        containers.find(store, reference)


def test_a_record_of_another_container_is_not_believed(store: Store) -> None:
    home = made(store)
    home.write("container", {"id": "f" * 64, "name": "x", "image": "x", "command": [], "created": 1})
    with pytest.raises(Corrupt):
        home.asked()


# -- removing


def test_a_removed_container_is_gone_with_its_name(store: Store) -> None:
    home = made(store, "web")
    os.makedirs(home.path + b"/upper-0/deep/er")
    home.discard("web")
    assert not home.exists()
    for directory in (store.containers, store.names, store.running, store.tmp):
        assert entries(directory) == []
    with pytest.raises(NotFound):
        again(home).hold()
    with pytest.raises(NotFound):
        again(home).asked()


def test_another_containers_name_is_left_alone(store: Store) -> None:
    first, second = made(store, "first"), made(store, "second")
    first.discard("second")
    assert containers.find(store, "second").id == second.id


def test_what_could_not_be_removed_waits_in_its_grave(store: Store) -> None:
    home = made(store, "web")
    os.mkdir(home.path + b"/upper")

    def fail(path: bytes) -> None:
        raise PermissionError(1, "not mine", path)

    with pytest.raises(PermissionError):
        home.discard("web", fail)
    assert not home.exists()
    assert not home.held
    assert entries(store.names) == []
    burial.bury_all(store)
    assert entries(store.tmp) == []


def test_a_grave_that_is_being_emptied_is_left_alone(store: Store) -> None:
    home = made(store)
    os.rename(home.path, home.grave)  # as in the middle of discard
    burial.bury_all(store)
    assert entries(home.grave) == ["container.json", "lock"]
    assert entries(store.names) == [], "the container is gone, whoever finishes removing it"
    home.release()
    burial.bury_all(store)
    assert entries(store.tmp) == []


def test_who_works_in_tmp_without_a_lock_yet_loses_the_place_and_not_the_work(store: Store) -> None:
    """Somebody who cleans up sees no lock; before he begins, its owner locks it and begins to work."""
    begun = store.tmp + b"/" + b"b" * 64
    os.mkdir(begun)
    os.mkdir(begun + b"/layer")

    def remove(path: bytes) -> None:
        assert lock.take(begun + b"/lock", lock.LOCK_EX, wait=False, create=True) is None, "the owner's turn"
        remove_tree(path)

    assert burial.bury(begun, remove)
    with open(store.tmp + b"/stray", "w"):
        pass
    burial.bury_all(store)
    assert entries(store.tmp) == []


def test_a_thread_that_makes_a_layer_is_left_without_ground_at_once(store: Store) -> None:
    """Its program is about to end, and has let go of everything: the layer is whole, or is none."""
    found: list[type[BaseException]] = []
    with lease(store) as held:
        stage = Stage(store, None, held)
        os.mkdir(stage.path + b"/etc")
        lock.unlock_all()

        def remove(path: bytes) -> None:
            try:
                stage.commit("sha256:" + "a" * 64, 0, 0)
            except LaminaError as error:
                found.append(type(error))
            remove_tree(path)

        burial.bury_all(store, remove)
    assert found and entries(store.layers) == []


# -- after a crash


def test_abandoned_containers_are_those_whose_holder_died(store: Store) -> None:
    dead, alive, resting = made(store), made(store), made(store)
    dead.release()
    resting.unmark()
    resting.release()
    found = list(containers.abandoned(store))
    assert [home.id for home in found] == [dead.id]
    assert found[0].held
    found[0].discard(None)
    assert alive.held
    assert entries(store.running) == [alive.id]


def test_of_many_that_are_marked_each_is_found_as_it_is(store: Store) -> None:
    homes = [made(store) for _ in range(30)]
    dead, gone = homes[::3], homes[1::3]
    for home in dead:
        home.release()
    for home in gone:
        os.rename(home.path, home.grave)
    looked_after: set[str] = set()
    found = {home.id: home for home in containers.abandoned(store, looked_after)}
    assert sorted(found) == sorted(home.id for home in dead) and all(home.held for home in found.values())
    assert looked_after == {home.id for home in homes[2::3]}
    assert {*entries(store.running)} == looked_after | {*found}


def test_a_mark_without_a_container_is_dropped_with_its_name(store: Store) -> None:
    home = made(store)
    os.rename(home.path, home.grave)  # killed in the middle of removing it
    assert list(containers.abandoned(store)) == []
    assert entries(store.running) == entries(store.names) == []


def test_the_name_of_one_that_was_never_written_down_is_free(store: Store) -> None:
    home, name = containers.create(store, "web")
    home.release()
    (found,) = containers.abandoned(store)
    assert found.marked_name() == name == "web"
    found.discard(None)
    assert entries(store.names) == entries(store.running) == []


def test_one_that_was_never_written_down_is_found(store: Store) -> None:
    home, _ = containers.create(store, None)
    assert list(containers.unfinished(store)) == []
    home.release()
    home.unmark()
    assert [h.id for h in containers.unfinished(store)] == [home.id]
    os.mkdir(store.containers + b"/" + b"a" * 64)  # killed before it had a lock
    list(containers.unfinished(store))
    assert not os.path.exists(store.containers + b"/" + b"a" * 64)


def test_a_maker_whose_directory_was_swept_away_takes_another(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody cleans up between mkdir and the lock."""
    real, swept = root.make_directory, list[bytes]()

    def make_and_sweep(path: bytes, mode: int) -> None:
        real(path, mode)
        if not swept:
            swept.append(path)
            list(containers.unfinished(store))

    monkeypatch.setattr(containers, "make_directory", make_and_sweep)
    home = made(store)
    assert swept[0] != home.path
    assert entries(store.containers) == [home.id]


def test_a_full_disk_is_an_error_that_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: bytes, mode: int) -> None:
        raise OSError(28, os.strerror(28), path)

    monkeypatch.setattr(containers, "make_directory", full)
    with pytest.raises(KernelError, match=r"No space left on device.*free some space"):
        containers.create(store, "web")
    assert entries(store.names) == []


WORKER = """
import os, sys, random
from lamina.errors import Conflict, NotFound
from lamina.store import burial, containers
from lamina.store.root import Store
from lamina.store.tree import remove_tree
store = Store(sys.argv[1])
chance = random.Random(int(sys.argv[2]))
for _ in range(int(sys.argv[3])):
    try:
        what = chance.randrange(4)
        if what < 2:
            home, name = containers.create(store, chance.choice([None, "a", "b", "c"]))
            home.write("container", {"id": home.id, "name": name, "image": "x", "command": [], "created": 1})
            if what:
                home.discard(name)
            else:
                home.unmark()
                home.release()
        elif what == 2:
            for home in [*containers.abandoned(store), *containers.unfinished(store)]:
                home.discard((home.read("container") or {}).get("name"))
            burial.bury_all(store)
        else:
            for identity in containers.identities(store):
                home = containers.Home(store, identity)
                home.state()
                if chance.random() < 0.3 and home.hold():
                    home.discard((home.read("container") or {}).get("name"))
    except (Conflict, NotFound):
        pass
"""


def check(store: Store) -> None:
    """After everybody left and one sweep: every container is whole, every name and mark has its container."""
    for home in [*containers.abandoned(store), *containers.unfinished(store)]:
        home.discard((home.read("container") or {}).get("name"))
    burial.bury_all(store)
    assert entries(store.tmp) == []
    assert entries(store.running) == []
    for identity in containers.identities(store):
        asked = Home(store, identity).asked()
        assert names.holder(store.names, asked["name"]) == identity
    for name in entries(store.names):
        owner = names.holder(store.names, name)
        assert owner is not None
        assert Home(store, owner).exists()


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_many_at_once_doing_anything_leave_a_clean_store(
    store: Store, killed: bool, pick: Callable[[int], int]
) -> None:
    root = os.fsdecode(store.path)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, root, str(n), "100000" if killed else "60"], stderr=subprocess.PIPE
        )
        for n in range(6)
    ]
    try:
        if killed:
            for round_ in range(24):
                time.sleep(0.05 + pick(100) / 1000)
                victim = pick(6)
                workers[victim].kill()
                workers[victim].communicate()
                workers[victim] = subprocess.Popen(
                    [sys.executable, "-c", WORKER, root, str(100 + round_), "100000"], stderr=subprocess.PIPE
                )
            for worker in workers:
                worker.kill()
        for worker in workers:
            said = worker.communicate(timeout=200)[1]
            assert killed or worker.returncode == 0, said.decode()
            assert b"Traceback" not in said, said.decode()
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    check(store)


@pytest.fixture
def pick() -> Callable[[int], int]:
    """Numbers by chance; pytest-randomly prints the seed."""
    import random

    return random.randrange
