"""A snapshot, and something that may fail, for event loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.mirrored.snapshots import MirroredSnapshot
from lamina.engine.asynchronous.threads import in_thread, to_its_end, told_by_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self, Unpack

    from lamina.engine.asynchronous.container import AsyncContainer
    from lamina.engine.attempts import Attempt
    from lamina.engine.container import Container
    from lamina.engine.forked_options import ForkOptions
    from lamina.engine.parameters import Command
    from lamina.engine.snapshots import Snapshot


class AsyncSnapshot(MirroredSnapshot):
    """A state of a container: `lamina.Snapshot`, whose verbs are to be awaited."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._sync = snapshot

    def __repr__(self) -> str:
        return f"<Async{repr(self._sync)[1:]}"

    def __eq__(self, other: object) -> bool:
        return self._sync == other._sync if isinstance(other, AsyncSnapshot) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._sync)

    async def fork(
        self,
        n: int = 1,
        *,
        name: str | None = None,
        names: Sequence[str] = (),
        start: bool = False,
        command: Command | None = None,
        owner: int | None = None,
        on_warning: Callable[[str], None] | None = None,
        **options: Unpack[ForkOptions],
    ) -> list[AsyncContainer]:
        """Make *n* containers that begin with it: `Snapshot.fork`. Cancelled, none is left."""
        from lamina.engine.asynchronous.container import AsyncContainer, known, remove_each

        tell = told_by_loop(on_warning)

        def fork() -> list[Container]:
            made = self._sync.fork(
                n,
                name=name,
                names=names,
                start=start,
                command=command,
                owner=owner,
                on_warning=tell,
                **options,
            )
            return [known(one) for one in made]

        return [AsyncContainer(one) for one in await in_thread(fork, undo=remove_each)]

    async def start(
        self,
        command: Command | None = None,
        *,
        name: str | None = None,
        owner: int | None = None,
        on_warning: Callable[[str], None] | None = None,
        **options: Unpack[ForkOptions],
    ) -> AsyncContainer:
        """A container that begins with it, and runs: `Snapshot.start`. Cancelled, none is left."""
        [made] = await self.fork(
            name=name, start=True, command=command, owner=owner, on_warning=on_warning, **options
        )
        return made


class AsyncAttempt:
    """What `AsyncContainer.attempt` gives, for an `async with`: see `lamina.engine.attempts.Attempt`."""

    def __init__(self, attempt: Attempt) -> None:
        self._sync = attempt

    @property
    def before(self) -> AsyncSnapshot | None:
        """The snapshot that was made at the beginning of the block."""
        return None if self._sync.before is None else AsyncSnapshot(self._sync.before)

    @property
    def rewound(self) -> bool:
        """Whether the block failed, and the container was put back."""
        return self._sync.rewound

    async def __aenter__(self) -> Self:
        await in_thread(self._sync.__enter__, undo=lambda begun: begun.__exit__(None, None, None))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await to_its_end(in_thread(lambda: self._sync.__exit__(kind, error, trace)))


__all__ = ["AsyncAttempt", "AsyncSnapshot"]
