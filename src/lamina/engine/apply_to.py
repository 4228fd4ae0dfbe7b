"""An ordinary directory that is like one state made like another.

First everything is looked at: what would be changed must be as the first state has it (times aside: copies seldom have
these), or already as the second does. Then each path is changed by one rename (`overlay.apply`), and what fails in
between leaves the others changed and none half: the same call goes on there.
"""

from __future__ import annotations

import errno
import os
import stat

from lamina.engine.textdiff import trees_of
from lamina.errors import Conflict, InvalidInput, KernelError
from lamina.linux.constants import AT_FDCWD, RESOLVE_NO_SYMLINKS
from lamina.linux.fd import Fd
from lamina.linux.files import openat2
from lamina.overlay.apply import Target
from lamina.overlay.changes import Entry, entry_of
from lamina.overlay.copying import GIVEN, same_content
from lamina.overlay.lookup import open_beneath
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lamina.engine.apply.values import HostChange
    from lamina.overlay.changes import Change
    from lamina.overlay.spec import MountSpec
    from lamina.overlay.tree import Tree

SHOWN = 20
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # nothing there, or something else on the way


@value
class AppliedTo:
    """What was done to a directory: `changed` paths, those that were `already` so, and those of the changed ones that
    were `forced` although they were not as the first state has them. Absolute in the state, in the order of the tree.
    """

    changed: tuple[bytes, ...]
    already: tuple[bytes, ...] = ()
    forced: tuple[bytes, ...] = ()


def apply_to(changes: Sequence[HostChange], directory: bytes, *, force: bool = False) -> AppliedTo:
    """Make the tree of *directory* what *changes* lead to. With *force* also where it is not what they begin with.
    *directory* is as of `check_directory`: no symbolic link is followed to it, which somebody has put there since.

    Raises Conflict naming what is not so, before anything is changed; KernelError; OSError (no room, no permission).
    """
    try:
        root = openat2(AT_FDCWD, directory, os.O_RDONLY | os.O_DIRECTORY, resolve=RESOLVE_NO_SYMLINKS)
    except KernelError as error:
        raise KernelError("apply changes to", error.errno or 0, os.fsdecode(directory)) from None
    # times of the directory itself are its own: something came or went in it
    changes = [change for change in changes if change.change.path or not change.incidental]
    places = _Places(root)
    with root:
        try:
            found = [places.look(change) for change in changes]
            known = {change.path for change in changes}
            wrong = [
                clash for change, state in zip(changes, found, strict=True)
                for clash in places.clashes(change, state, known)
            ]  # fmt: skip
            if wrong and not force:
                raise _refused(directory, wrong)
            changed, already = places.carry_out(changes, found, force)
        finally:
            places.close()
    return AppliedTo(tuple(changed), tuple(already), tuple(path for path, _ in wrong))


def _refused(directory: bytes, wrong: list[tuple[bytes, str]]) -> Conflict:
    count = "1 path is" if len(wrong) == 1 else f"{len(wrong):,} paths are"
    lines = [f"apply changes to {os.fsdecode(directory)}: {count} not as the first state has them"]
    lines += [f"  {os.fsdecode(path)}: {why}" for path, why in wrong[:SHOWN]]
    if len(wrong) > SHOWN:
        lines.append(f"  and {len(wrong) - SHOWN:,} more")
    return Conflict("\n".join(lines), remedy="--force changes them nevertheless; nothing was changed")


# what a path of the directory is like
AS_BEFORE, ALREADY, MISSING, UNKNOWN = "", "already", "missing", "there, and not in the first state"


