"""All containers of a store at one moment: what many are looked at by, each of their files once."""

from __future__ import annotations

import os

from lamina.engine.container import Container
from lamina.engine.recover import discard_unfinished, recover
from lamina.engine.remembered import FACTS, NOTHING, Remembered
from lamina.engine.settling import lives
from lamina.errors import Corrupt, NotFound
from lamina.linux.constants import AT_FDCWD
from lamina.linux.fd import Fd
from lamina.linux.survey import survey
from lamina.store.containers import EXITED, LIVING, PAUSED_MARK, Home, identities, no_such

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from lamina.engine.remembered import Facts
    from lamina.linux.survey import Look
    from lamina.store.root import Store

    Looks = tuple[Look | None, ...]

# what is asked of all: the record of each first, whether it has ended, and the rest of those that have not
LOOKED_AT = ("container.json", "exit.json", "state.json", "network.json", PAUSED_MARK)
END = 1


class Seen(Home):
    """A home that remembers what was looked at in it: for who asks a container many things at one moment.

    One damaged record does not keep the others from being listed: but for what was asked, it is as if it were empty.
    """

    __slots__ = ("_facts", "_looked_after", "_looks", "_records", "damage", "remembered")

    def __init__(
        self, store: Store, identity: str, looked_after: bool, looks: Looks, remembered: Remembered
    ) -> None:
        """*looked_after*: somebody is known to have held the lock before anything here was looked at; else that is
        asked. *looks*: what there was of LOOKED_AT then.
        """
        super().__init__(store, identity)
        self._looked_after: bool | None = looked_after or None
        self.remembered = remembered
        # of one that has ended it does not matter who holds the lock, see `state`
        known = looks if looked_after or looks[END] is not None else looks[:END]
        self._looks = dict(zip(LOOKED_AT, known, strict=False))
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

    def is_looked_after(self) -> bool:
        """As of the first time."""
        if self._looked_after is None:
            self._looked_after = super().is_looked_after()
        return self._looked_after

    def state(self, lives: Callable[[dict[str, Any]], bool] | None = None) -> str:
        """As `Home.state`, which asks for the lock first: for one that has ended, and is not to be started again, it need
        not be asked for.
        """
        if LOOKED_AT[END] in self._looks:
            end = self.facts("exit")
            if end is not None and not end[2]:
                return EXITED
            if self._looked_after is None:  # it is to be looked at later than the lock
                del self._looks[LOOKED_AT[END]], self._facts["exit"]
                self._records.pop("exit", None)
        return super().state(lives)

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
        if name not in FACTS:
            return self._look(f"{name}.json") is not None
        return self.facts(name) is not None or name in self.damage

    def is_marked(self, marker: str) -> bool:
        """As of the first time."""
        return self._look(marker) is not None


class Glanced(Container):
    """One of a listing: what listings show of its records, and its state, as they were when that was made."""

    def __init__(self, home: Seen) -> None:
        """Raises NotFound where it was removed, or not yet written down."""
        super().__init__(home)
        self._seen = home
        self._said, self._state = NOTHING, ""
        try:
            found = home.facts("container")
            if found is None:
                raise no_such(self.short_id)
            if found[0]:
                self._said = found
        except Corrupt:
            pass

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
    def command(self) -> list[str]:
        """As `Container.command`."""
        return [*self._said[3]]

    @property
    def created(self) -> float:
        """As `Container.created`."""
        return int(self._said[4]) / 1e9

    @property
    def exposed(self) -> list[str]:
        """The ports that its image and `--expose` name, published or not."""
        return [*self._said[5]]

    @property
    def labels(self) -> dict[str, str]:
        """As `Container.labels`."""
        return {**self._said[7]}

    @property
    def volumes(self) -> list[str]:
        """The names of its volumes, and where others are that are mounted."""
        return [*self._said[8]]

    @property
    def local_volumes(self) -> int:
        """How many of them are volumes of the store."""
        return int(self._said[9])

    @property
    def networks(self) -> list[str]:
        """As `Container.networks`."""
        found = self._seen.facts("network")
        if found is not None:
            return [*found[0]]
        return [] if self._seen.has("network") else [*self._said[10]]

    @property
    def ports(self) -> dict[str, list[str]]:
        """As `Container.ports`."""
        found = self._seen.facts("network")
        return {} if found is None else {**found[1]}

    @property
    def health(self) -> str:
        """As `Container.health`."""
        if not self._said[6]:
            return "none"
        from lamina.engine.health.results import examined_health

        return examined_health(self._home, self.status)

    @property
    def status(self) -> str:
        """As `Container.status`."""
        if not self._state:
            self._state = self._seen.state(lives)
        return self._state

    @property
    def is_alive(self) -> bool:
        """As `Container.is_alive`."""
        return self.status in LIVING

    @property
    def started(self) -> float | None:
        """As `Container.started`."""
        found = self._seen.facts("state")
        return None if found is None else int(found[0]) / 1e9

    @property
    def exit_code(self) -> int | None:
        """As `Container.exit_code`."""
        end = self._seen.facts("exit")
        return super().exit_code if end is None else int(end[0])

    @property
    def finished(self) -> float | None:
        """As `Container.finished`."""
        end = self._seen.facts("exit")
        return None if end is None else int(end[1]) / 1e9


def _looks(store: Store, every: list[str]) -> list[Looks]:
    with Fd(os.open(store.containers, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as directory:
        files = tuple(map(os.fsencode, LOOKED_AT))
        return survey(directory, [one.encode() for one in every], files, END)


def seen(store: Store, *, all: bool) -> list[Glanced]:
    """The containers that run, or all of them, the oldest first, each as it is now and will always be shown by this
    object. What killed engines left is cleaned up. Raises OSError.
    """
    looked_after = recover(store)  # before the looks: the holder writes how it ended before he lets go
    found, unfinished = [], []
    every = identities(store)
    remembered = Remembered(store, every)
    for identity, looks in zip(every, _looks(store, every), strict=True):
        home = Seen(store, identity, identity in looked_after, looks, remembered)
        try:
            if home.facts("container") is None:
                unfinished.append(identity)
                continue
        except Corrupt:
            if not os.path.lexists(home.path):
                continue
        try:
            container = Glanced(home)
            if container.is_alive or all:  # what it takes to say so is kept as well
                found.append(container)
        except NotFound:
            continue  # removed meanwhile, or not yet written down
    if unfinished:
        discard_unfinished(store, unfinished)
    remembered.keep()
    found.sort(key=lambda one: one.created)
    return found


def keep(found: Sequence[Glanced]) -> None:
    """Keep for the next listing what *found* were asked since they were seen. Never raises."""
    if found:
        found[0]._seen.remembered.keep()


def damage_of(container: Container) -> tuple[Corrupt, ...]:
    """What was found damaged of a container of `seen`, of what was looked at so far."""
    home = container._home
    return tuple(home.damage.values()) if isinstance(home, Seen) else ()
