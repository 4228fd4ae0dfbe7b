"""What containers, snapshots and images have in common: they can be compared, and every path of theirs explained."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from lamina.engine.apply.values import HostChange
    from lamina.engine.apply_to import AppliedTo
    from lamina.engine.provenance import Provenance
    from lamina.engine.viewing import State, View
    from lamina.store.root import Store

    Paths = Iterable[str | bytes]


class ViewVerbs:
    """The verbs of every state."""

    if TYPE_CHECKING:

        @property
        def store(self) -> Store: ...

    def _view(self) -> View:
        """What it consists of now. Raises NotFound, Corrupt."""
        raise NotImplementedError

    def diff(self, other: State, paths: Paths = (), exclude: Paths = ()) -> list[HostChange]:
        """What leads from this state to *other*, by path, or what of that *paths* select and *exclude* does not.

        Any two of container, snapshot and image can be compared. It costs what the two do not have in common: the layers
        that both stand on are not read. Raises Unsupported where one is over this system and the other over an image,
        NotFound for a path that selects nothing.
        """
        from lamina.engine.comparing import compare

        return compare(self._view(), other._view(), paths, exclude)

    def apply_to(
        self,
        directory: str | bytes | os.PathLike[str],
        since: State | None = None,
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
        from lamina.engine.comparing import compare, maps_of, own_changes
        from lamina.engine.within import reach

        place = check_directory(os.fsencode(directory), self.store.path)
        view = self._view()
        views = (view,)
        if since is None:
            changes = own_changes(_with_own(view), paths, exclude)
        else:
            before = since._view()
            views = (before, view)
            changes = compare(before, view, paths, exclude)
        applied: AppliedTo = reach(lambda: maps_of(*views), apply_to, changes, place, force=force)
        return applied

    def explain(self, path: str | bytes | os.PathLike[str], *, add_up: bool = True) -> Provenance:
        """Where *path* comes from: every layer's answer from the top, and which step made that layer, when; what a
        write would copy. Of a directory also what each layer has in it (which costs what is in it), unless *add_up* is
        False.

        Links of the directories on the way are followed, the last part is not. Raises OSError: a layer that cannot be
        read, links that go in circles; InvalidInput.
        """
        from lamina.engine.explaining import explain_path

        return explain_path(self.store, self._view(), path, add_up=add_up)


def _with_own(view: View) -> View:
    from lamina.errors import InvalidInput

    if view.kind == "image":
        raise InvalidInput(
            f"compare image {view.name}: with what?", remedy="name a second state: another image, a container"
        )
    return view
