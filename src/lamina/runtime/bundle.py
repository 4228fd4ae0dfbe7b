"""What the runtime is given: a specification and a root file system. It knows nothing of images or stores."""

from __future__ import annotations

from lamina.overlay.spec import MountSpec
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Spec = dict[str, Any]


@value
class Bundle:
    """A container before it runs.

    `spec` is the OCI runtime specification's config.json as a plain dict. `rootfs` is a stack to mount, or a directory.
    `merged` is an empty directory of the host where the root is attached, seen by the container's own mount namespace
    only. `overlays` are further stacks, each with its place in the container, parents before children. `readonly` are
    host paths bound read-only at the same place inside (what cannot be overlaid). `attributes` are mount options of
    all of these. `hide` are directories inside that are covered with an empty read-only one. With `init` process 1 is
    a minimal init (runtime/init), and the specification's process its child.
    """

    spec: Spec
    rootfs: MountSpec | bytes
    merged: bytes
    overlays: tuple[tuple[bytes, MountSpec], ...] = ()
    readonly: tuple[bytes, ...] = ()
    hide: tuple[bytes, ...] = ()
    attributes: tuple[str, ...] = ()
    init: bool = False


# a standard stream of the container that is its null device
NULL = -1


@value
class Wiring:
    """The host's descriptors and answers that a plan needs; descriptors are above 2 and belong to the caller.

    `stdin`, `stdout` and `stderr` may be NULL. `channel` is the child's end of a socket pair: it carries the terminal's
    master and the word that id maps are written, and its other end tells both sides of each other's death. `tasks` are
    cgroup v1 `tasks` files open for writing, `cgroup` a cgroup v2 directory or -1. `seccomp` is a compiled filter.
    `launcher` is the program that executes the command (runtime/init); with -1 the process executes it itself, and a
    script of the container gets at whatever program started it. `files` are the bind sources that are not directories.
    `limits` are the rlimits to set: (number, soft, hard).
    """

    channel: int
    stdin: int
    stdout: int
    stderr: int
    tasks: tuple[int, ...] = ()
    controllers: tuple[bytes, ...] = ()
    cgroup: int = -1
    seccomp: bytes = b""
    launcher: int = -1
    files: frozenset[bytes] = frozenset()
    limits: tuple[tuple[int, int, int], ...] = ()
    last_cap: int = 40
    setgroups: bool = True
    lowerdir_plus: bool = True
    die_with_parent: bool = True
