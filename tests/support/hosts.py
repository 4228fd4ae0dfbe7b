"""A directory that plays the host, containers over it, and pictures of it to compare.

host = Machine(tmp_path)
host.write("etc/conf", "old")
with_container(host, lambda: Path("etc/conf").write_text("new"))   # in the merged directory, really mounted
before = picture(host.root)
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lamina.engine.apply.gather import changes_of
from lamina.engine.apply.hands import Hands
from lamina.engine.apply.operations import apply, undo
from lamina.engine.apply.values import Applied, HostChange
from lamina.engine.moment import moment
from lamina.overlay.mount import mount
from lamina.overlay.spec import MountSpec
from support.namespaces import in_mount_namespace, in_user_namespace

T = TypeVar("T")
Picture = dict[str, tuple[Any, ...]]


class Machine:
    """`root` plays the host's "/", `upper` and `work` are a container's, `journal` is its journal."""

    def __init__(self, place: Path, *, userxattr: bool = False, **options: str) -> None:
        self.place = place
        self.root, self.store = place / "host", place / "container"
        self.upper, self.work, self.merged = self.store / "upper", self.store / "work", self.store / "merged"
        self.journal = self.store / "journal"
        for directory in (self.root, self.upper, self.work, self.merged):
            directory.mkdir(parents=True, exist_ok=True)
        self.spec = MountSpec(
            lowerdirs=(os.fsencode(self.root),),
            upperdir=os.fsencode(self.upper),
            workdir=os.fsencode(self.work),
            userxattr=userxattr,
            options=tuple(options.items()),
        )
        self.started_ns = 0

    def write(self, path: str, text: str = "", mode: int = 0o644) -> Path:
        """A file of the host, with the directories on the way."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    def start(self) -> None:
        """Note the time: what the host does from now on is a conflict."""
        if not self.started_ns:
            shutil.copystat(self.root, self.upper)
        settle()
        self.started_ns = moment(self.store / "started")

    def run(self, command: Callable[..., T], *args: Any) -> T:
        """Call *command* in the merged directory, mounted in a private (unless run by root, user) namespace."""
        if not self.started_ns:
            self.start()

        def inside() -> T:
            os.umask(0o022)
            mount(self.spec, self.merged)
            os.chdir(self.merged)
            return command(*args)

        return in_mount_namespace(inside) if os.geteuid() == 0 else in_user_namespace(inside)

    def merged_picture(self) -> Picture:
        """What the container shows."""
        return self.run(picture, Path("."))

    def wanted(self) -> Picture:
        """What the host is to be once its changes are applied: what it shows, but for the root's time if idle."""
        host, shown = picture(self.root), self.merged_picture()
        if all(change.path != b"/" for change in self.changes()):
            shown["."] = (*shown["."][:4], host["."][4], *shown["."][5:])
        return shown

    def changes(self) -> list[HostChange]:
        """What it did."""
        return changes_of([(b"/", self.spec)])

    def apply(self, *paths: str, hands: Hands | None = None, **options: Any) -> Applied:
        """Apply its changes to `root`."""
        return apply(
            self.changes(),
            self.journal,
            started_ns=self.started_ns,
            paths=paths,
            root=self.root,
            hands=hands,
            **options,
        )

    def undo(self, **options: Any) -> Any:
        """Take the newest apply back."""
        return undo(self.journal, **options)


def settle() -> None:
    """Wait until the clock of inode times has ticked: until Linux 6.13 it stands still for up to 10 ms."""
    now = time.time_ns()
    while time.clock_gettime_ns(5) <= now:  # CLOCK_REALTIME_COARSE
        time.sleep(0.001)


def picture(root: Path | bytes) -> Picture:
    """Everything about every entry below *root*, the root itself as ".": what must be equal byte for byte."""
    found: Picture = {}
    names: dict[tuple[int, int], list[str]] = {}
    for directory, directories, files in os.walk(os.fsencode(root)):
        for name in [b"", *sorted(files), *(d for d in directories if os.path.islink(directory + b"/" + d))]:
            path = directory + (b"/" + name if name else b"")
            relative = os.fsdecode(os.path.relpath(path, os.fsencode(root)))
            status = os.lstat(path)
            link: list[str] = []
            if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
                link = names.setdefault((status.st_dev, status.st_ino), [])
                link.append(relative)
            found[relative] = (
                stat.S_IFMT(status.st_mode),
                oct(stat.S_IMODE(status.st_mode)),
                status.st_uid,
                status.st_gid,
                status.st_mtime_ns,
                status.st_rdev,
                _content(path, status),
                _xattrs(path),
                link,
            )
    for link in names.values():
        link.sort()
        if len(link) == 1:  # its other names are elsewhere: in a journal, say
            link.clear()
    return found


def _content(path: bytes, status: os.stat_result) -> bytes | str:
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path)
    if stat.S_ISREG(status.st_mode):
        content = Path(os.fsdecode(path)).read_bytes()
        return content if len(content) < 200 else hashlib.sha256(content).hexdigest()
    return b""


def _xattrs(path: bytes) -> tuple[tuple[str, bytes], ...]:
    names = os.listxattr(path, follow_symlinks=False)
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(names))


def differences(first: Picture, second: Picture) -> dict[str, Any]:
    """Where two pictures differ, for reading."""
    return {
        path: (first.get(path), second.get(path))
        for path in sorted(first.keys() | second.keys())
        if first.get(path) != second.get(path)
    }


def hidden(root: Path) -> list[Path]:
    """Lamina's own directories outside the store: there must be none where nothing is kept."""
    return list(root.rglob(".lamina-*"))
