"""What the image `host` consists of, as values: which overlay comes where, and what is beside them."""

from __future__ import annotations

from lamina.values import value

COPY = "copy"
DIRECTORY, FILE, SPECIAL, CLOSED, GONE = "directory", "file", "special", "closed", "gone"


@value
class Place:
    """An overlay to come: the lower directory *lower* of the host appears at *at*; not `writable`: without an upper.

    With a `skeleton` number the lower is that skeleton instead, which stands in for *lower*.
    """

    at: bytes
    lower: bytes
    writable: bool = True
    skeleton: int | None = None


@value
class Stub:
    """An entry of a skeleton: a "directory", an empty "file", a "copy" of the host's, or a "link" to `target`.

    `path` is the host's.
    """

    skeleton: int
    path: bytes
    kind: str
    mode: int = 0
    target: bytes = b""


@value
class HostImage:
    """What the host consists of, parents first. `places[0]` is the root.

    `readonly` are host paths to bind read-only; `hide` directories to cover; `stubs` the entries of skeletons;
    `warnings` sentences for the user, naming what is not as on the host.
    """

    places: tuple[Place, ...]
    readonly: tuple[bytes, ...] = ()
    hide: tuple[bytes, ...] = ()
    stubs: tuple[Stub, ...] = ()
    warnings: tuple[str, ...] = ()
