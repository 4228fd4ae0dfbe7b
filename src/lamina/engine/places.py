"""What a container stands on, as values: which overlay comes where, what is beside them, and what is said of it."""

from __future__ import annotations

from lamina.values import value

COPY = "copy"
DIRECTORY, FILE, SPECIAL, CLOSED, GONE = "directory", "file", "special", "closed", "gone"


TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.engine.translate import ImageConfig
    from lamina.runtime.users import ReadFile


@value
class Place:
    """An overlay to come: the lower directory *lower* of the host appears at *at*; not `writable`: without an upper.

    With a `skeleton` number the lower is that skeleton instead, which stands in for *lower*. `below` are further lower
    directories under it, top first. `lasting`: they never change, so nobody need look whether they have.
    """

    at: bytes
    lower: bytes
    writable: bool = True
    skeleton: int | None = None
    below: tuple[bytes, ...] = ()
    lasting: bool = False


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


@value
class Base:
    """What a container stands on. `image` are its files, `config` says how to run it, `read` reads a file of its own,
    such as /etc/passwd. Of an image of the store, `id` is its name there, and `layers` are those that a container
    over it needs, base first.
    """

    image: HostImage
    config: ImageConfig
    read: ReadFile
    id: str = ""
    layers: tuple[str, ...] = ()
