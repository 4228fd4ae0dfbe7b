"""The root of a container that does not run, mounted for a moment: its stack, and in it what it has from elsewhere.

It is mounted in a mount namespace of its own, which one thread of ours makes and which lasts as long as somebody holds
its descriptor. So nobody else sees these mounts, nothing is left of them if this program is killed, and neither this
process nor any of its other threads is moved: unshare(2) with CLONE_NEWNS concerns the calling thread alone.

    with Standing(stood, write=True) as root:
        openat2(root, b"etc/motd", ..., resolve=RESOLVE_IN_ROOT)
"""

from __future__ import annotations

import os
import threading
from errno import ENOENT
from stat import S_ISDIR

from lamina.engine.in_root import INSIDE
from lamina.errors import KernelError, NotFound
from lamina.linux.constants import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    CLONE_NEWNS,
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_RDONLY,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_T_EMPTY_PATH,
    MS_PRIVATE,
    MS_REC,
    OPEN_TREE_CLONE,
    PR_SET_SECUREBITS,
    SECBIT_NO_SETUID_FIXUP,
)
from lamina.linux.fd import Fd
from lamina.linux.files import openat2
from lamina.linux.mount import mount, mount_setattr, move_mount, open_tree
from lamina.linux.namespaces import unshare
from lamina.linux.process import prctl, setfsgid, setfsuid
from lamina.overlay import mount as overlays
from lamina.overlay.spec import MOST_LAYERS, MountSpec
from lamina.runtime.bundle import Bundle
from lamina.runtime.id_maps import mapped_namespace
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.engine.within import Maps

_DIRECTORY = os.O_PATH | os.O_DIRECTORY


@value
class Beside:
    """Something that is mounted at *target* of the container: a directory or file of this system, or a stack.

    `part` is the directory within the source that is shown, b"" for all of it. `mapped`: with the ids of `Stood.ids`.
    """

    target: bytes
    source: bytes | MountSpec
    part: bytes = b""
    read_only: bool = False
    mapped: bool = False


@value
class Stood:
    """What a root consists of. `place` is an empty directory to mount on; `owner` has what is made to mount on. `ids`
    are the id maps with which the stack is seen (runtime/stacks), None for none.
    """

    stack: MountSpec
    mounts: tuple[Beside, ...]
    place: bytes
    read_only: bool = False
    owner: tuple[int, int] = (0, 0)
    ids: Maps | None = None


