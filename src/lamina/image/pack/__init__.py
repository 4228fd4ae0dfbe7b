"""A directory becomes an archive again: a layer with its marks as the OCI image-spec has them, or a whole tree.

    with open("layer.tar.gz", "wb") as out:
        packed = pack_layer(directory_fd, out, compression="gzip")

The archive depends on nothing but what is in the directory: entries are sorted (in each directory the opaque mark,
then whiteouts, then the rest by name), numbers and names are written in one way, zeros of large files are left out by
where they are, not by how the file system stores them. `again.repack` makes the very archive that a layer came from.
"""

from __future__ import annotations

from lamina.image.pack.again import has_recipe, repack
from lamina.image.pack.layer import pack_layer
from lamina.image.pack.sink import Packed
from lamina.image.pack.stored import pack_stored
from lamina.image.pack.tree import pack_tree

__all__ = ["Packed", "has_recipe", "pack_layer", "pack_stored", "pack_tree", "repack"]
