"""What the runtime is given: a specification and a root file system. It knows nothing of images or stores."""

from __future__ import annotations

from lamina.errors import InvalidInput
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.linux.fd import Fd
    from lamina.linux.packed import Reg
    from lamina.overlay.spec import MountSpec

    Spec = dict[str, Any]


@value
class Bundle:
    """A container before it runs.

    `spec` is the OCI runtime specification's config.json as a plain dict. `rootfs` is a stack to mount, or a directory.
    `merged` is an empty directory of the host where the root is attached, seen by the container's own mount namespace
    only. `overlays` are further stacks, each with its place in the container, parents before children. `readonly` are
    host paths bound read-only at the same place inside (what cannot be overlaid). `attributes` are mount options of
    all of these. `hide` are directories inside that are covered with an empty read-only one.

    `identity` is what tells this container's paths and names from those of another that is otherwise the same.
    `directory` is the bundle's own, which relative sources of bind mounts belong to. With `init` process 1 is a minimal
    init (runtime/init), and the specification's process its child. With `no_pivot` the root is moved over "/" and
    entered by chroot(2), for hosts whose root cannot be pivoted (an initramfs). Without `new_keyring` the process stays
    in the caller's session keyring. `parts` are (destination, path) of bind mounts that show a directory within their
    source: nothing in there, which may be anybody's, leads out of it. `given` are (destination, descriptor) of those
    that the caller has made already, attached nowhere; they stay the caller's.

    Of a container in a user namespace of its own (runtime/stacks): with `mapped` the files of its stacks are seen with
    the ids of that namespace, so id 0 on disk is its id 0. `outer` are `uidMappings` and `gidMappings` of another
    one, in which an ordinary user's mounts are made because the container's own could not reach what they are made of.

    With `networked` it waits, early in its start, until `connect` has made its links: called with its pid and a route
    netlink socket of its new network namespace.
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
    directory: bytes = b""
    no_pivot: bool = False
    new_keyring: bool = True
    parts: tuple[tuple[bytes, bytes], ...] = ()
    networked: bool = False
    connect: Callable[[int, Fd], None] | None = None
    given: tuple[tuple[bytes, int], ...] = ()
    mapped: bool = False
    outer: dict[str, list[dict[str, int]]] | None = None


def absolute(source: bytes, directory: bytes) -> bytes:
    """A bind mount's source: a relative one is meant from the bundle on (config.md, Mounts)."""
    if source.startswith(b"/") or not source:
        return source
    if not directory:
        raise InvalidInput(
            f"bind {source.decode(errors='replace')}: a relative path, and it is not said from where"
        )
    return directory + b"/" + source


# no descriptor; as a standard stream, the container's own null device
NULL = -1
# every capability there is or will be
ALL_CAPABILITIES = (1 << 64) - 1


@value
class Joined:
    """A namespace that exists and is to be joined: its kind in the specification's words, and a descriptor of it.

    `fd` is -1 when it is the caller's own: then there is nothing to do. `outside` says that it belongs to a user
    namespace other than the one that the container joins: it must be entered with the caller's own privileges.
    """

    kind: str
    fd: int
    outside: bool = False


@value
class Wiring:
    """The host's descriptors and answers that a plan needs; descriptors are above 2 and belong to the caller. As a
    register, a descriptor is one of the same name that the caller gives when the plan is walked.

    `stdin`, `stdout` and `stderr` may be NULL. `channel` is the child's end of a socket pair: it carries descriptors
    and the words of `Plan.waits`, and its other end tells both sides of each other's death;
    `far` is the child's copy of that end, if it has one. `tasks` are cgroup v1
    `tasks` files open for writing, `controllers` their hierarchies' names ("memory", "cpu,cpuacct", "name=systemd"),
    `places` the container's own directories in these, or in the one of `cgroup`, a cgroup v2 directory or -1.
    `seccomp` is a compiled filter, `seccomp_flags` are seccomp(2)'s. `launcher` is the program that executes the
    command (runtime/init), and NULL for a process that begins as one. `limits` are the rlimits to set: (number, soft,
    hard). `permitted` are the capabilities that the caller has to give, as bits; `mknod`: device nodes can be made.

    Of bind sources, as they are in the specification: `files` are those that are not directories, `procfs` those that
    are the root of a procfs. `trees` are detached mounts that the caller made because the new process may not: register
    and descriptor. `id_maps` are user namespaces for id-mapped mounts: index of the mount and descriptor. `namespaces`
    are those to join. `proc` is a procfs over which nobody has mounted anything, or NULL where nothing is written to
    it. `modules` are the security modules that run, of those that take labels. `nodes` are the host's device nodes to
    bind, each looked at: path, "c" or "b", major, minor. `release` is the kernel's.
    """

    channel: int | Reg
    stdin: int | Reg
    stdout: int | Reg
    stderr: int | Reg
    tasks: tuple[int | Reg, ...] = ()
    controllers: tuple[bytes, ...] = ()
    places: tuple[bytes, ...] = ()
    cgroup: int = -1
    seccomp: bytes = b""
    seccomp_flags: int = 0
    launcher: int | Reg = NULL
    files: frozenset[bytes] = frozenset()
    procfs: frozenset[bytes] = frozenset()
    trees: tuple[tuple[str, int], ...] = ()
    id_maps: tuple[tuple[int, int], ...] = ()
    namespaces: tuple[Joined, ...] = ()
    proc: int | Reg = NULL
    modules: frozenset[str] = frozenset()
    nodes: frozenset[tuple[str, str, int, int]] = frozenset()
    limits: tuple[tuple[int, int, int], ...] = ()
    last_cap: int = 40
    permitted: int = ALL_CAPABILITIES
    mknod: bool = True
    setgroups: bool = True
    lowerdir_plus: bool = True
    release: tuple[int, int] = (6, 12)
    die_with_parent: bool = True
    far: int | Reg = NULL

    @property
    def given(self) -> tuple[Reg, ...]:
        """The registers among the descriptors, in a fixed order."""
        every = (
            self.channel,
            self.stdin,
            self.stdout,
            self.stderr,
            self.launcher,
            self.proc,
            *self.tasks,
            self.far,
        )
        return tuple(fd for fd in every if not isinstance(fd, int))
