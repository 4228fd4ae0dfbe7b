"""What an overlay mount consists of, as a value: whoever knows what to mount returns one, one place mounts it."""

from __future__ import annotations

from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    T = TypeVar("T")

# fsconfig(2): a string value is at most 256 bytes with its NUL; longer paths go by descriptor
LONGEST_STRING = 255
MOST_LAYERS = 500  # OVL_MAX_STACK in fs/overlayfs/params.h
# Said, not left to the kernel's build: nobody else's redirects are followed, whole files are copied up, and a lower
# that was moved, or restored from a backup, fits (overlayfs.rst, "redirect_dir", "Metadata only copy up", "index")
_STEADY = (("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off"))


@value
class MountSpec:
    """A stack of directories.

    The order is the kernel's `lowerdir=` order: `lowerdirs[0]` is the topmost lower layer. Paths are bytes, absolute
    or relative to the caller's working directory, and never escaped. Without `upperdir` the stack is read-only.
    `datadirs` are data-only layers (overlayfs.rst, "Data-only lower layers"). `userxattr` keeps overlayfs' own
    metadata in `user.overlay.*` instead of `trusted.overlay.*` (needed in a user namespace). `volatile` never syncs.
    `options` are the remaining mount options in order, such as `("redirect_dir", "on")`; a bare flag has the value "".
    `nested`: the lowest of several lower layers contains the others, which overlayfs lets an upper do alone (ELOOP); so
    it is taken through a read-only overlay of its own, which stacks one file system more.
    """

    lowerdirs: tuple[bytes, ...]
    upperdir: bytes | None = None
    workdir: bytes | None = None
    datadirs: tuple[bytes, ...] = ()
    userxattr: bool = False
    volatile: bool = False
    options: tuple[tuple[str, str], ...] = ()
    nested: bool = False

    @property
    def takes_two(self) -> bool:
        """Whether its lowest layer has to be taken through an overlay of its own."""
        return self.nested and len(self.lowerdirs) > 1


def top_first(base_first: Sequence[T]) -> tuple[T, ...]:
    """The layers of an image in the kernel's order. OCI lists the base first; nobody else turns it round.

    A layer that is in an image several times (empty ones are, for each step that changed nothing) counts where it is
    topmost: whatever it says is said there already, and the kernel takes no directory twice (ELOOP).
    """
    return tuple(dict.fromkeys(reversed(base_first)))


def steady_options(userxattr: bool) -> tuple[tuple[str, str], ...]:
    """What every stack of Lamina's own is mounted with; with `userxattr` the kernel knows no other way."""
    return () if userxattr else _STEADY


def renamed(spec: MountSpec, name: Callable[[bytes], bytes]) -> MountSpec:
    """The same stack with each of its paths as *name* gives it."""
    return replace(
        spec,
        lowerdirs=tuple(map(name, spec.lowerdirs)),
        datadirs=tuple(map(name, spec.datadirs)),
        upperdir=None if spec.upperdir is None else name(spec.upperdir),
        workdir=None if spec.workdir is None else name(spec.workdir),
    )


def string_value(key: bytes, path: bytes) -> bytes | None:
    """*path* as the string value of fsconfig(2)'s parameter *key*; None if it is longer than a string may be.

    Even here overlayfs unescapes upperdir and workdir (`\\` only protects what follows it), but not lowerdir+ and
    datadir+.
    """
    text = path.replace(b"\\", b"\\\\") if key in (b"upperdir", b"workdir") else path
    return text if len(text) <= LONGEST_STRING else None
