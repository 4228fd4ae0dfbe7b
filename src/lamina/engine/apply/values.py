"""What apply and undo are asked about and what they answer, as frozen values."""

from __future__ import annotations

from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.overlay.changes import Change, Entry
    from lamina.overlay.spec import MountSpec


@value
class HostChange:
    """One change of a container, by its path on the host.

    `path` is absolute (b"/home/x"); `mountpoint` is where its overlay was mounted (b"/", b"/home"); `change` is the
    overlay's own record, whose path is relative to `mountpoint`; `spec` is that overlay. `base` is the stack that it
    was compared with, None where that is what lies below its upper directory.
    """

    path: bytes
    mountpoint: bytes
    change: Change
    spec: MountSpec
    base: MountSpec | None = None

    @property
    def kind(self) -> str:
        """ "added", "changed", "deleted" or "replaced" (by another type of file)."""
        return self.change.kind

    @property
    def what(self) -> frozenset[str]:
        """Of a changed entry: which of content, mode, owner, times, xattrs, target, rdev differ."""
        return self.change.what

    @property
    def before(self) -> Entry | None:
        """The host's entry when the changes were gathered, None of an addition."""
        return self.change.before

    @property
    def after(self) -> Entry | None:
        """The container's entry, None of a deletion."""
        return self.change.after

    @property
    def capabilities(self) -> bool:
        """Whether the container's file gives capabilities to whoever executes it."""
        return self.change.capabilities

    @property
    def gives(self) -> tuple[str, ...]:
        """In words, what the container's file would give to whoever executes it; () of what does so only as before."""
        after = self.after
        if after is None or after.type != "file" or (self.kind == "changed" and self.what <= {"times"}):
            return ()
        given = []
        if after.mode & 0o4000:
            given.append(f"setuid: runs as uid {after.uid}")
        if after.mode & 0o2010 == 0o2010:  # without the group's x it means no more (inode(7))
            given.append(f"setgid: runs as gid {after.gid}")
        if self.capabilities:
            given.append("file capabilities")
        return tuple(given)

    @property
    def implied(self) -> bool:
        """A deletion that follows from a deleted, replaced or re-created directory above it."""
        return self.change.implied

    @property
    def incidental(self) -> bool:
        """An existing directory of which nothing but the times differ, as when something in it comes or goes.

        Those are applied, but neither listed nor counted.
        """
        return self.change.incidental

    @property
    def link_to(self) -> bytes | None:
        """The absolute path of another name of the same file, unchanged or changed earlier; None if there is none."""
        to = self.change.link_to
        return None if to is None else below(self.mountpoint, to)


@value
class Clash:
    """One path that the host changed meanwhile. `host` is what it has now, `container` what would come (None: nothing).

    `reason` says what happened, such as "changed on the host" or "deleted on the host"; `host_changed_ns` is the
    time of the host's entry's last change (ctime), 0 if there is none.
    """

    path: bytes
    reason: str
    host: Entry | None
    container: Entry | None
    host_changed_ns: int = 0


@value
class Applied:
    """What one apply did. Paths are absolute and sorted.

    `changes`: all that were applied; `parents`: additions nobody selected, made because something in them was;
    `kept`: deleted directories which stay because something in them was not selected; `forced`: what the host had
    changed and `force=True` overrode. `number` names the apply in its container, from 1; `journal` is its
    directory, b"" if there was nothing to do.
    """

    changes: tuple[HostChange, ...]
    parents: tuple[bytes, ...] = ()
    kept: tuple[bytes, ...] = ()
    forced: tuple[Clash, ...] = ()
    number: int = 0
    journal: bytes = b""


@value
class Left:
    """A path that was left as the host has it, and where its original is kept (b"" if it had none)."""

    path: bytes
    reason: str
    original: bytes = b""


@value
class Undone:
    """What one undo brought back: `paths` sorted, as they were named when they were applied.

    `number` is the apply that was undone, `remaining` how many earlier ones could still be. `forced` as in Applied.
    """

    number: int
    paths: tuple[bytes, ...]
    remaining: int = 0
    forced: tuple[Clash, ...] = ()


@value
class Recovered:
    """How an interrupted apply or undo was ended.

    `was` is "planning" (the host had not been touched), "applying" (taken back) or "undoing" (finished). `left`
    names what could not be taken back because the host changed it after the crash.
    """

    number: int
    was: str
    paths: tuple[bytes, ...] = ()
    left: tuple[Left, ...] = ()


@value
class Past:
    """One apply of a container as its journal has it. `state`: planning, applying, applied, undoing or undone."""

    number: int
    state: str
    time_ns: int
    paths: tuple[bytes, ...]


def below(directory: bytes, path: bytes) -> bytes:
    """The absolute path of *path*, which is relative to the absolute *directory* (b"" is the directory itself)."""
    if not path:
        return directory
    return (b"" if directory == b"/" else directory) + b"/" + path
