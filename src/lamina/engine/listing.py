"""All containers of a store at one moment: what many are looked at by, each of their files once."""

from __future__ import annotations

import os

from lamina.engine.container import Container
from lamina.engine.recover import discard_unfinished, recover
from lamina.engine.remembered import FACTS, NOTHING, Remembered
from lamina.engine.settling import lives
from lamina.errors import Corrupt
from lamina.linux.constants import AT_FDCWD
from lamina.linux.fd import Fd
from lamina.linux.survey import survey
from lamina.store.containers import EXITED, LIVING, PAUSED, PAUSED_MARK, RUNNING, Home, find, identities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from lamina.engine.remembered import Facts
    from lamina.linux.survey import Look
    from lamina.store.root import Store

    Looks = tuple[Look | None, ...]

# what is asked of all: the record of each first, whether it has ended, and the rest of those that have not
LOOKED_AT = ("container.json", "network.json", "exit.json", "state.json", PAUSED_MARK)
CONTAINER, NETWORK, END, STATE, PAUSE = range(len(LOOKED_AT))
RECORDS = tuple(file.removesuffix(".json") for file in LOOKED_AT[:PAUSE])


class Seen(Home):
    """A home that remembers what was looked at in it: for who asks a container many things at one moment.

    One damaged record does not keep the others from being listed: but for what was asked, it is as if it were empty.
    """

    __slots__ = ("_facts", "_looked_after", "_looks", "_records", "damage", "remembered")

    def __init__(
        self, store: Store, identity: str, looked_after: bool, looks: Looks, remembered: Remembered
    ) -> None:
        """*looked_after*: somebody is known to have held the lock before anything here was looked at; else that is
        asked. *looks*: what there was then of the first of LOOKED_AT.
        """
        super().__init__(store, identity)
        self._looked_after: bool | None = looked_after or None
        self.remembered = remembered
        self._looks = dict(zip(LOOKED_AT, looks, strict=False))
        self._facts: dict[str, Facts | None] = {}
        self._records: dict[str, dict[str, Any] | None] = {}
        self.damage: dict[str, Corrupt] = {}

    def facts(self, name: str) -> Facts | None:
        """As of the first time, see `remembered`."""
        if name not in self._facts:
            self._facts[name] = self.remembered.facts(self, name, self._look(f"{name}.json"))
        return self._facts[name]

    def _look(self, file: str) -> Look | None:
        """As of the first time."""
        if file not in self._looks:
            [[self._looks[file]]] = survey(AT_FDCWD, [self.path], (file.encode(),))
        return self._looks[file]

    def forget(self, name: str) -> None:
        """The record *name* is to be looked at again."""
        for known in (self._facts, self._records):
            known.pop(name, None)
        self._looks.pop(f"{name}.json", None)

    def is_looked_after(self) -> bool:
        """As of the first time."""
        if self._looked_after is None:
            self._looked_after = super().is_looked_after()
        return self._looked_after

    def read(self, name: str) -> dict[str, Any] | None:
        """As of the first time."""
        if name not in self._records:
            try:
                self._records[name] = super().read(name)
            except Corrupt as error:
                self.damage[name] = error
                if name == "container":
                    raise
                self._records[name] = None
        return self._records[name]

    def exists(self) -> bool:
        """It did when its record was read."""
        return True

    def has(self, name: str) -> bool:
        """As of the first time."""
        if name in self.damage:
            return True
        if name in self._records:
            return self._records[name] is not None
        if name not in FACTS or name == "network":
            return self._look(f"{name}.json") is not None
        return self.facts(name) is not None or name in self.damage

    def is_marked(self, marker: str) -> bool:
        """As of the first time."""
        return self._look(marker) is not None


class Moment:
    """When a store was looked at, and what is known of its records since then."""

    __slots__ = ("remembered", "store")

    def __init__(self, store: Store, every: list[str]) -> None:
        self.store = store
        self.remembered = Remembered(store, every)


