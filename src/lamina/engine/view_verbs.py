"""What containers, snapshots and images have in common: they can be compared, and every path of theirs explained."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeVar

    from lamina.engine.apply.values import HostChange
    from lamina.engine.apply_to import AppliedTo
    from lamina.engine.provenance import Provenance
    from lamina.engine.viewing import View
    from lamina.store.root import Store

    Paths = Iterable[str | bytes]
    T = TypeVar("T")

# how often what a container stands on may become another while it is looked at
_LOOKS = 10


class ViewVerbs:
    """The verbs of every state."""

    if TYPE_CHECKING:

        @property
        def store(self) -> Store: ...

        def _view(self) -> View:
            """What it consists of now. Raises NotFound, Corrupt."""

    def changes(self, paths: Paths = (), exclude: Paths = ()) -> list[HostChange]:
        """What was done to the image, or to the host's files, that it is over; raises InvalidInput for an image."""
        from lamina.errors import InvalidInput

        raise InvalidInput(
            f"compare {self._view().name}: with what?",
            remedy="name a second state: another image, a container",
        )

    def diff(self, other: ViewVerbs, paths: Paths = (), exclude: Paths = ()) -> list[HostChange]:
        """What leads from this state to *other*, by path, or what of that *paths* select and *exclude* does not.

        Any two of container, snapshot and image can be compared. It costs what the two do not have in common: the
        layers that both stand on are not read. Raises Unsupported where one is over this system and the other over an
        image, NotFound for a path that selects nothing.
        """
        from lamina.engine.comparing import compare

        return _steadily(
            (self, other), lambda before, after: compare(self.store, before, after, paths, exclude)
        )

    def apply_to(
        self,
        directory: str | bytes | os.PathLike[str],
        since: ViewVerbs | None = None,
        paths: Paths = (),
        exclude: Paths = (),
        *,
        force: bool = False,
    ) -> AppliedTo:
        """Make *directory*, which is like the state *since* (default: the image or the host's files that this one is
        over), like this one. Each path changes at once; one that is like this state already is left as it is.

        Raises Conflict, before anything is changed, naming what is not as in *since*, unless *force*; InvalidInput for
        an image without *since*, for `/`, and for the store; KernelError.
        """
        from lamina.engine.apply_to import apply_to, check_directory
        from lamina.engine.comparing import maps_of
        from lamina.engine.within import reach

        place = check_directory(os.fsencode(directory), self.store.path)
        changes = self.changes(paths, exclude) if since is None else since.diff(self, paths, exclude)
        views = [one._view() for one in (self, since) if one is not None]
        applied: AppliedTo = reach(lambda: maps_of(*views), apply_to, changes, place, force=force)
        return applied

    def patch(self, changes: Iterable[HostChange]) -> Iterator[bytes]:
        """A unified diff of *changes*, which `diff` or `changes` gave, as lines; see `engine.textdiff`."""
        from lamina.engine.comparing import maps_of
        from lamina.engine.textdiff import diff_changes
        from lamina.engine.within import reach_each

        return reach_each(lambda: maps_of(self._view()), diff_changes, list(changes))

    def explain(self, path: str | bytes | os.PathLike[str], *, add_up: bool = True) -> Provenance:
        """Where *path* comes from: every layer's answer from the top, and which step made that layer, when; what a
        write would copy. Of a directory also what each layer has in it (which costs what is in it), unless *add_up* is
        False.

        Links of the directories on the way are followed, the last part is not. Raises OSError: a layer that cannot be
        read, links that go in circles; InvalidInput.
        """
        from lamina.engine.explaining import explain_path

        return _steadily((self,), lambda view: explain_path(self.store, view, path, add_up=add_up))


def _steadily(states: tuple[ViewVerbs, ...], look: Callable[..., T]) -> T:
    """What *look* finds of the views of *states*, again where one came to stand on other layers meanwhile."""
    for attempt in range(_LOOKS):
        views = [state._view() for state in states]
        try:
            return look(*views)
        except OSError:
            now = [state._view() for state in states]
            if attempt == _LOOKS - 1 or [one.places for one in now] == [one.places for one in views]:
                raise
    raise AssertionError("it was looked at often enough")
