"""What the runtime is given: a specification and a root file system. It knows nothing of images or stores."""

from __future__ import annotations

from lamina.overlay.spec import MountSpec
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.linux.packed import Reg

    Spec = dict[str, Any]


@value
class Bundle:
    """A container before it runs.

    `spec` is the OCI runtime specification's config.json as a plain dict. `rootfs` is a stack to mount, or a directory.
    `merged` is an empty directory of the host where the root is attached, seen by the container's own mount namespace
    only. `overlays` are further stacks, each with its place in the container, parents before children. `readonly` are
    host paths bound read-only at the same place inside (what cannot be overlaid). `attributes` are mount options of
    all of these. `hide` are directories inside that are covered with an empty read-only one. `identity` is what tells
    this container's paths and names from those of another that is otherwise the same. With `init` process 1 is a
    minimal init (runtime/init), and the specification's process its child.
    """

    spec: Spec
    rootfs: MountSpec | bytes
    merged: bytes
    overlays: tuple[tuple[bytes, MountSpec], ...] = ()
    readonly: tuple[bytes, ...] = ()
    hide: tuple[bytes, ...] = ()
    attributes: tuple[str, ...] = ()
    identity: bytes = b""
    init: bool = False


# no descriptor; as a standard stream, the container's own null device
NULL = -1


@value
class Wiring:
    """The host's descriptors and answers that a plan needs; descriptors are above 2 and belong to the caller. As a
    register, a descriptor is one of the same name that the caller gives when the plan is walked.

    `stdin`, `stdout` and `stderr` may be NULL. `channel` is the child's end of a socket pair: it carries the terminal's
    master and the word that id maps are written, and its other end tells both sides of each other's death. `tasks` are
    cgroup v1 `tasks` files open for writing, `cgroup` a cgroup v2 directory or -1. `seccomp` is a compiled filter.
    `launcher` is the program that executes the command (runtime/init); with NULL the process executes it itself, and a
    script of the container gets at whatever program started it. `files` are the bind sources that are not directories.
    `limits` are the rlimits to set: (number, soft, hard).
    """

    channel: int | Reg
    stdin: int | Reg
    stdout: int | Reg
    stderr: int | Reg
    tasks: tuple[int | Reg, ...] = ()
    controllers: tuple[bytes, ...] = ()
    cgroup: int = -1
    seccomp: bytes = b""
    launcher: int | Reg = NULL
    files: frozenset[bytes] = frozenset()
    limits: tuple[tuple[int, int, int], ...] = ()
    last_cap: int = 40
    setgroups: bool = True
    lowerdir_plus: bool = True
    die_with_parent: bool = True

    @property
    def given(self) -> tuple[Reg, ...]:
        """The registers among the descriptors, in a fixed order."""
        every = (self.channel, self.stdin, self.stdout, self.stderr, self.launcher, *self.tasks)
        return tuple(fd for fd in every if not isinstance(fd, int))
