"""What a thread does of `Engine`: made by scripts/mirror from engine/engine.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.mirrored.image_verbs import MirroredImageVerbs
from lamina.engine.asynchronous.networks import AsyncNetworks
from lamina.engine.asynchronous.storage import AsyncStorage
from lamina.engine.asynchronous.threads import in_thread, transfer
from lamina.engine.asynchronous.volume import AsyncVolume

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence
    from typing import Unpack

    from lamina.engine.engine import Engine
    from lamina.engine.options import RunOptions
    from lamina.engine.parameters import Command
    from lamina.errors import LaminaError
    from lamina.runtime.plan import Plan
    from lamina.store.root import Store


class MirroredEngine(MirroredImageVerbs):
    """The verbs of `Engine` that a thread does."""

    if TYPE_CHECKING:
        _sync: Engine

    @property
    def store(self) -> Awaitable[Store]:
        """The store, opened (and made, if need be) when it is first used."""
        return in_thread(self._do(lambda: self._sync.store))

    @property
    def storage(self) -> AsyncStorage:
        """What the store keeps, and what can be done about it: usage, garbage, checks, pins, limits, volumes."""
        return AsyncStorage(self._sync)

    async def plan(self, image: str, command: Command = (), **options: Unpack[RunOptions]) -> Plan:
        """What `run` would do, as the list of system calls of its start; nothing is made, pulled or started."""
        return await in_thread(self._do(lambda: self._sync.plan(image, command, **options)))

    async def volumes(self) -> list[AsyncVolume]:
        """All volumes, by name. Raises Corrupt."""
        return [AsyncVolume(one) for one in await in_thread(self._do(lambda: self._sync.volumes()))]

    async def volume(self, name: str) -> AsyncVolume:
        """The volume of that name. Raises NotFound, InvalidInput, Corrupt."""
        return AsyncVolume(await in_thread(self._do(lambda: self._sync.volume(name))))

    async def create_volume(
        self, name: str | None = None, *, labels: Mapping[str, str] | None = None
    ) -> AsyncVolume:
        """The volume *name* (None: a random one), made if it is not there; one that is there stays as it is, its labels
        too, as in docker. Raises InvalidInput, Corrupt, KernelError.
        """
        return AsyncVolume(await in_thread(self._do(lambda: self._sync.create_volume(name, labels=labels))))

    @property
    def networks(self) -> AsyncNetworks:
        """The networks that containers can be in: listed, made, looked up."""
        return AsyncNetworks(self._sync)

    async def prune_containers(
        self, *, before: float | None = None, labels: Sequence[str] = (), without: Sequence[str] = ()
    ) -> tuple[list[str], int]:
        """Remove the containers that do not run: those made *before* that time (seconds since 1970), which have all of
        *labels* (KEY or KEY=VALUE) and none of those *without*. Their ids, and how many bytes became free.
        """
        return await in_thread(
            self._do(lambda: self._sync.prune_containers(before=before, labels=labels, without=without))
        )

    async def start_restartable(self) -> list[tuple[str, LaminaError | None]]:
        """Start the containers that are started with the machine, as their restart policies say: the name of each, and
        why it could not be started, or None.
        """
        return await transfer(self._do(lambda: self._sync.start_restartable()))

    async def stop_restartable(self) -> list[tuple[str, LaminaError | None]]:
        """Stop the containers that have a restart policy because the machine ends: `start_restartable` starts them
        again. As that.
        """
        return await transfer(self._do(lambda: self._sync.stop_restartable()))

    async def abandon(self) -> None:
        """Remove what this process has begun and not finished, of any thread. For a process that is about to end."""
        await in_thread(self._do(lambda: self._sync.abandon()))
