"""What listings keep of records is what the records say, at every moment: whatever was changed, and on every clock."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lamina import document
from lamina.cli.entry import command_line
from lamina.engine import Container, listing, remembered
from lamina.engine.recover import recover
from lamina.engine.remembered import FACTS, GRAIN, MAGIC, Remembered
from lamina.errors import Corrupt
from lamina.store import names
from lamina.store.containers import Home
from lamina.store.root import Store

SECOND = 10**9


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(remembered, "WORTH", 1)
    return Store(os.fsencode(tmp_path / "store"))


def record(identity: str, number: int) -> dict[str, Any]:
    # of one length, whatever the number: the size alone tells nothing
    return {
        "id": identity,
        "name": f"name{number % 10}",
        "image": f"image{number % 7}",
        "command": ["sh", f"\udc80{number % 10}"],
        "created": 10**18 + number * SECOND,
        "config": {"exposed_ports": [f"{80 + number % 9}/tcp"]},
        "labels": {"number": str(number % 10)},
        "volumes": [{"kind": "volume" if number % 3 else "bind", "name": f"v{number % 10}"}],
        "options": {"network": "bridge", "networking": {"joined": [[f"net{number % 10}"]]}},
        **({"health": {"command": ["true"]}} if number % 2 else {"healed": {"command": ["true"]}}),
    }


def network(number: int) -> dict[str, Any]:
    """A record as `network_record` writes it: attached, or waiting for an address."""
    attachment = {
        "title": "box",
        "network": f"net{number % 3}",
        "bridge": "lamina0",
        "number": 0,
        "addresses": ["10.0.0.2"] if number % 4 else [],
        "prefixes": [24],
        "gateways": ["10.0.0.1"],
        "mac": "02:00:00:00:00:01",
        "device": "eth0",
        "published": [["tcp", "", 8000 + number % 9, 80]],
    }
    return {"table": "lamina", "attachments": [attachment]}


def content(name: str, identity: str, number: int, now: int) -> dict[str, Any]:
    """What a record of that *name* may say."""
    if name == "container":
        return record(identity, number)
    if name == "network":
        return network(number)
    if name == "exit":
        return {
            "status": number % 4,
            "finished": now - number % 10,
            **({"restarting": True} if number % 5 == 1 else {}),
        }
    return {"pid": 1 << 30, "started": now - number % 10}


def every(*homes: Home) -> list[str]:
    """The ids of so many containers that what is kept is consulted, *homes* among them."""
    return [*(f"{number:064x}" for number in range(remembered.ENOUGH)), *(home.id for home in homes)]


def made(store: Store, number: int) -> Home:
    home = Home(store, names.new_id())
    os.mkdir(home.path, 0o700)
    Path(os.fsdecode(home.path), "lock").touch()
    home.write("container", record(home.id, number))
    return home


def answer(ask: Callable[[], Any]) -> Any:
    try:
        found = ask()
    except Corrupt:
        return Corrupt
    return None if found is None else [*map(repr, found)]


def facts_of(known: Remembered, home: Home, name: str, lstat: Callable[[bytes], Any] = os.lstat) -> Any:
    """What is known of the record, which is looked at now."""
    try:
        found = lstat(home.path + b"/" + name.encode() + b".json")
    except FileNotFoundError:
        return known.facts(home, name, None)
    numbers = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return known.facts(home, name, " ".join(f"{one:x}" for one in numbers))


class Clock:
    """A file system whose clock ticks once in *tick* nanoseconds, in this process: inodes are given again at once, and
    only what wrote here says when a file has changed.
    """

    def __init__(self, tick: int) -> None:
        self.now, self.tick = 10**18, tick
        self.changed: dict[bytes, int] = {}

    def wrote(self, path: bytes) -> None:
        self.changed[path] = self.now // self.tick * self.tick

    def lstat(self, path: bytes) -> SimpleNamespace:
        found = os.lstat(path)
        at = self.changed[path]
        return SimpleNamespace(st_ino=7, st_size=found.st_size, st_mtime_ns=at, st_ctime_ns=at)


class Life:
    """Containers of a store to which things happen."""

    def __init__(self, store: Store, clock: Clock, chance: random.Random) -> None:
        self.store, self.clock, self.chance, self.homes = (
            store,
            clock,
            chance,
            [made(store, n) for n in range(6)],
        )
        for home in self.homes:
            clock.wrote(home.path + b"/container.json")

    def happens(self) -> None:
        home, chance = self.chance.choice(self.homes), self.chance
        name = chance.choice([*FACTS])
        path = home.path + b"/" + name.encode() + b".json"
        said = content(name, home.id, chance.randrange(20), self.clock.now)
        match chance.choice(
            ["write", "write", "write", "in place", "damage", "gone", "another's", "nothing"]
        ):
            case "write":
                home.write(name, said)
            case "in place":
                Path(os.fsdecode(path)).write_text(document.encode(said) + "\n")
            case "damage":
                with open(path, "a"):
                    os.truncate(path, os.stat(path).st_size // 2)
            case "gone":
                home.drop_record(name)
            case "another's":
                home.write("container", record("0" * 64, 1))
                path = home.path + b"/container.json"
            case "nothing":
                return
        self.clock.wrote(path)

    def is_as_it_says(self) -> None:
        known = Remembered(self.store, every(*self.homes))
        for home in self.homes:
            for name, facts in FACTS.items():

                def fresh(home: Home = home, name: str = name, facts: Any = facts) -> Any:
                    found = home.read(name)
                    return None if found is None else facts(home, found)

                said = answer(lambda home=home, name=name: facts_of(known, home, name, self.clock.lstat))  # type: ignore[misc]
                assert said == answer(fresh), (home, name)
        known.keep()


@pytest.mark.parametrize("tick", [1, 4_000_000, SECOND])
def test_what_is_kept_is_what_the_records_say_whatever_the_clock_can_tell(
    store: Store, monkeypatch: pytest.MonkeyPatch, seed: int, tick: int
) -> None:
    chance, clock = random.Random(seed), Clock(tick)
    monkeypatch.setattr(remembered, "time", SimpleNamespace(time_ns=lambda: clock.now))
    life = Life(store, clock, chance)
    for _ in range(600):
        clock.now += chance.choice([0, 1, 1000, 3_000_000, SECOND // 3, 3 * SECOND])
        if chance.random() < 0.6:
            life.happens()
        else:
            life.is_as_it_says()


def test_a_record_that_has_just_changed_is_not_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    home = made(store, 1)
    changed = os.stat(
        home.path + b"/container.json"
    ).st_ctime_ns  # however long ago that is on a busy machine
    monkeypatch.setattr(remembered, "time", SimpleNamespace(time_ns=lambda: changed + GRAIN))
    known = Remembered(store, every(home))
    facts_of(known, home, "container")
    known.keep()
    assert not os.path.exists(store.cache + b"/listed")


def test_a_directory_that_has_just_changed_proves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "ENOUGH", 1)
    home = made(store, 1)
    looked: list[tuple[bytes, ...]] = []

    def survey(directory: int, asked: list[bytes], files: tuple[bytes, ...], enough: int = -1) -> Any:
        if asked:
            looked.append(files)
        return ask(directory, asked, files, enough)

    from lamina.linux.survey import survey as ask

    monkeypatch.setattr(listing, "survey", survey)
    whole = tuple(map(os.fsencode, listing.LOOKED_AT))

    def seen(after: int) -> list[tuple[bytes, ...]]:
        changed = os.stat(home.path).st_ctime_ns
        monkeypatch.setattr(remembered, "time", SimpleNamespace(time_ns=lambda: changed + after))
        looked.clear()
        [one] = listing.seen(store, all=True)
        assert one.state == "created"
        return looked

    for _ in range(2):  # a mark may come in the same tick
        assert whole in seen(GRAIN)
    assert whole in seen(GRAIN + 1)
    assert whole not in seen(GRAIN + 1)
    home.set_mark("paused")
    os.utime(home.path, ns=(1, 1))  # whatever the clock can tell
    assert whole in seen(GRAIN + 1)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if listings were made a while after what they list."""
    monkeypatch.setattr(remembered, "time", SimpleNamespace(time_ns=lambda: time.time_ns() + 2 * GRAIN))