class Standing:
    """That root, for a `with`, which gives its descriptor. Raises MountError, KernelError, NotFound for a source that
    is gone.
    """

    def __init__(self, stood: Stood, *, write: bool) -> None:
        """Without *write* the stack has no writable layer, and what is to be mounted where nothing is is left out."""
        self._stood, self._write = stood, write
        self._failure: BaseException | None = None
        self._root: Fd | None = None
        self._namespace: Fd | None = None
        self._mapping: Fd | None = None

    def __enter__(self) -> Fd:
        making = threading.Thread(target=self._make, name="lamina-root", daemon=True)
        making.start()
        making.join()
        failure, self._failure = self._failure, None
        if failure is not None:
            self.__exit__()
            raise failure
        assert self._root is not None
        return self._root

    def __exit__(self, *_: object) -> None:
        """Let go: with its last user the stack is unmounted, and what was written is on the disk."""
        for held in (self._root, self._namespace, self._mapping):
            if held is not None:
                held.close()

    def _make(self) -> None:
        """In a thread that ends with this."""
        try:
            unshare(CLONE_NEWNS)
            self._namespace = Fd(os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))
            mount(None, "/", None, MS_REC | MS_PRIVATE)
            stood = self._stood
            # the layers are found by names of ours; what is mounted in the root by the kernel's look-up inside it
            if stood.ids is not None:
                self._mapping = mapped_namespace(stood.ids["uidMappings"], stood.ids["gidMappings"])
            self._mount_stack()
            self._root = Fd(os.open(stood.place, _DIRECTORY | os.O_CLOEXEC))
            for beside in sorted(stood.mounts, key=lambda beside: beside.target.count(b"/")):
                self._mount(beside, self._root)
            if stood.read_only:
                mount_setattr(self._root, "", AT_EMPTY_PATH, attr_set=MOUNT_ATTR_RDONLY)
        except BaseException as failure:
            self._failure = failure

    def _mount_stack(self) -> None:
        stood = self._stood
        if self._mapping is None:
            overlays.mount(self._stack(), stood.place)
            return
        from lamina.runtime.facts import process_facts
        from lamina.runtime.stacks import mapped_stacks

        bundle = Bundle(spec={}, rootfs=self._stack(), merged=stood.place, mapped=True)
        ((_, tree),) = mapped_stacks(bundle, self._mapping, stood.owner, process_facts({}, {}))
        with tree:
            move_mount(tree, "", AT_FDCWD, stood.place, MOVE_MOUNT_F_EMPTY_PATH)
        # what is made to mount on is the container's root's: nobody else could make anything there. This thread alone
        prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
        setfsgid(stood.owner[1])
        setfsuid(stood.owner[0])

    def _stack(self) -> MountSpec:
        stack = self._stood.stack
        if self._write or stack.upperdir is None or len(stack.lowerdirs) >= MOST_LAYERS:
            return stack
        # its marks mean the same in a lower layer
        return replace(stack, lowerdirs=(stack.upperdir, *stack.lowerdirs), upperdir=None, workdir=None)

    def _mount(self, beside: Beside, root: Fd) -> None:
        source = beside.source
        if isinstance(source, MountSpec):
            if (target := self._target(root, beside.target, directory=True)) is not None:
                with target:
                    overlays.mount(source, b"/proc/self/fd/%d" % target)
            return
        try:
            with Fd(os.open(source, os.O_PATH | os.O_CLOEXEC)) as whole:
                shown = openat2(whole, beside.part, os.O_PATH, resolve=INSIDE) if beside.part else whole
                is_directory = S_ISDIR(os.fstat(shown).st_mode)
                tree = open_tree(shown, "", OPEN_TREE_CLONE | AT_RECURSIVE | AT_EMPTY_PATH)
        except OSError as error:
            if error.errno != ENOENT:
                raise
            raise NotFound(
                f"mount {os.fsdecode(source)} at {os.fsdecode(beside.target)}: it is not there any more",
                remedy="make it again, or copy what you need from where it is",
            ) from error
        with tree:
            if beside.mapped and self._mapping is not None:
                mount_setattr(
                    tree, "", AT_EMPTY_PATH | AT_RECURSIVE, attr_set=MOUNT_ATTR_IDMAP, userns_fd=self._mapping
                )
            if beside.read_only:
                mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, attr_set=MOUNT_ATTR_RDONLY)
            if (target := self._target(root, beside.target, directory=is_directory)) is not None:
                with target:
                    move_mount(tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)

    def _target(self, root: Fd, path: bytes, *, directory: bool) -> Fd | None:
        """Where to mount. What is missing of it is made, as a start would; None where nothing may be made."""
        inner = path.lstrip(b"/") or b"."
        try:
            return openat2(root, inner, os.O_PATH, resolve=INSIDE)
        except KernelError as error:
            if error.errno != ENOENT:
                raise
        if not self._write:
            return None
        names = [name for name in inner.split(b"/") if name and name != b"."]
        for number, name in enumerate(names):
            last = number == len(names) - 1
            above = b"/".join(names[:number]) or b"."
            with openat2(root, above, _DIRECTORY, resolve=INSIDE) as parent:
                self._make_target(parent, name, directory=directory or not last)
        return openat2(root, inner, os.O_PATH, resolve=INSIDE)

    def _make_target(self, parent: Fd, name: bytes, *, directory: bool) -> None:
        try:
            if directory:
                os.mkdir(name, 0o755, dir_fd=parent)
            else:
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644, dir_fd=parent))
        except FileExistsError:
            return
        mode = 0o755 if directory else 0o644
        with Fd(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)) as made:
            place = b"/proc/self/fd/%d" % made
            os.chown(place, *self._stood.owner)
            os.chmod(place, mode)
