"""Mounting a stack of directories, and nothing else: no policy of where directories are kept.

    mount(MountSpec(lowerdirs=(b"A", b"B"), upperdir=b"C", workdir=b"work"), "merged")
    umount("merged")

Two ways. The new mount API (fsopen(2), one `lowerdir+` for each layer; since Linux 6.8) has no limit but overlayfs'
own of 500 layers: paths that are relative or longer than the 255 bytes of a string parameter are handed over as
descriptors (since 6.13; by way of /proc/self/fd before), so the mount table shows them as absolute. mount(2) takes a
single page of options and cuts off the rest in silence: it is the fallback, and what does not fit is refused. Every
refusal is a MountError that says which directory, why, and what to do (`refusals`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from errno import E2BIG, EBADF, EINVAL, ENOSYS, EPERM
from functools import cache

from lamina.errors import InvalidInput, KernelError, Unsupported
from lamina.linux.call import syscall
from lamina.linux.constants import (
    AT_FDCWD,
    FSCONFIG_CMD_CREATE,
    FSCONFIG_SET_FD,
    FSCONFIG_SET_FLAG,
    FSCONFIG_SET_STRING,
    FSMOUNT_CLOEXEC,
    MNT_DETACH,
    MOUNT_ATTR_RDONLY,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_T_AUTOMOUNTS,
    MOVE_MOUNT_T_EMPTY_PATH,
    MOVE_MOUNT_T_SYMLINKS,
    MS_DIRSYNC,
    MS_LAZYTIME,
    MS_SYNCHRONOUS,
)
from lamina.linux.fd import Fd
from lamina.linux.mount import fsconfig, fsmessages, fsmount, fsopen, move_mount, umount2
from lamina.linux.mount import mount as mount2
from lamina.overlay.page import OPTION_PAGE, mount_flags, option_data
from lamina.overlay.refusals import (
    explain_attach,
    explain_refusal,
    explain_umount,
    fell_back_to_read_only,
    foresee,
)
from lamina.overlay.spec import MountSpec, renamed, string_value
from lamina.values import replace

Path = str | bytes | os.PathLike[str]

APIS = ("auto", "new", "mount2")

_OLD_OPTIONS = {"sync": MS_SYNCHRONOUS, "dirsync": MS_DIRSYNC, "lazytime": MS_LAZYTIME}


def mount(
    spec: MountSpec, target: Path, *, attributes: int = 0, api: str = "auto", source: Path = "overlay"
) -> None:
    """Mount the stack *spec* on the directory *target* (symbolic links are followed, as by mount(8)).

    *attributes* are MOUNT_ATTR flags of the mount; *source* is only a name for the mount table. *api* is "new",
    "mount2", or "auto": the new one where the kernel has it. Raises MountError when the stack cannot be mounted or
    would not do what it says (refusals.foresee), Unsupported when *api* is "new" and the kernel lacks it. Nothing is
    left mounted then.
    """
    if api not in APIS:
        raise InvalidInput(f"mount overlay: api is one of {', '.join(APIS)}, not {api!r}")
    _check_paths(spec, os.fsencode(target))
    if refusal := foresee(spec, target):
        raise refusal
    if api == "new" or (api == "auto" and _new_api_works(spec, target)):
        with _create(spec, target, attributes, source) as tree:
            attach(tree, target)
    else:
        _mount_the_old_way(spec, target, attributes, source)


def create(spec: MountSpec, *, attributes: int = 0, source: Path = "overlay") -> Fd:
    """The stack as a mount that is attached nowhere: a descriptor to work below, or to `attach`.

    It ends with its last descriptor unless attached. Raises MountError, and Unsupported where the kernel lacks the new
    mount API or its `lowerdir+` (before Linux 6.8).
    """
    _check_paths(spec)
    if refusal := foresee(spec):
        raise refusal
    return _create(spec, None, attributes, source)


def attach(tree: int, target: Path | int) -> None:
    """Attach what `create` made to the directory *target*, a path or a descriptor of it. Raises MountError."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS | MOVE_MOUNT_T_AUTOMOUNTS
    try:
        if isinstance(target, int):
            move_mount(tree, "", target, "", flags | MOVE_MOUNT_T_EMPTY_PATH)
        else:
            move_mount(tree, "", AT_FDCWD, target, flags)
    except KernelError as error:
        raise explain_attach(target, error.errno or 0) from error


