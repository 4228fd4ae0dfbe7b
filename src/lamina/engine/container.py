"""A container that exists: what it is, what it did, and what becomes of that."""

from __future__ import annotations

import os
import time

from lamina.engine.layers import inode_of, stacks_of
from lamina.engine.recover import end_processes
from lamina.errors import Conflict, Corrupt, Unsupported
from lamina.store.containers import no_such
from lamina.store.events import about, note
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from lamina.engine.apply.values import Applied, Clash, HostChange, Undone
    from lamina.engine.progress import Tell
    from lamina.overlay.spec import MountSpec
    from lamina.store.containers import Home
    from lamina.store.root import Store
    from lamina.supervisor.log import LogEntry

# how long a forced removal waits for the engine of a killed container to let go
PATIENCE = 15.0
FOLLOW_EVERY = 0.1


class Container:
    """One container. Made by `Engine.container` and `Engine.containers`; attributes are read when asked for.

    NotFound is raised by whatever needs a container that was removed meanwhile.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._asked: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"<Container {self._home.short_id}>"

    # -- what it is

    @property
    def id(self) -> str:
        """64 hexadecimal digits."""
        return self._home.id

    @property
    def _record(self) -> dict[str, Any]:
        if self._asked is None:
            try:
                self._asked = self._home.asked()
            except Corrupt:
                self._asked = {}
        return self._asked

    @property
    def record(self) -> dict[str, Any]:
        """What was asked, as it is written down; empty when the record is damaged."""
        return self._record

    @property
    def name(self) -> str:
        """The name; "" when the record is damaged, as for all that follow."""
        return str(self._record.get("name", ""))

    @property
    def image(self) -> str:
        """The image it was made from, as it was asked for."""
        return str(self._record.get("image", ""))

    @property
    def image_id(self) -> str:
        """The id of that image; "" over the host."""
        return str(self._record.get("image_id") or "")

    @property
    def store(self) -> Store:
        """The store that it is in."""
        return self._home.store

    @property
    def command(self) -> list[str]:
        """What it executes."""
        return [str(word) for word in self._record.get("command", ())]

    @property
    def labels(self) -> dict[str, str]:
        """What was noted with `--label`."""
        return dict(self._record.get("labels") or {})

    @property
    def created(self) -> float:
        """When it was made, seconds since 1970."""
        return int(self._record.get("created", 0)) / 1e9

    @property
    def state(self) -> str:
        """ "created", "running", "exited", or "dead" (its engine was killed)."""
        if not self._home.exists():
            raise no_such(self._home.short_id)
        return self._home.state()

    @property
    def exit_code(self) -> int | None:
        """The exit status, 128 + n after signal n; None while there is none."""
        end = self._home.read("exit")
        return None if end is None else int(end["status"])

    @property
    def started(self) -> float | None:
        """When its command started, seconds since 1970; None if it did not."""
        state = self._home.read("state")
        return None if state is None else int(state.get("started", 0)) / 1e9

    @property
    def finished(self) -> float | None:
        """When it ended, seconds since 1970; None while it has not."""
        end = self._home.read("exit")
        return None if end is None else int(end.get("finished", 0)) / 1e9

    def inspect(self) -> dict[str, Any]:
        """Everything known of it, in the words of `docker inspect`."""
        from lamina.engine.inspect import inspect

        self._record  # noqa: B018  a damaged or missing record is said first
        return inspect(self._home, self._home.asked())

    def overlays(self) -> list[tuple[bytes, MountSpec]]:
        """Where in the container which stack is mounted, the root first; read-only ones are among them."""
        return stacks_of(self._home.asked().get("overlays") or [], self._home.path)

    # -- what it wrote

    def logs(self, *, follow: bool = False) -> Iterator[LogEntry]:
        """What it wrote, oldest first; with *follow* also what it still writes, until it ends."""
        from lamina.supervisor.log import read_log

        path, seen = self._home.path + b"/log", 0
        while True:
            running = follow and self.state == "running"  # before reading: what comes after is read next time
            for entry in read_log(path, seen):
                seen = entry.end
                yield entry
            if not running:
                return
            time.sleep(FOLLOW_EVERY)

    # -- what it did

    def changes(
        self, paths: Iterable[str | bytes] = (), exclude: Iterable[str | bytes] = ()
    ) -> list[HostChange]:
        """What it did to the files of the host, or what of that *paths* select and *exclude* does not."""
        from lamina.engine.apply.gather import changes_of
        from lamina.engine.apply.selection import select
        from lamina.engine.within import reach

        asked = self._home.asked()
        made = [os.fsencode(place) for place in asked.get("made") or ()]
        inodes = [int(entry.get("inode") or 0) for entry in asked.get("overlays") or []]
        writable = [
            (at, self._below(spec, inode))
            for (at, spec), inode in zip(self.overlays(), inodes, strict=True)
            if spec.upperdir is not None
        ]
        nowhere = self._home.store.empty
        try:
            found: list[HostChange] = reach(self._maps, changes_of, writable, made=made, nowhere=nowhere)
        except OSError:
            self._home.asked()  # removed meanwhile: then that is what there is to say
            raise
        paths, exclude = list(paths), list(exclude)
        if paths or exclude:
            return list(select(found, paths, exclude).changes)
        return found

    def _below(self, spec: MountSpec, inode: int) -> MountSpec:
        """*spec* over nothing, where what it lay over is not there any more: a file system that was unmounted since, or
        another program's directory in /tmp. What the container made there is then all new.
        """
        there = not inode or inode_of(spec.lowerdirs[0]) == inode
        return spec if there else replace(spec, lowerdirs=(self._home.store.empty,))

    def clashes(self, paths: Iterable[str | bytes] = (), exclude: Iterable[str | bytes] = ()) -> list[Clash]:
        """Of the changes, those on which the host itself has worked since the container started."""
        from lamina.engine.apply.operations import clashes_of
        from lamina.engine.within import reach

        started = self._started()
        found: list[Clash] = reach(
            self._maps,
            clashes_of,
            self.changes(),
            self._journal,
            started_ns=started,
            paths=list(paths),
            exclude=list(exclude),
        )
        return found

    def patch(self, changes: Iterable[HostChange]) -> Iterator[bytes]:
        """A unified diff of *changes* of this container, as lines; see `engine.textdiff`."""
        from lamina.engine.textdiff import diff_changes
        from lamina.engine.within import reach_each

        return reach_each(self._maps, diff_changes, list(changes))

    def apply(
        self,
        paths: Iterable[str | bytes] = (),
        exclude: Iterable[str | bytes] = (),
        force: bool = False,
        *,
        progress: Tell | None = None,
    ) -> Applied:
        """Do to the host what it did, or what of that *paths* select and *exclude* does not: all of it or nothing.

        *progress* is told an `engine.progress.Progress` now and then; here as in `undo` and `remove`.
        Raises Conflict while it runs, or where the host was changed meanwhile and *force* is not given; KernelError.
        """
        from lamina.engine.apply.operations import apply
        from lamina.engine.within import reach

        with _Held(self._home, "apply"):
            started = self._started()
            applied: Applied = reach(
                self._maps,
                apply,
                self.changes(),
                self._journal,
                started_ns=started,
                paths=list(paths),
                exclude=list(exclude),
                force=force,
                progress=progress,
            )
            return applied

    def undo(self, force: bool = False, *, progress: Tell | None = None) -> Undone:
        """Take the newest apply back. Raises NotFound when there is none, Conflict, KernelError."""
        from lamina.engine.apply.operations import undo
        from lamina.engine.within import reach

        with _Held(self._home, "undo"):
            undone: Undone = reach(self._maps, undo, self._journal, force=force, progress=progress)
            return undone

    def _maps(self) -> dict[str, list[dict[str, int]]] | None:
        from lamina.engine.within import maps_of

        return maps_of(self._record)

    @property
    def _journal(self) -> bytes:
        return self._home.path + b"/apply"

    def _started(self) -> int:
        asked = self._home.asked()
        if asked.get("image_id"):
            raise Unsupported(
                f"apply container {self.name}: it was made from the image {self.image}, not from this system",
                remedy="'lamina diff' shows what it did, 'lamina export' its files",
            )
        moment = asked.get("moment")
        if not isinstance(moment, int):
            raise Conflict(f"container {self.name}: it is removed when it ends and cannot be applied")
        return moment

    # -- its end

    def remove(self, force: bool = False, volumes: bool = False, *, progress: Tell | None = None) -> None:
        """Remove it and discard what it did; with *volumes* also those that are its own, without a name.

        Raises Conflict when it runs; with *force* it is killed then.
        """
        from lamina.engine.discard import discard

        with _Held(self._home, "remove", kill=force):
            discard(self._home, self.name or None, self._record, volumes=volumes, progress=progress)
            note(self.store, about({"id": self.id, **self._record}, "destroy"))


class _Held:
    """Holds the container's lock, having made sure that nothing of it runs any more."""

    def __init__(self, home: Home, verb: str, *, kill: bool = False) -> None:
        self._home, self._verb, self._kill = home, verb, kill

    def __enter__(self) -> None:
        home = self._home
        if not home.hold():
            if not self._kill:
                raise Conflict(
                    f"{self._verb} container {home.short_id}: it is running, or in use by another command",
                    remedy="wait for its end, or remove it with --force",
                )
            self._end()
        try:
            state = home.read("state")
            if state is not None and home.read("exit") is None:  # its engine was killed
                end_processes(home.read("container") or {}, state)
        except Corrupt:
            pass
        except BaseException:
            home.release()
            raise

    def _end(self) -> None:
        """Kill it, and wait until whoever runs it has written that down."""
        home, deadline = self._home, time.monotonic() + PATIENCE
        while True:
            state = home.read("state")
            if state is not None:
                from lamina.engine.recover import kill_and_wait

                kill_and_wait(int(state["pid"]), state)
            if home.hold():
                return
            if time.monotonic() > deadline:
                raise Conflict(f"{self._verb} container {home.short_id}: its engine does not let go of it")
            time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self._home.release()