class _Places:
    """The directory's parts, one for each place of the states, and the trees to take files from."""

    def __init__(self, root: Fd) -> None:
        self._root = root
        self._targets: dict[bytes, tuple[Fd, Target]] = {}
        self._trees: dict[tuple[MountSpec | None, MountSpec], tuple[Tree, Tree]] = {}

    def close(self) -> None:
        for fd, target in self._targets.values():
            target.close()
            fd.close()
        for both in self._trees.values():
            for tree in both:
                tree.close()

    def finish(self) -> None:
        for _, target in self._targets.values():
            target.finish()

    def _target(self, change: HostChange) -> tuple[Fd, Target]:
        found = self._targets.get(change.mountpoint)
        if found is None:
            fd = open_beneath(self._root, change.mountpoint.strip(b"/"), os.O_RDONLY | os.O_DIRECTORY)
            found = self._targets[change.mountpoint] = fd, Target(fd)
        return found

    def _both(self, change: HostChange) -> tuple[Tree, Tree]:
        pair = change.base, change.spec
        if pair not in self._trees:
            self._trees[pair] = trees_of(*pair)
        return self._trees[pair]

    # -- looking

    def look(self, change: HostChange) -> str:
        """AS_BEFORE, ALREADY, or in words what the path is instead."""
        held = self._held(change)
        if held is None:
            return ALREADY if change.after is None else AS_BEFORE if change.before is None else MISSING
        with held:
            before, after = self._both(change)
            path = b"/" + change.change.path
            if change.after is not None and not _differs(held, change.after, after / path):
                return ALREADY
            if change.before is None:
                return UNKNOWN
            return _differs(held, change.before, before / path)

    def _held(self, change: HostChange) -> Fd | None:
        try:
            return open_beneath(self._target(change)[0], change.change.path, os.O_PATH)
        except KernelError as error:
            if error.errno not in _GONE:
                raise
            return None

    def clashes(self, change: HostChange, state: str, known: set[bytes]) -> Iterator[tuple[bytes, str]]:
        """What of the directory is not as the first state has it, as far as *change* is concerned."""
        if state not in (AS_BEFORE, ALREADY):
            yield change.path, state
        elif state == AS_BEFORE and _is_directory(change.before) and not _is_directory(change.after):
            yield from self._further(change, known)

    def _further(self, change: HostChange, known: set[bytes]) -> Iterator[tuple[bytes, str]]:
        """What is in a directory that goes, and was not in the first state: nobody said that it may go."""
        held = self._held(change)
        if held is None:
            return
        with held, Fd(os.open(b"/proc/self/fd/%d" % held, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as fd:
            for name in sorted(map(os.fsencode, os.listdir(fd))):
                path = change.path + b"/" + name
                if path not in known:
                    yield path, UNKNOWN

    # -- changing

    def carry_out(
        self, changes: Sequence[HostChange], states: list[str], force: bool
    ) -> tuple[list[bytes], list[bytes]]:
        """Make all of *changes*; what was changed, and what was so already. Where one fails, those before it stay, with
        the attributes that they shall have.
        """
        changed: list[bytes] = []
        already: list[bytes] = []
        try:
            for change, state in zip(changes, states, strict=True):
                if state == ALREADY:
                    already.append(change.path)
                    self.date(change)
                elif self.apply(change, force=force):
                    changed.append(change.path)
        except BaseException as failure:
            failure.add_note(f"{len(changed):,} paths were changed before; the same command goes on there")
            try:
                self.finish()
            except Exception as second:
                failure.add_note(f"while giving directories their attributes: {second}")
            raise
        self.finish()
        return changed, already

    def apply(self, change: HostChange, *, force: bool) -> bool:
        """Change one path; whether there was anything to do. Raises OSError."""
        target = self._target(change)[1]
        found = change.change
        if force:
            adapted = self._adapted(change)
            if adapted is None:
                return False
            found = adapted
        target.apply(found, self._both(change)[1])
        return True

    def date(self, change: HostChange) -> None:
        """Give what is already as wanted the times as well."""
        if change.kind == "changed" and "times" in change.what:
            found = change.change._replace(what=frozenset({"times"}), link_to=None)
            self._target(change)[1].apply(found, self._both(change)[1])

    def _adapted(self, change: HostChange) -> Change | None:
        """The change from what there is, whatever it is, to what is wanted; None where nothing is to be done."""
        held = self._held(change)
        found, after = change.change, change.after
        if held is None:
            if after is None:
                return None
            return found._replace(kind="added", what=frozenset(), before=None, link_to=self._linked(change))
        with held:
            status = os.fstat(held)
        is_directory = stat.S_ISDIR(status.st_mode)
        if after is None:
            return found._replace(implied=True)
        if is_directory and after.type == "directory":
            return found._replace(kind="changed", what=frozenset({"mode"}), link_to=None)
        return found._replace(kind="replaced", what=frozenset(), link_to=self._linked(change))

    def _linked(self, change: HostChange) -> bytes | None:
        """The other name of the file, if the directory has it as the second state does."""
        to = change.change.link_to
        if to is None:
            return None
        try:
            with open_beneath(self._target(change)[0], to, os.O_PATH) as held:
                tree = self._both(change)[1] / (b"/" + to)
                return None if _differs(held, entry_of(tree.lstat(), _target_of(held)), tree) else to
        except OSError:
            return None


def _is_directory(entry: Entry | None) -> bool:
    return entry is not None and entry.type == "directory"


def _target_of(held: Fd) -> bytes | None:
    return os.readlink(b"", dir_fd=held) if stat.S_ISLNK(os.fstat(held).st_mode) else None


def _differs(held: Fd, entry: Entry, node: Tree) -> str:
    """In words, in what the file *held* is not *entry*, which *node* is; "" where it is so. Times do not count."""
    found = entry_of(os.fstat(held), _target_of(held))
    if found.type != entry.type:
        return f"a {found.type}, not a {entry.type}"
    if found.target != entry.target:
        return "its target differs"
    if found.type in ("char", "block") and found.rdev != entry.rdev:
        return "its device number differs"
    if found.type == "file" and (found.size != entry.size or not _same_content(held, node)):
        return "its content differs"
    if found.mode != entry.mode:
        return f"its mode is {found.mode:04o}, not {entry.mode:04o}"
    if (found.uid, found.gid) != (entry.uid, entry.gid):
        return f"its owner is {found.uid}:{found.gid}, not {entry.uid}:{entry.gid}"
    return "" if _xattrs(held) == _counted(node.xattrs()) else "its extended attributes differ"


def _xattrs(held: Fd) -> dict[str, bytes]:
    place = b"/proc/self/fd/%d" % held
    try:
        return _counted({name: os.getxattr(place, name) for name in os.listxattr(place)})
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return {}


def _counted(xattrs: dict[str, bytes]) -> dict[str, bytes]:
    """Less the labels that the system gives every file."""
    return {name: content for name, content in xattrs.items() if name not in GIVEN}


def _same_content(held: Fd, node: Tree) -> bool:
    with (
        Fd(os.open(b"/proc/self/fd/%d" % held, os.O_RDONLY | os.O_CLOEXEC)) as here,
        node.open_content(follow_symlinks=False) as there,
    ):
        return same_content(here, there)


def check_directory(directory: bytes, store: bytes) -> bytes:
    """*directory* as an absolute path. Raises InvalidInput where it is the system's root, or belongs to the *store*."""
    real = os.path.realpath(directory)
    if real == b"/":
        raise InvalidInput(
            "apply changes to /: that is this system",
            remedy="'lamina apply' carries out what a container over it did",
        )
    for one, other in ((real, os.path.realpath(store)), (os.path.realpath(store), real)):
        if one == other or one.startswith(other + b"/"):
            raise InvalidInput(
                f"apply changes to {os.fsdecode(directory)}: the store is there ({os.fsdecode(store)})",
                remedy="name a directory outside of it",
            )
    return real