def umount(target: Path, *, detach: bool = False) -> None:
    """Unmount what is mounted on *target*; with *detach* at once, even if in use, and it ends with its last user.

    The writable file system of a stack is synced, except for `volatile` stacks. Raises MountError.
    """
    try:
        umount2(target, MNT_DETACH if detach else 0)
    except KernelError as error:
        raise explain_umount(target, error.errno or 0) from error


@cache  # the answer does not change while the kernel runs; a refusal is no answer and not kept
def takes_layers_one_by_one() -> bool:
    """Whether this kernel's overlayfs has `lowerdir+` (Linux 6.8). Raises KernelError where fsopen(2) is refused."""
    try:
        context = fsopen("overlay")
    except KernelError as error:
        if error.errno == ENOSYS:
            return False
        raise
    with context:
        try:
            fsconfig(context, FSCONFIG_SET_FLAG, "lowerdir+", None)
        except KernelError:  # "Bad value" (it wants one) or "Unknown parameter" (6.5 to 6.7)
            return not any("Unknown parameter" in message for message in fsmessages(context))
    return False  # before 6.5 anything was written down and judged later


def _new_api_works(spec: MountSpec, target: Path) -> bool:
    try:
        return takes_layers_one_by_one()
    except KernelError as error:
        if error.errno == EPERM:  # or a seccomp filter that knows mount(2) only: that one will say what is so
            return False
        raise explain_refusal(spec, target, error.errno or 0, call=error.call) from error


def _create(spec: MountSpec, target: Path | None, attributes: int, source: Path) -> Fd:
    log: list[str] = []
    try:
        if not takes_layers_one_by_one():
            raise Unsupported(
                "mount overlay: this kernel's overlayfs does not take layers one by one (lowerdir+, Linux 6.8)",
                remedy="use api='auto' or 'mount2', which takes a page of options",
            )
        with _Context(fsopen("overlay"), log) as context, _lowest(spec, log) as lowest:
            context.configure(lowest, source)
            tree = fsmount(context.fd, FSMOUNT_CLOEXEC, attributes)
    except KernelError as error:
        raise explain_refusal(spec, target, error.errno or 0, log, call=error.call) from error
    if _silently_read_only(spec, tree, attributes):
        tree.close()
        raise fell_back_to_read_only(spec, target)
    return tree


@contextmanager
def _lowest(spec: MountSpec, log: list[str]) -> Iterator[MountSpec]:
    """*spec* with its lowest layer through an overlay of its own, where it contains the others: steps._nested_steps."""
    if not spec.takes_two:
        yield spec
        return
    with fsopen("tmpfs") as memory:
        fsconfig(memory, FSCONFIG_CMD_CREATE, None, None)
        empty = fsmount(memory, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY)
    with empty, _Context(fsopen("overlay"), log) as context:
        lowers = (spec.lowerdirs[-1], b"/proc/self/fd/%d" % empty)
        below = replace(spec, lowerdirs=lowers, upperdir=None, workdir=None, volatile=False, nested=False)
        context.configure(below, "overlay")
        base = fsmount(context.fd, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY)
    with base:
        yield replace(spec, lowerdirs=(*spec.lowerdirs[:-1], b"/proc/self/fd/%d" % base), nested=False)


def _silently_read_only(spec: MountSpec, place: Path | int, attributes: int) -> bool:
    """When the kernel cannot use the workdir it only warns, and mounts the stack read-only."""
    status = os.fstatvfs(place) if isinstance(place, int) else os.statvfs(place)
    wanted = bool(attributes & MOUNT_ATTR_RDONLY) or spec.upperdir is None
    return not wanted and bool(status.f_flag & os.ST_RDONLY)


