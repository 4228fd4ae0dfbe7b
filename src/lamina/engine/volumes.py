"""A volume as Python programs see it: a directory that containers share and that outlives them."""

from __future__ import annotations

import os

from lamina.store import volumes
from lamina.store.references import ContainerUses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from lamina.store.root import Store


class Volume:
    """One volume. Made by `Engine.volume`, `Engine.volumes` and `Engine.create_volume`; what is said of it is as it was
    then, `reload` looks again.
    """

    def __init__(self, store: Store, found: volumes.Volume, users: tuple[str, ...]) -> None:
        self._store, self._found, self._users = store, found, users

    def __repr__(self) -> str:
        return f"<Volume {self.name}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Volume):
            return NotImplemented
        return (self.name, self._store.path) == (other.name, other._store.path)

    def __hash__(self) -> int:
        return hash((self.name, self._store.path))

    @property
    def name(self) -> str:
        """Its name; for one that was made without, 64 hexadecimal digits."""
        return self._found.name

    @property
    def path(self) -> Path:
        """The directory on this machine with what is in it. Containers write there: do not follow its links."""
        from pathlib import Path

        return Path(os.fsdecode(self._found.path))

    @property
    def labels(self) -> dict[str, str]:
        """What was noted when it was made."""
        return dict(self._found.labels)

    @property
    def created(self) -> float:
        """When it was made, seconds since 1970."""
        return self._found.created / 1e9

    @property
    def is_anonymous(self) -> bool:
        """Whether it was made for one container, and nobody gave it a name."""
        return self._found.anonymous

    @property
    def users(self) -> list[str]:
        """The names of the containers that mount it, whether they run or not."""
        return list(self._users)

    @property
    def attrs(self) -> dict[str, Any]:
        """Everything known of it, in the words of `docker volume inspect`."""
        from lamina.engine.inspect import timestamp

        return {
            "Name": self.name,
            "Driver": "local",
            "Scope": "local",
            "Mountpoint": str(self.path),
            "CreatedAt": timestamp(self._found.created),
            "Labels": self.labels,
            "Anonymous": self.is_anonymous,
            "Options": None,
            "Containers": self.users,
        }

    def reload(self) -> None:
        """Look again. Raises NotFound, Corrupt."""
        found = find(self._store, self.name)
        self._found, self._users = found._found, found._users

    def remove(self) -> None:
        """Remove it, with what is in it. Raises NotFound, Conflict while a container mounts it."""
        from lamina.engine.discard import remover

        volumes.remove(self._store, self.name, unless_used=ContainerUses(self._store), remove=remover(None))


def find(store: Store, name: str) -> Volume:
    """The volume of that name. Raises NotFound, InvalidInput, Corrupt."""
    found = volumes.find(store, name)
    if found is None:
        raise volumes.no_such(name)
    return _with_users(store, found, ContainerUses(store).refresh())


def every(store: Store) -> list[Volume]:
    """All volumes, by name."""
    uses = ContainerUses(store).refresh()
    found = (volumes.find(store, name) for name in volumes.identities(store))
    return [_with_users(store, volume, uses) for volume in found if volume is not None]


def create(store: Store, name: str | None, labels: dict[str, str]) -> Volume:
    """The volume *name* (None: a random one), made if it is not there. Raises InvalidInput."""
    made = volumes.create(store, name, labels, anonymous=name is None)
    return _with_users(store, made, ContainerUses(store).refresh())


def _with_users(store: Store, found: volumes.Volume, uses: ContainerUses) -> Volume:
    return Volume(store, found, tuple([use.shown for use in uses.of_volume(found.name)]))


__all__ = ["Volume"]
