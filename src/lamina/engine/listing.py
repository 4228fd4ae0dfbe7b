"""All containers of a store at one moment: what many are looked at by, each of their files once."""

from __future__ import annotations

import os

from lamina.engine.container import Container
from lamina.engine.recover import discard_unfinished, recover
from lamina.engine.remembered import FACTS, NOTHING, Remembered
from lamina.engine.settling import state_of
from lamina.errors import Corrupt, NotFound
from lamina.linux.constants import AT_FDCWD
from lamina.linux.fd import Fd
from lamina.linux.survey import survey
from lamina.store.containers import PAUSED_MARK, Home, identities, no_such

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.engine.remembered import Facts
    from lamina.linux.survey import Look
    from lamina.store.root import Store

    Looks = tuple[Look | None, ...]

# what is asked of all: the record of each first, and the rest of those that somebody looks after
LOOKED_AT = ("container.json", "state.json", "exit.json", "network.json", PAUSED_MARK)


class Seen(Home):
    """A home that remembers what was looked at in it: for who asks a container many things at one moment.

    One damaged record does not keep the others from being listed: but for what was asked, it is as if it were empty.
    """

    __slots__ = ("_facts", "_looked_after", "_looks", "_records", "_remembered", "damage")

    def __init__(
        self, store: Store, identity: str, looked_after: bool, looks: Looks, remembered: Remembered
    ) -> None:
        """*looked_after*: somebody is known to have held the lock before anything here was looked at; else that is
        asked. *looks*: what there was of LOOKED_AT then.
        """
        super().__init__(store, identity)
        self._looked_after: bool | None = looked_after or None
        self._remembered = remembered
        self._looks = dict(zip(LOOKED_AT, looks if looked_after else looks[:1], strict=False))
        self._facts: dict[str, Facts | None] = {}
        self._records: dict[str, dict[str, Any] | None] = {}
        self.damage: dict[str, Corrupt] = {}

    def facts(self, name: str) -> Facts | None:
        """As of the first time, see `remembered`."""
        if name not in self._facts:
            self._facts[name] = self._remembered.facts(self, name, self._look(f"{name}.json"))
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
            if found[0] == self.id:
                self._said = found
        except Corrupt:
            pass

    @property
    def name(self) -> str:
        """As `Container.name`."""
        return str(self._said[1])

    @property
    def image(self) -> str:
        """As `Container.image`."""
        return str(self._said[2])

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
        """The ports that its image and `--expose` name, published or not: "80/tcp", "80-90/tcp"."""
        return [*self._said[5]]

    @property
    def is_examined(self) -> bool:
        """Whether it has a health check."""
        return bool(self._said[6])

    @property
    def status(self) -> str:
        """As `Container.status`."""
        if not self._state:
            self._state = state_of(self._home)
        return self._state

    @property
    def started(self) -> float | None:
        """As `Container.started`."""
        found = self._seen.facts("state")
        return None if found is None else int(found[0]) / 1e9


def _looks(store: Store, every: list[str]) -> list[Looks]:
    with Fd(os.open(store.containers, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as directory:
        return survey(directory, [os.fsencode(one) for one in every], tuple(map(os.fsencode, LOOKED_AT)))


def seen(store: Store, *, all: bool) -> list[Glanced]:
    """The containers that run, or all of them, the oldest first, each as it is now and will always be shown by this
    object. What killed engines left is cleaned up. Raises OSError.
    """
    looked_after = recover(store)  # before the looks: the holder writes how it ended before he lets go
    found, unfinished = [], []
    every = identities(store)
    remembered = Remembered(store, len(every))
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
            if all or container.is_alive:
                found.append((container.created, container))
        except NotFound:
            continue  # removed meanwhile, or not yet written down
    if unfinished:
        discard_unfinished(store, unfinished)
    remembered.keep()
    found.sort(key=lambda entry: entry[0])
    return [container for _, container in found]


def damage_of(container: Container) -> tuple[Corrupt, ...]:
    """What was found damaged of a container of `seen`, of what was looked at so far."""
    home = container._home
    return tuple(home.damage.values()) if isinstance(home, Seen) else ()