@pytest.mark.usefixtures("later")
def test_what_did_not_change_is_not_read_again_and_what_did_is(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    homes = [made(store, number) for number in range(3)]
    first = Remembered(store, every(*homes))
    expected = [facts_of(first, home, "container") for home in homes]
    first.keep()
    read: list[str] = []

    def reading(home: Home, name: str) -> dict[str, Any]:
        read.append(home.id)
        return record(home.id, 5)

    monkeypatch.setattr(Home, "read", reading)
    again = Remembered(store, every(*homes))
    assert [facts_of(again, home, "container") for home in homes] == [
        [*facts] for facts in expected if facts is not None
    ]
    assert not read
    homes[1].write("container", record(homes[1].id, 5))
    changed = Remembered(store, every(*homes))
    assert [facts_of(changed, home, "container") for home in homes][1] == FACTS["container"](
        homes[1], record(homes[1].id, 5)
    )
    assert read == [homes[1].id]


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"lamina listed 2\n",
        MAGIC,
        MAGIC + b"{}",
        MAGIC + b'{"boot"',
        MAGIC + b"\0" * 100,
        b"\0" * 100,
        None,
    ],
)
def test_a_file_that_is_no_such_document_is_as_good_as_none(store: Store, content: bytes | None) -> None:
    home, place = made(store, 1), store.cache + b"/listed"
    if content is None:
        os.mkdir(place)
    else:
        Path(os.fsdecode(place)).write_bytes(content)
    known = Remembered(store, every(home))
    assert facts_of(known, home, "container") == FACTS["container"](home, record(home.id, 1))
    known.keep()
    assert [entry for entry in os.listdir(store.cache) if entry.startswith(b"listed.")] == []


