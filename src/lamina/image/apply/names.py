"""What an entry's name means: a path below the root, or one of the marks of a layer. OCI image-spec, layer.md."""

from __future__ import annotations

from lamina.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.image.tar.limits import Limits

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
# aufs' own files begin like this and are no whiteouts; the files in this directory are the others' hard links
AUFS = b".wh..wh."
AUFS_LINKS = b".wh..wh.plnk"
NAME_MAX = 255  # linux/limits.h


def parts_of(name: bytes, limits: Limits) -> list[bytes]:
    """The names on the way to an entry; a leading "/" means the root of the layer. Raises InvalidInput."""
    parts = [part for part in name.split(b"/") if part and part != b"."]
    if b".." in parts:
        raise InvalidInput(
            f"unpack layer: the path {name!r} goes up", remedy="the archive is malformed, or hostile"
        )
    if len(parts) > limits.depth:
        limits.exceeded("depth", f"a path {len(parts)} levels deep")
    for part in parts:
        if len(part) > NAME_MAX + (len(WHITEOUT) if part[:4] == WHITEOUT else 0):
            raise InvalidInput(
                f"unpack layer: the name {part[:40]!r}... has {len(part)} bytes, the kernel takes {NAME_MAX}"
            )
    return parts


def hidden_by(base: bytes, name: bytes) -> bytes:
    """What the whiteout called *base* hides. Raises InvalidInput for one that hides nothing that can exist."""
    hidden = base[len(WHITEOUT) :]
    if hidden in (b"", b".", b".."):
        raise InvalidInput(f"unpack layer: the whiteout {name!r} hides what cannot be hidden")
    return hidden