class _Context:
    """A file system context of overlayfs that is being told about a stack. What the kernel says gathers in *log*."""

    def __init__(self, fd: Fd, log: list[str]) -> None:
        self.fd, self._log = fd, log
        self._takes_descriptors = True  # until it says no: Linux 6.13

    def __enter__(self) -> _Context:
        return self

    def __exit__(self, *_: object) -> None:
        with self.fd, suppress(OSError):
            self._log += fsmessages(self.fd)

    def configure(self, spec: MountSpec, source: Path) -> None:
        """Everything up to and with the creation of the file system."""
        fsconfig(self.fd, FSCONFIG_SET_STRING, "source", source)
        for key, paths in (
            (b"lowerdir+", spec.lowerdirs),
            (b"datadir+", spec.datadirs),
            (b"upperdir", _optional(spec.upperdir)),
            (b"workdir", _optional(spec.workdir)),
        ):
            for path in paths:
                self._directory(key, path)
        for flag in ("userxattr",) * spec.userxattr + ("volatile",) * spec.volatile:
            fsconfig(self.fd, FSCONFIG_SET_FLAG, flag, None)
        for option, setting in spec.options:
            if setting:
                fsconfig(self.fd, FSCONFIG_SET_STRING, option, setting)
            else:
                fsconfig(self.fd, FSCONFIG_SET_FLAG, option, None)
        fsconfig(self.fd, FSCONFIG_CMD_CREATE, None, None)

    def _directory(self, key: bytes, path: bytes) -> None:
        text = string_value(key, path)
        if text is not None and path.startswith(b"/"):
            # as fsconfig() does, hundreds of times: without a message for each
            syscall("fsconfig", self.fd, FSCONFIG_SET_STRING, key, text, 0, target=path)
            return
        with _opened(path) as directory:
            if self._takes_descriptors:
                try:
                    fsconfig(self.fd, FSCONFIG_SET_FD, key, None, directory)
                    return
                except KernelError as error:
                    if not self._refuses_descriptors(error):
                        raise
                    self._takes_descriptors = False
            # longer than a string may be, or shown in the mount table as the relative name it is
            fsconfig(
                self.fd, FSCONFIG_SET_STRING, key, b"/proc/self/fd/%d" % directory if text is None else text
            )

    def _refuses_descriptors(self, error: KernelError) -> bool:
        """Whether no descriptor is taken (before 6.13; at first none with O_PATH), rather than not this directory."""
        if error.errno == EBADF:
            return True
        messages = fsmessages(self.fd)
        if error.errno == EINVAL and any("Bad value for" in message for message in messages):
            return True
        self._log += messages
        return False


def _check_paths(spec: MountSpec, *others: bytes) -> None:
    given = [*spec.lowerdirs, *spec.datadirs, *_optional(spec.upperdir), *_optional(spec.workdir), *others]
    for path in given:
        if not path or b"\0" in path:
            raise InvalidInput(f"mount overlay: {path!r} is not a path")


def _optional(path: bytes | None) -> Sequence[bytes]:
    return () if path is None else (path,)


def _opened(path: bytes) -> Fd:
    try:
        return Fd(os.open(path, os.O_PATH | os.O_CLOEXEC))
    except OSError as error:
        raise KernelError("open", error.errno or 0, os.fsdecode(path)) from None


def _mount_the_old_way(spec: MountSpec, target: Path, attributes: int, source: Path) -> None:
    flags = mount_flags(attributes) | sum(_OLD_OPTIONS.get(key, 0) for key, _ in spec.options)
    plain = replace(spec, options=tuple(option for option in spec.options if option[0] not in _OLD_OPTIONS))
    data = option_data(_absolute(plain))  # the mount table then shows where the layers are
    if len(data) > OPTION_PAGE:
        data = option_data(plain)
    if len(data) > OPTION_PAGE:
        raise explain_refusal(spec, target, E2BIG, call="mount")
    try:
        mount2(source, target, "overlay", flags, data)
    except KernelError as error:
        raise explain_refusal(spec, target, error.errno or 0, call="mount") from error
    if _silently_read_only(spec, target, attributes):
        umount(target)
        raise fell_back_to_read_only(spec, target)


def _absolute(spec: MountSpec) -> MountSpec:
    """The same stack with absolute paths, as far as they lead to the same directories."""

    def absolute(path: bytes) -> bytes:
        if path.startswith(b"/"):
            return path
        try:
            full = os.path.join(os.getcwdb(), path)
            return full if os.path.samefile(full, path) else path
        except OSError:
            return path

    return renamed(spec, absolute)