class Glanced:
    """One of a listing: what listings show of its records, and its state, as they were when that was made. There are
    hundreds of them, and nothing but what has to be read is made for them: `whole` is the container for what is rarely
    asked.
    """

    __slots__ = ("_home", "_looked_after", "_looks", "_moment", "_running", "_said", "_state", "id")

    def __init__(self, moment: Moment, identity: str, looked_after: bool, looks: Looks) -> None:
        """See `Seen`; *looks* are what there was of LOOKED_AT, up to the record of an end."""
        self.id, self._moment, self._looked_after = identity, moment, looked_after
        # of one whose lock is yet to be asked for, how it is now is looked at after that: unless it has ended
        self._looks = looks if looked_after or looks[END] is not None else looks[:END]
        self._home: Seen | None = None
        self._said, self._state = NOTHING, ""
        self._running: Facts | None = None  # of one of which that was told

    def is_written_down(self) -> bool:
        """Read its record; False where there is none, or it was removed. A damaged one, or another's, says nothing."""
        try:
            found = self._facts(CONTAINER)
        except Corrupt:
            return os.path.lexists(self.home.path)
        if found is not None and found[0]:
            self._said = found
        return found is not None

    @property
    def home(self) -> Seen:
        """Where it is kept."""
        if self._home is None:
            moment = self._moment
            self._home = Seen(moment.store, self.id, self._looked_after, self._looks, moment.remembered)
        return self._home

    @property
    def whole(self) -> Container:
        """The container, which is read from its records, as of the first time."""
        return Container(self.home)

    @property
    def damage(self) -> tuple[Corrupt, ...]:
        """What was found damaged of it, of what was looked at so far."""
        return () if self._home is None else tuple(self._home.damage.values())

    def _facts(self, number: int) -> Facts | None:
        """Of that one of RECORDS."""
        if number < len(self._looks):
            look = self._looks[number]
            if look is None:
                return None
            known = self._moment.remembered.known(RECORDS[number], self.id, look)
            if known is not None:
                return known
        return self.home.facts(RECORDS[number])

    @property
    def state(self) -> str:
        """As `Container.state`."""
        if not self._state:
            self._state = self._told_state() or self.home.state(lives)
        return self._state

    def _told_state(self) -> str:
        """As `Home.state`, where the looks tell; "" where they do not."""
        looks = self._looks
        if len(looks) <= END:
            return ""
        if looks[END] is not None:
            end = self._facts(END)
            if end is not None and not end[2]:
                return EXITED  # whoever holds the lock
            if not self._looked_after:  # it does matter; and is to be known before the end is looked at
                self._looks = looks[:END]
                self.home.forget("exit")
        elif looks[STATE] is not None:
            self._running = self._facts(STATE)
            if self._running is not None:
                return RUNNING if looks[PAUSE] is None else PAUSED
        return ""

    @property
    def is_alive(self) -> bool:
        """As `Container.is_alive`."""
        return self.state in LIVING

    @property
    def name(self) -> str:
        """As `Container.name`."""
        name: str = self._said[1]
        return name

    @property
    def image(self) -> str:
        """As `Container.image`."""
        image: str = self._said[2]
        return image

    @property
    def command(self) -> Sequence[str]:
        """As `Container.command`."""
        command: Sequence[str] = self._said[3]
        return command

    @property
    def created(self) -> float:
        """As `Container.created`."""
        return int(self._said[4]) / 1e9

    @property
    def exposed(self) -> Sequence[str]:
        """The ports that its image and `--expose` name, published or not: "80/tcp", "80-90/tcp"."""
        exposed: Sequence[str] = self._said[5]
        return exposed

    @property
    def health(self) -> str:
        """As `Container.health`."""
        if not self._said[6]:
            return "none"
        from lamina.engine.health.results import examined_health

        return examined_health(self.home, self.state)

    @property
    def labels(self) -> dict[str, str]:
        """As `Container.labels`."""
        labels: dict[str, str] = self._said[7]
        return labels

    @property
    def volumes(self) -> Sequence[str]:
        """The names of its volumes, and where others are that are mounted."""
        volumes: Sequence[str] = self._said[8]
        return volumes

    @property
    def local_volumes(self) -> int:
        """How many of them are volumes of the store."""
        return int(self._said[9])

    @property
    def networks(self) -> Sequence[str]:
        """As `Container.networks`."""
        found: Sequence[Sequence[str]] | None = self._facts(NETWORK)
        if found is not None:
            return found[0]
        networks: Sequence[str] = self._said[10] if self._looks[NETWORK] is None else ()
        return networks

    @property
    def ports(self) -> dict[str, list[str]]:
        """As `Container.ports`."""
        found = self._facts(NETWORK)
        ports: dict[str, list[str]] = {} if found is None else found[1]
        return ports

    @property
    def started(self) -> float | None:
        """As `Container.started`."""
        found = self._running or self._facts(STATE)
        return None if found is None else int(found[0]) / 1e9

    @property
    def exit_code(self) -> int | None:
        """As `Container.exit_code`."""
        end = self._facts(END)
        return self.whole.exit_code if end is None else int(end[0])

    @property
    def finished(self) -> float | None:
        """As `Container.finished`."""
        end = self._facts(END)
        return None if end is None else int(end[1]) / 1e9


def _looks(store: Store, every: list[str], remembered: Remembered) -> list[Looks]:
    """What there is of LOOKED_AT, of each: all is looked at only where a directory is not as it was."""
    names, files = [one.encode() for one in every], tuple(map(os.fsencode, LOOKED_AT))
    with Fd(os.open(store.containers, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as directory:
        if not remembered.is_consulted:
            return survey(directory, names, files, END)
        first = survey(directory, names, (b".", files[CONTAINER]))
        known = [remembered.looks(one, here) for one, (here, _) in zip(every, first, strict=True)]
        anew = [number for number, looks in enumerate(known) if looks is None]
        found = survey(directory, [names[number] for number in anew], files, END)
    all_of_them = [(record, *(looks or ())) for (_, record), looks in zip(first, known, strict=True)]
    for number, looks in zip(anew, found, strict=True):
        remembered.note_looks(every[number], first[number][0], looks[1:])
        all_of_them[number] = looks
    return all_of_them


def seen(store: Store, *, all: bool) -> list[Glanced]:
    """The containers that run, or all of them, the oldest first, each as it is now and will always be shown by this
    object. What killed engines left is cleaned up. Raises OSError.
    """
    looked_after = recover(store)  # before the looks: the holder writes how it ended before he lets go
    found, unfinished = [], []
    every = identities(store)
    moment = Moment(store, every)
    for identity, looks in zip(every, _looks(store, every, moment.remembered), strict=True):
        one = Glanced(moment, identity, identity in looked_after, looks)
        if not one.is_written_down():
            unfinished.append(identity)
        elif one.is_alive or all:  # what it takes to say so is kept as well
            found.append(one)
    if unfinished:
        discard_unfinished(store, unfinished)
    moment.remembered.keep()
    found.sort(key=lambda one: one.created)
    return found


def keep(found: Sequence[Glanced]) -> None:
    """Keep for the next listing what *found* were asked since they were seen. Never raises."""
    if found:
        found[0]._moment.remembered.keep()


class LookedUp:
    """Containers by what people call them, for who looks up many at one moment: what killed engines left is cleaned up
    once, before the first.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._is_clean = False

    def container(self, reference: str) -> Container:
        """As `Engine.container`."""
        if not self._is_clean:
            recover(self._store)
            self._is_clean = True
        return Container(find(self._store, reference))
