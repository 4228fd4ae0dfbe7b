"""What a container did to the files it ran over, and what becomes of that: looked at, applied to the host, undone."""

from __future__ import annotations

import os

from lamina.engine.holding import Held
from lamina.engine.layers import inode_of, stacks_of
from lamina.errors import Conflict, Unsupported
from lamina.overlay.spec import top_first
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from lamina.engine.apply.values import Applied, Clash, HostChange, Undone
    from lamina.engine.progress import Tell
    from lamina.overlay.spec import MountSpec
    from lamina.store.containers import Home

# how often what a container stands on may become another while its changes are looked at
_LOOKS = 10


class Reviewed:
    """The changes of a container."""

    if TYPE_CHECKING:
        _home: Home

        @property
        def name(self) -> str: ...
        @property
        def image(self) -> str: ...
        @property
        def _record(self) -> dict[str, Any]: ...

    def overlays(self) -> list[tuple[bytes, MountSpec]]:
        """Where in the container which stack is mounted, the root first; read-only ones are among them."""
        return stacks_of(self._whole_record().get("overlays") or [], self._home.path)

    def _whole_record(self) -> dict[str, Any]:
        """The record, with nothing under way: what somebody left half done with its states is finished first."""
        asked = self._home.asked()
        if asked.get("freezing") or asked.get("rewinding"):  # engine/chains.py
            from lamina.engine.state_turn import StateTurn

            with StateTurn(self._home, "look at") as turn:
                asked = turn.asked
        return asked

    def changes(
        self, paths: Iterable[str | bytes] = (), exclude: Iterable[str | bytes] = ()
    ) -> list[HostChange]:
        """What it did to the files of the host (or of its image), in all of its states together, or what of that
        *paths* select and *exclude* does not.
        """
        from lamina.engine.apply.gather import changes_of
        from lamina.engine.apply.selection import select
        from lamina.engine.chains import pending
        from lamina.engine.within import reach

        nowhere = self._home.store.empty
        for attempt in range(_LOOKS):
            asked = self._whole_record()
            made = [os.fsencode(place) for place in asked.get("made") or ()]
            writable, own = self._written(asked)
            try:
                found: list[HostChange] = reach(
                    self._maps, changes_of, writable, made=made, nowhere=nowhere, frozen=own
                )
                break
            except OSError:
                # removed meanwhile: then that is what there is to say; or it stands on other layers now
                now = self._home.asked()
                if attempt == _LOOKS - 1 or (
                    now.get("overlays") == asked.get("overlays") and not pending(now)
                ):
                    raise
        paths, exclude = list(paths), list(exclude)
        if paths or exclude:
            return list(select(found, paths, exclude).changes)
        return found

    def _written(self, asked: dict[str, Any]) -> tuple[list[tuple[bytes, MountSpec]], dict[bytes, int]]:
        """The stacks in which something may have been written, by their places, and how many of the lower directories
        of each, from the top, are its own. *asked* is the container's record.
        """
        from lamina.engine.chains import chain_of

        entries = asked.get("overlays") or []
        own = {at: len(top_first(chain)) for at, chain in chain_of(asked).items()}
        return [
            (at, self._below(spec, int(entry.get("inode") or 0), own[at]))
            for entry, (at, spec) in zip(entries, stacks_of(entries, self._home.path), strict=True)
            if spec.upperdir is not None
        ], own

    def _below(self, spec: MountSpec, inode: int, own: int) -> MountSpec:
        """*spec* over nothing, where what it lay over is not there any more: a file system that was unmounted since, or
        another program's directory in /tmp. What the container made there is then all new.
        """
        there = not inode or inode_of(spec.lowerdirs[own]) == inode
        return spec if there else replace(spec, lowerdirs=(*spec.lowerdirs[:own], self._home.store.empty))

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

        with Held(self._home, "apply"):
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

        with Held(self._home, "undo"):
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
            raise Conflict(
                f"container {self.name}: it is removed when it ends and cannot be applied",
                remedy="run it without --rm",
            )
        return moment
