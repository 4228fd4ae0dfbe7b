"""An overlay as a thing to ask: what it shows, what its upper did, why a path is what it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lamina.overlay.spec import MountSpec

if TYPE_CHECKING:
    from lamina.overlay.changes import Change, Vanished
    from lamina.overlay.explain import Explanation
    from lamina.overlay.tree import Tree


class Overlay:
    """A stack of directories, mounted or not.

        Overlay.from_options("lowerdir=A:B,upperdir=C")
        with overlay.open() as tree: ...           # reading it
        for change in overlay.changes(): ...       # what C did to A and B
        print(overlay.explain("etc/hosts"))        # which layer the path comes from, and why

    It is a value: two of the same `MountSpec` are equal. Nothing is opened before it is asked for.
    """

    def __init__(self, spec: MountSpec) -> None:
        """Relative directories mean what they mean to the process when it asks."""
        self.spec = spec

    @classmethod
    def from_options(
        cls, options: str | bytes, *, relative_to: str | bytes | os.PathLike[str] | None = None
    ) -> Overlay:
        """The stack that `mount -t overlay overlay -o OPTIONS` would mount. Raises errors.InvalidInput.

        Relative directories are left as they are, or joined to *relative_to*.
        """
        from lamina.overlay.options import parse_options

        return cls(parse_options(options, relative_to=relative_to))

    def open(self) -> Tree:
        """The tree that a mount would show, for reading. To be closed, or used in a `with`."""
        from lamina.overlay.lookup import Layers, View
        from lamina.overlay.tree import Tree

        return Tree(View(Layers(self.spec)))

    def open_below(self, above: int = 1) -> Tree:
        """The tree of the layers below the upper directory: what was there before anything was written. *above* as of
        `changes`.
        """
        from lamina.overlay.lookup import Layers, View
        from lamina.overlay.tree import Tree

        return Tree(View(Layers(self.spec), first=above))

    def changes(self, *, vanished: Vanished = "list", above: int = 1) -> Iterator[Change]:
        """What the upper directory, or all layers *above* that one, did to those below: see
        `lamina.overlay.changes.changes`.
        """
        from lamina.overlay.changes import changes

        return changes(self.spec, vanished=vanished, above=above)

    def changes_to(self, other: Overlay, *, vanished: Vanished = "list") -> Iterator[Change]:
        """What leads from what this stack shows to what *other* does: see `lamina.overlay.changes.between`."""
        from lamina.overlay.changes import between

        return between(self.spec, other.spec, vanished=vanished)

    def explain(self, path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> Explanation:
        """Every layer's answer for *path*: see `lamina.overlay.explain.explain`."""
        from lamina.overlay.explain import explain

        return explain(self.spec, path)

    def __repr__(self) -> str:
        return f"Overlay({self.spec!r})"

    def __eq__(self, other: object) -> bool:
        return self.spec == other.spec if isinstance(other, Overlay) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.spec)