@pytest.mark.usefixtures("later")
def test_what_another_boot_wrote_is_not_believed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    home = made(store, 1)
    monkeypatch.setattr(remembered, "boot_id", lambda: "the last")
    known = Remembered(store, every(home))
    facts_of(known, home, "container")
    known.keep()
    monkeypatch.setattr(remembered, "boot_id", lambda: "this")
    monkeypatch.setattr(Home, "read", lambda home, name: record(home.id, 2))
    assert facts_of(Remembered(store, every(home)), home, "container") == FACTS["container"](
        home, record(home.id, 2)
    )


def shown(one: listing.Glanced) -> Any:
    from lamina.cli.verbs.ps import FIELDS, row

    return dict(zip(FIELDS, row(one, True, [*FIELDS]), strict=True))


@pytest.mark.usefixtures("later")
def test_a_listing_is_the_same_with_what_is_kept_and_without(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)  # how long ago something was is reckoned from it
    homes = [made(store, number) for number in range(4)]
    for number, home in enumerate(homes[1:]):
        home.write("state", {"pid": 1 << 30, "started": time.time_ns() - number * 10**12})
        assert home.hold()
    homes[2].set_mark("paused")
    homes[3].write("exit", {"status": 3, "finished": time.time_ns()})
    monkeypatch.setattr(remembered, "ENOUGH", 1)
    listing.seen(store, all=True)
    assert os.path.exists(store.cache + b"/listed")

    def rows() -> list[Any]:
        return [shown(one) for one in listing.seen(store, all=True)]

    def is_the_same() -> list[Any]:
        kept = rows()
        with monkeypatch.context() as without:
            without.setattr(remembered, "ENOUGH", 1000)
            assert rows() == kept
        return [one["State"] for one in kept]

    assert is_the_same() == ["created", "running", "paused", "exited"]
    homes[1].release()  # whoever looked after it died: nothing in its directory changes
    homes[2].drop_mark("paused")
    homes[3].write("exit", {"status": 3, "finished": time.time_ns(), "restarting": True})
    assert is_the_same() == ["created", "dead", "running", "restarting"]
    os.unlink(homes[0].path + b"/container.json")
    homes[3].change_asked(lambda asked: {**asked, "name": "another"})
    assert is_the_same() == ["dead", "running", "restarting"]
    assert rows()[2]["Names"] == "another"


