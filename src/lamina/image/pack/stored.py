"""A layer of the store as an archive: the very one that it came from where that is known, else packed afresh, and
always to the same bytes.
"""

from __future__ import annotations

import os

from lamina.errors import Corrupt
from lamina.image.pack.again import has_recipe, repack
from lamina.image.pack.layer import pack_layer
from lamina.linux.fd import Fd
from lamina.linux.procfs import has_trusted_attributes
from lamina.overlay.mount_points import idle
from lamina.overlay.spec import MountSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.image.apply.ids import IdMap
    from lamina.image.compression import Kind
    from lamina.image.pack.sink import Out, Packed
    from lamina.store.layers import Layer

# in `Layer.extra`: where a start may have made something to mount on it, and what of that no archive shall have
MADE, LEFT_OUT = "made", "left_out"


def pack_stored(
    layer: Layer,
    out: Out,
    *,
    compression: Kind = "none",
    userxattr: bool | None = None,
    ids: IdMap | None = None,
) -> Packed:
    """Write the archive of *layer* to *out*. Of one without a recipe, *ids* says what owners become in it, and what its
    `extra` says under LEFT_OUT is not in it.

    Raises Corrupt where it is not the archive that it should be, for its files were changed, and as `repack` and
    `pack_layer`.
    """
    if has_recipe(layer):
        return repack(layer, out, compression=compression)
    without = frozenset(os.fsencode(path) for path in layer.extra.get(LEFT_OUT) or ())
    with Fd(os.open(layer.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)) as directory:
        packed = pack_layer(
            directory, out, compression=compression, userxattr=userxattr, ids=ids, without=without
        )
    if layer.diff_id not in (None, packed.diff_id):
        raise Corrupt(
            f"pack layer {layer.id[:12]}: its files were changed: the archive has the diff_id {packed.diff_id}, not "
            f"{layer.diff_id}",
            remedy="remove the image, and make it anew",
        )
    return packed


def left_out(
    layer: Layer, below: tuple[bytes, ...], userxattr: bool | None = None, ids: IdMap | None = None
) -> list[str]:
    """What LEFT_OUT shall say of *layer*: mount points of a start and the directories above them, where nothing else is
    in them. *below* are the trees under it, top first. A function of a module whose arguments can be pickled.
    """
    made = layer.extra.get(MADE) or ()
    if not made or not below:
        return []
    marks = not has_trusted_attributes() if userxattr is None else userxattr
    spec = MountSpec(below, layer.path, userxattr=marks)
    return [os.fsdecode(path) for path in idle(spec, map(os.fsencode, made))]
