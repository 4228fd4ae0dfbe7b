"""A whole tree as one archive, as `export` and images of a single layer need it."""

from __future__ import annotations

import stat

from lamina.image.pack.packer import Packer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from lamina.image.apply.ids import IdMap
    from lamina.image.pack.sink import Out, Packed
    from lamina.overlay.tree import Tree


def pack_tree(tree: Tree, out: Out, *, ids: IdMap | None = None) -> Packed:
    """Write everything that *tree* shows (`Overlay(spec).open()`) to *out*; its root is the archive's.

    *ids*: what owners become in the archive. Raises Unsupported for names that begin with .wh., Conflict where
    something changes meanwhile, OSError.
    """
    packer = Packer(out, "none", ids)
    root = tree.root
    _put(packer, b".", root)
    pending: list[Iterator[Tree]] = [iter(list(root.iterdir()))]
    while pending:
        node = next(pending[-1], None)
        if node is None:
            pending.pop()
            continue
        _put(packer, b"/".join(node.parts), node)
        if stat.S_ISDIR(node.lstat().st_mode):
            pending.append(iter(list(node.iterdir())))
    return packer.finish()


def _put(packer: Packer, path: bytes, node: Tree) -> None:
    status = node.lstat()
    target = node.readlink_bytes() if stat.S_ISLNK(status.st_mode) else b""
    packer.put(path, status, node.xattrs(), target, lambda: node.open_content(follow_symlinks=False))