EVENTS = ("drop", "hold", "release", "pause", "go on", "damage", "remove", "add")


class Crowd:
    """Containers in every state: some are made, changed, damaged, removed, and their files' times tell of all of it."""

    def __init__(self, store: Store, chance: random.Random) -> None:
        self.store, self.chance, self.now = store, chance, time.time_ns()
        self.homes: list[Home] = []
        for number in range(24):
            self.add()
            if number % 2:
                self.starts(self.homes[-1])

    def add(self) -> None:
        self.homes.append(made(self.store, self.chance.randrange(20)))

    def starts(self, home: Home) -> None:
        if home.held or home.hold():
            home.mark(f"m{home.id[:8]}")
            home.drop_record("exit")
            self.writes(home, "state")

    def writes(self, home: Home, name: str) -> None:
        home.write(name, content(name, home.id, self.chance.randrange(20), self.now))
        self.now += 1
        os.utime(home.path + f"/{name}.json".encode(), ns=(self.now, self.now))
        self.changed(home)

    def changed(self, home: Home) -> None:
        """Its directory was: the clock of the file system may not have gone on since it was changed before."""
        self.now += 1
        os.utime(home.path, ns=(self.now, self.now))

    def happens(self) -> None:
        home, chance = self.chance.choice(self.homes), self.chance
        name = chance.choice(["container", "network", "state", "state", "exit", "exit"])
        is_marked = os.path.lexists(self.store.running + b"/" + home.id.encode())
        match chance.choice([*["write"] * 6, *["start"] * 3, *EVENTS]):
            case "write":
                self.writes(home, name)
            case "start":
                self.starts(home)
            case "drop" if name != "container":
                home.drop_record(name)
            case "hold":  # without a mark: its lock has to be asked for
                home.held or home.hold()
            case "release" if not is_marked:  # or it would be cleaned up after
                home.release()
            case "pause":
                home.set_mark("paused")
            case "go on":
                home.drop_mark("paused")
            case "damage":
                place = Path(os.fsdecode(home.path), f"{name}.json")
                damaged = place if name == "container" else place.with_suffix(".other")
                damaged.write_text("{" * chance.randrange(1, 9))
                damaged.rename(place)
            case "remove" if home.held or home.hold():
                self.homes.remove(home)
                home.discard(None)
            case "add":
                self.add()
        if os.path.exists(home.path):
            self.changed(home)


def is_as_the_container_says(one: listing.Glanced) -> None:
    """What is told of one that is glanced at is what its records say that are all read; those that are damaged are for
    `test_a_damaged_record...`.
    """
    box = Container(Home(one.home.store, one.id))
    told = (
        "name",
        "image",
        "created",
        "state",
        "started",
        "exit_code",
        "finished",
        "health",
        "ports",
        "is_alive",
    )
    try:
        said = [getattr(box, name) for name in told] + [[*box.command], [*box.networks], {**box.labels}]
    except Corrupt:
        return
    for name in ("container", "network", "exit", "state"):
        if box._home.has(name):
            try:
                box._home.read(name)
            except Corrupt:
                return
    assert [getattr(one, name) for name in told] + [[*one.command], [*one.networks], {**one.labels}] == said


