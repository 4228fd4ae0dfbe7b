"""What listings say of records, kept for the next listing: reading records that are as they were is most of its cost.

Kept is only what follows from the content of one file, beside what proves that the file is still that one: its inode
and size, and when its content and its inode changed last, as git proves its index and Python what it compiled. A record
that changed less than GRAIN before it was looked at is not kept: it might change again within one tick of the file
system's clock, and look as if it had not (git calls that "racily clean").

Records are replaced, marks made and removed: so a container's directory that is as it was proves what looks at these
found. The record of what was asked, which people may have in an editor, is looked at all the same. What nothing on the
disk tells (who holds the lock, which processes live) is asked each time, and never kept.

    cache/listed        {"boot": ..., "container": {"<id>": [look, facts], ...}, "state": {...}, "exit": {...}, ...
                        "there": {"<id>": [look at the directory, looks], ...}}
                        whoever listed writes it anew, beside its place; what is no document is as good as none

It is of one boot of the machine: what a power cut leaves of a file need not be what its inode says.
"""

from __future__ import annotations

import os
import time

from lamina import document
from lamina.errors import LaminaError
from lamina.linux.survey import changed
from lamina.runtime.identity import boot_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from lamina.linux.survey import Look
    from lamina.store.containers import Home
    from lamina.store.root import Store

    Facts = Sequence[Any]

# to be changed with what FACTS make of a record
MAGIC = b"lamina listed 4\n"
# nanoseconds: the coarsest clock of a file system that a store may be on is one of whole seconds
GRAIN = 2 * 10**9
# fewer containers are read as fast as what is kept of them; and so many must have been read to write it anew
ENOUGH, WORTH = 50, 20


def _of_container(home: Home, record: dict[str, Any]) -> Facts:
    from lamina.engine.health.checks import command_of
    from lamina.engine.keeping import networks_said, publishable

    volumes = [one for one in record.get("volumes") or () if isinstance(one, dict)]
    return (
        record.get("id") == home.id,
        str(record.get("name", "")),
        str(record.get("image", "")),
        [str(word) for word in record.get("command", ())],
        int(record.get("created", 0)),
        publishable(record),
        command_of(record) is not None,
        {key: str(said) for key, said in (record.get("labels") or {}).items()},
        [str(one.get("name") or one.get("source") or "") for one in volumes],
        sum(one.get("kind") == "volume" for one in volumes),
        networks_said(record),
    )


def _of_state(home: Home, record: dict[str, Any]) -> Facts:
    return (int(record.get("started") or 0),)


def _of_exit(home: Home, record: dict[str, Any]) -> Facts:
    return int(record["status"]), int(record.get("finished") or 0), bool(record.get("restarting"))


def _of_network(home: Home, record: dict[str, Any]) -> Facts:
    from lamina.engine.network_facts import ports_of
    from lamina.engine.network_record import Ledger

    return [one.network.name for one in Ledger.of(home).attachments], ports_of(home)


# by the name of a record: of that one, which `home` has read
FACTS: dict[str, Callable[[Home, dict[str, Any]], Facts]] = {
    "container": _of_container,
    "state": _of_state,
    "exit": _of_exit,
    "network": _of_network,
}
THERE = "there"
# of a record that is damaged
NOTHING: Facts = (True, "", "", (), 0, (), False, {}, (), 0, ("none",))


class Remembered:
    """What is known of the records of a store's containers at one moment."""

    def __init__(self, store: Store, every: Sequence[str]) -> None:
        """*every*: the ids of the containers."""
        self._place, self._every = store.cache + b"/listed", every
        self.is_consulted = len(every) >= ENOUGH
        self._kept = _load(self._place) if self.is_consulted else _nothing()
        self._read = 0
        self._moment = time.time_ns()  # every look comes later

    def looks(self, identity: str, here: Look | None) -> list[Look | None] | None:
        """What looks at the files of that container found, if its directory still is what it was: *here*."""
        entry = self._kept[THERE].get(identity)
        if entry is None or entry[0] != here:
            return None
        looks: list[Look | None] = entry[1]
        return looks

    def note_looks(self, identity: str, here: Look | None, looks: Sequence[Look | None]) -> None:
        """They found *looks* after the look *here* at its directory, which came after this was made."""
        self._kept[THERE].pop(identity, None)
        if here is not None and self.is_consulted and changed(here) + GRAIN < self._moment:
            self._kept[THERE][identity] = [here, [*looks]]
            self._read += 1

    def known(self, name: str, identity: str, look: Look) -> Facts | None:
        """What is kept of the record *name* of that container, if its file still is what it was: *look*."""
        entry = self._kept[name].get(identity)
        if entry is None or entry[0] != look:
            return None
        facts: Facts = entry[1]
        return facts

    def facts(self, home: Home, name: str, look: Look | None) -> Facts | None:
        """What FACTS make of the record *name*, whose file was *look* when it was looked at, after this was made; None
        where there was none. Raises Corrupt, OSError.
        """
        if look is None:
            return None
        facts = self.known(name, home.id, look)
        if facts is not None:
            return facts
        kept = self._kept[name]
        kept.pop(home.id, None)
        record = home.read(name)
        if record is None:
            return None
        facts = FACTS[name](home, record)
        # a change after the look shows, if the record was old enough then
        if self.is_consulted and changed(look) + GRAIN < self._moment:
            kept[home.id] = [look, facts]
            self._read += 1
        return facts

    def keep(self) -> None:
        """Write down what is known, if much of it was not. Never raises."""
        if self._read < WORTH:
            return
        self._read = 0
        there = frozenset(self._every)
        known = {
            name: {one: entry for one, entry in kept.items() if one in there}
            for name, kept in self._kept.items()
        }
        stage = self._place + b".%s" % os.urandom(4).hex().encode()
        try:
            file = os.open(stage, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        try:
            with open(file, "wb") as whole:
                whole.write(MAGIC)
                whole.write(document.encode({"boot": boot_id(), **known}).encode())
            os.rename(stage, self._place)
        except OSError:
            os.unlink(stage)


def _load(place: bytes) -> dict[str, dict[str, list[Any]]]:
    """What is kept there, as far as it is of this boot; by the name of a record, and by container."""
    try:
        with open(place, "rb", buffering=0) as file:
            if file.read(len(MAGIC)) == MAGIC:
                found = document.decode(file.read(), "listed")
                if found.get("boot") == boot_id():
                    return {name: found[name] for name in (*FACTS, THERE)}
    except (OSError, LaminaError, KeyError):
        pass
    return _nothing()


def _nothing() -> dict[str, dict[str, list[Any]]]:
    return {name: {} for name in (*FACTS, THERE)}
