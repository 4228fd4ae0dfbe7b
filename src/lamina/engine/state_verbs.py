"""The verbs of a container for its states: what it wrote is frozen, and gone back to, in constant time."""

from __future__ import annotations

from lamina.engine.branch_verbs import BranchVerbs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Unpack

    from lamina.engine.attempts import Attempt
    from lamina.engine.container import Container
    from lamina.engine.forked_options import ForkOptions
    from lamina.engine.parameters import Command
    from lamina.engine.snapshots import Snapshot
    from lamina.engine.state_log import StateLog
    from lamina.store.containers import Home


class StateVerbs(BranchVerbs):
    """What `Container` does with its states."""

    if TYPE_CHECKING:
        _home: Home

    def snapshot(
        self,
        name: str | None = None,
        *,
        message: str = "",
        consistency: str = "auto",
        volumes: bool = False,
        on_warning: Callable[[str], None] | None = None,
    ) -> Snapshot:
        """Freeze what it wrote, under *name*, if there is one: from then on this state can be gone back to, compared,
        forked, made an image. No file is copied; what it writes from now on goes elsewhere.

        Volumes and binds are no part of a state: *on_warning* is told so once, where writable ones exist. With
        *volumes* the store's volumes are, as copies, which takes time for what is in them. *consistency* says what is
        done about processes that hold files of theirs open for writing, of a container that runs: "refuse", "copy",
        "wait", or "auto" (docs/time-travel.md). Raises Conflict (the name is taken; refused; in use by another
        command), InvalidInput, Unsupported, KernelError.
        """
        from lamina.engine.snapshotting import snapshot

        return snapshot(
            self._home,
            name,
            message=message,
            consistency=consistency,
            volumes=volumes,
            on_warning=on_warning,
        )

    def snapshots(self) -> list[Snapshot]:
        """Its snapshots, oldest first. Raises Corrupt where one is damaged."""
        from lamina.engine.snapshots import Snapshot
        from lamina.store.snapshots import all_of

        return [Snapshot(self._home, kept) for kept in all_of(self._home)]

    def history(self) -> StateLog:
        """Its states as a tree, the newest first: what came from what, where it stands now, which containers were
        forked off where. Raises Corrupt where one is damaged.
        """
        from lamina.engine.state_log import log_of

        return log_of(self._home)

    def find_snapshot(self, reference: str) -> Snapshot:
        """The snapshot with that name or id, or the only one whose id begins so. Raises NotFound, InvalidInput."""
        from lamina.engine.snapshots import Snapshot
        from lamina.store.snapshots import find

        return Snapshot(self._home, find(self._home, reference))

    def rewind(self, snapshot: Snapshot | str, *, consistency: str = "auto", volumes: bool = True) -> None:
        """Put its files back into the state *snapshot* (or the one of that name or id): what it wrote since is thrown
        away, unless another snapshot has it. Snapshots that were made later stay.

        One that runs goes on, over other files; *consistency* is as of `snapshot`, but nothing can be copied here.
        Volumes that are part of the state get what they had then, for which neither this container may run nor another
        one that has them; without *volumes* they stay as they are. Raises NotFound, Conflict, KernelError.
        """
        from lamina.engine.rewinding import rewind

        reference = snapshot if isinstance(snapshot, str) else snapshot.id
        rewind(self._home, reference, consistency=consistency, volumes=volumes)

    def prune_snapshots(self, keep: int = 0) -> list[Snapshot]:
        """Remove its snapshots without a name, but the last *keep*; what went, oldest first. Raises as `snapshot`."""
        from lamina.engine.snapshotting import prune

        return prune(self._home, keep)

    def attempt(self, name: str | None = None, *, consistency: str = "auto") -> Attempt:
        """Something that may fail, as a block: what it did stays at the end of the `with`, and is taken back when the
        block raises.

            with box.attempt():
                box.exec(["pip", "install", "-r", "requirements.txt"], check=True)

        *name* is that of the snapshot from before, which then stays; without one it goes with the block.
        """
        from lamina.engine.attempts import Attempt

        return Attempt(self, name, consistency=consistency)

    def fork(
        self,
        n: int = 1,
        *,
        name: str | None = None,
        names: Sequence[str] = (),
        start: bool = False,
        command: Command | None = None,
        consistency: str = "auto",
        owner: int | None = None,
        on_warning: Callable[[str], None] | None = None,
        **options: Unpack[ForkOptions],
    ) -> list[Container]:
        """Make *n* containers that begin with its files as they are now, asked to be what it was asked to be; with
        *start* their command runs. No file is copied, and they need this container no more.

            for attempt in box.fork(16, start=True):
                attempt.exec(["make", "test"])

        They are called *names*, or *name* (with `-1` and so on, of several); their host names, addresses, and ports of
        this host are their own (*on_warning* is told what they have not). `**options` are asked anew, as is *command*.
        *owner* is as of `Engine.start`, *consistency* as of `snapshot`. All are made and started, or none. Raises as
        `snapshot` and `Engine.start` do.
        """
        from lamina.engine.container import Container
        from lamina.engine.forking import Wanted, fork_container, names_of
        from lamina.engine.parameters import words_of

        words = None if command is None else words_of(command, "fork")
        wanted = Wanted(n, names_of(name, names, n), start, words, options, owner)
        found = fork_container(self._home, wanted, on_warning, consistency=consistency)
        return [Container(home, made=True) for home in found]