LISTINGS = (
    ["ps", "-a"],
    ["ps", "--no-trunc"],
    ["ps", "-aq"],
    ["ps", "-a", "--format", "json"],
    ["ps", "-a", "--format", "{{.Names}} {{.Networks}} {{.Mounts}} {{.ExitCode}}"],
    ["ps", "--filter", "status=exited", "--filter", "exited=3", "--filter", "label=number"],
    ["ps", "--filter", "network=net1", "--filter", "health=starting"],
    ["ps", "-n", "7"],
)


@pytest.mark.usefixtures("later")
def test_whatever_happened_what_is_printed_is_the_same_with_what_is_kept_and_without(
    store: Store, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], seed: int
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    crowd = Crowd(store, random.Random(seed))

    def printed(enough: int) -> list[tuple[bytes, bytes]]:
        monkeypatch.setattr(remembered, "ENOUGH", enough)
        found = []
        for words in LISTINGS:
            status = command_line(["--root", os.fsdecode(store.path), *words])
            out, said = capfdbinary.readouterr()
            found.append((out, said))
            assert status == 0 and (out or words[1] != "-a"), said
        return found

    for _ in range(25):
        for _ in range(crowd.chance.randrange(8)):
            crowd.happens()
        recover(store)
        for one in listing.seen(store, all=True):
            is_as_the_container_says(one)
        printed(1)
        assert printed(1) == printed(1 << 30)


def test_one_that_ran_while_the_listing_was_made_has_ended_as_its_record_says(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = made(store, 1)
    ask = Home.is_looked_after

    def asked(self: Home) -> bool:
        """The lock is asked for: since the files were looked at it was started, and has ended."""
        for name, said in (
            ("state", {"pid": 1 << 30, "started": 1}),
            ("exit", {"status": 7, "finished": 10**9}),
        ):
            home.write(name, said)
        return ask(self)

    monkeypatch.setattr(Home, "is_looked_after", asked)
    (one,) = listing.seen(store, all=True)
    assert (one.state, one.exit_code, one.finished, one.started) == ("exited", 7, 1.0, 1e-9)


def test_one_that_is_started_again_while_the_listing_is_made_runs(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = made(store, 1)
    home.write("exit", {"status": 7, "finished": 10**9, "restarting": True})
    ask = Home.is_looked_after

    def asked(self: Home) -> bool:
        if not home.held:
            assert home.hold()
            home.drop_record("exit")
            home.write("state", {"pid": 1 << 30, "started": 10**9})
        return ask(self)

    monkeypatch.setattr(Home, "is_looked_after", asked)
    (one,) = listing.seen(store, all=False)
    assert (one.state, one.exit_code, one.finished, one.started) == ("running", None, None, 1.0)


def test_a_damaged_record_does_not_keep_the_others_from_being_listed_in_any_format(
    store: Store, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    homes = [made(store, number) for number in range(3)]
    Path(os.fsdecode(homes[1].path), "container.json").write_text("{")
    for words in (
        ["ps", "-a", "--format", "json"],
        ["ps", "-a", "--filter", "network=none", "--filter", "network=bridge"],
    ):
        assert command_line(["--root", os.fsdecode(store.path), *words]) == 0
        out, said = capfdbinary.readouterr()
        assert all(home.short_id.encode() in out for home in homes)
        assert said.count(b"warning") == 1


def test_what_is_asked_after_the_containers_were_seen_is_kept_as_well(
    store: Store, monkeypatch: pytest.MonkeyPatch, later: None
) -> None:
    monkeypatch.setattr(remembered, "ENOUGH", 1)
    home = made(store, 1)
    home.write("network", network(1))
    for _ in range(2):
        (one,) = found = listing.seen(store, all=True)
        assert [*one.networks] == ["net1"] and one.ports == {"80/tcp": ["0.0.0.0:8001"]}
        listing.keep(found)
    monkeypatch.setattr(Home, "read", lambda home, name: pytest.fail(f"{name} is read"))
    (one,) = listing.seen(store, all=True)
    assert [*one.networks] == ["net1"] and one.ports == {"80/tcp": ["0.0.0.0:8001"]}
