"""What every layer driver must do (lamina.store.drivers.contract), as a suite for pytest or anything like it.

    class TestMyDriver(DriverContract):
        def driver(self, store):
            return MyDriver(store)

Each test gets a new directory as `tmp_path`. A root that is a stack is mounted, which takes CAP_SYS_ADMIN: where the
suite may not mount in its own namespace, override `apart` to run a function in one where it may.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.errors import Conflict, NotFound
from lamina.store import layers
from lamina.store.leases import lease
from lamina.store.root import Store

if TYPE_CHECKING:
    from lamina.store.drivers.contract import Driver, Root
    from lamina.store.layers import Layer
    from lamina.store.leases import Lease

CAPABILITY = bytes.fromhex(
    "0100000200040000000000000000000000000000"
)  # cap_net_bind_service=ep, capabilities(7)
TIME = 1_000_000_000_123_456_789
# of larger files the digest is compared: nobody reads more of them in a message
LONGEST = 4096
Snapshot = dict[bytes, tuple[Any, ...]]


class DriverContract:
    """The suite. `driver` is what a subclass must say."""

    def driver(self, store: Store) -> Driver:
        """The driver under test, over *store*."""
        raise NotImplementedError

    def apart(self, test: Callable[[], None]) -> None:
        """Run *test* where it may mount."""
        test()

    @contextmanager
    def mounted(self, root: Root, target: Path) -> Iterator[bytes]:
        """The directory in which *root* shows."""
        if root.overlay is None:
            assert root.directory is not None
            yield root.directory
            return
        from lamina.overlay.mount import mount, umount

        target.mkdir(exist_ok=True)
        mount(root.overlay, target)
        try:
            yield os.fsencode(target)
        finally:
            umount(target)

    # -- what is there to work with

    def base(self, store: Store, held: Lease) -> Layer:
        """A layer with one of everything that can be in one."""
        with layers.stage(store, None, held) as stage:
            fill(stage.path)
            return stage.commit(None, 1000, 20)

    # -- the tests

    def test_a_view_shows_the_chain_exactly(self, tmp_path: Path) -> None:
        """Attributes, links, holes, devices: everything that was put into the layer."""

        def test() -> None:
            store = Store(tmp_path / "s")
            driver = self.driver(store)
            with lease(store) as held:
                layer = self.base(store, held)
                place = os.fsencode(tmp_path / "view")
                root = driver.view(place, [layer.id])
                assert root.read_only and driver.mounts(place) == root
                with self.mounted(root, tmp_path / "m") as shown:
                    assert different(snapshot(shown), snapshot(layer.path)) == []
                assert list(driver.changes(place)) == []
                try:
                    driver.commit(place, held)
                except Conflict:
                    pass
                else:
                    raise AssertionError("a view was committed")
                driver.remove(place)
                driver.remove(place)
                assert not os.path.lexists(place)

        self.apart(test)

    def test_what_was_written_becomes_a_layer(self, tmp_path: Path) -> None:
        """Over and over: each state is committed, and a view of the longer chain shows what the state showed."""

        def test() -> None:
            store = Store(tmp_path / "s")
            driver = self.driver(store)
            with lease(store) as held:
                chain = [self.base(store, held).id]
                for number, work in enumerate(WORKS):
                    place = os.fsencode(tmp_path / f"place-{number}")
                    root = driver.prepare(place, chain)
                    assert not root.read_only and driver.mounts(place) == root
                    with self.mounted(root, tmp_path / "m") as shown:
                        work(shown)
                        expected = snapshot(shown)
                    told = {
                        change.path: change.kind for change in driver.changes(place) if not change.incidental
                    }
                    assert told, work.__name__
                    assert driver.usage(place).inodes > 0
                    layer = driver.commit(place, held)
                    assert not os.path.lexists(place) and layers.find(store, layer.id) == layer
                    chain.append(layer.id)
                    view = os.fsencode(tmp_path / f"view-{number}")
                    with self.mounted(driver.view(view, chain), tmp_path / "m") as shown:
                        assert different(snapshot(shown), expected) == [], work.__name__
                    driver.remove(view)

        self.apart(test)

    def test_changes_are_told(self, tmp_path: Path) -> None:
        """Added, changed, deleted, replaced: what, and nothing else."""

        def test() -> None:
            store = Store(tmp_path / "s")
            driver = self.driver(store)
            with lease(store) as held:
                layer = self.base(store, held)
                place = os.fsencode(tmp_path / "place")
                with self.mounted(driver.prepare(place, [layer.id]), tmp_path / "m") as shown:
                    change_a_little(shown)
                told = {change.path: change.kind for change in driver.changes(place) if not change.incidental}
                assert told == {
                    b"file": "changed", b"new": "added", b"fifo": "deleted", b"link": "replaced", b"link/in": "added",
                }  # fmt: skip
                driver.remove(place)

        self.apart(test)

    def test_states_do_not_disturb_each_other(self, tmp_path: Path) -> None:
        """Two over one chain; and the layers below stay as they were."""

        def test() -> None:
            store = Store(tmp_path / "s")
            driver = self.driver(store)
            with lease(store) as held:
                layer = self.base(store, held)
                before = snapshot(layer.path)
                places = [os.fsencode(tmp_path / name) for name in ("one", "other")]
                for place in places:
                    with self.mounted(driver.prepare(place, [layer.id]), tmp_path / "m") as shown:
                        assert b"mine" not in os.listdir(shown)
                        _write(shown + b"/mine", place)
                        _write(shown + b"/file", place)
                assert different(snapshot(layer.path), before) == []
                for place in places:
                    driver.remove(place)
                assert different(snapshot(layer.path), before) == []

        self.apart(test)

    def test_nothing_at_all(self, tmp_path: Path) -> None:
        """An empty chain, and a state in which nothing was written."""

        def test() -> None:
            store = Store(tmp_path / "s")
            driver = self.driver(store)
            with lease(store) as held:
                place = os.fsencode(tmp_path / "place")
                with self.mounted(driver.prepare(place, []), tmp_path / "m") as shown:
                    assert os.listdir(shown) == []
                assert [change for change in driver.changes(place) if change.path] == []
                layer = driver.commit(place, held)
                view = os.fsencode(tmp_path / "view")
                with self.mounted(driver.view(view, [layer.id]), tmp_path / "m") as shown:
                    assert os.listdir(shown) == []
                driver.remove(view)

        self.apart(test)

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        """Places without a state, layers that are missing, places that are taken."""
        store = Store(tmp_path / "s")
        driver = self.driver(store)
        place = os.fsencode(tmp_path / "place")
        with lease(store) as held:
            calls: list[Callable[[], object]] = [
                lambda: driver.mounts(place),
                lambda: list(driver.changes(place)),
                lambda: driver.usage(place),
                lambda: driver.commit(place, held),
                lambda: driver.prepare(place, ["0" * 64]),
                lambda: driver.view(place, ["0" * 64]),
            ]
            for call in calls:
                try:
                    call()
                except NotFound:
                    assert not os.path.lexists(place)
                else:
                    raise AssertionError("something was found where nothing is")
            driver.remove(place)
            driver.prepare(place, [])
            try:
                driver.prepare(place, [])
            except Conflict:
                driver.remove(place)
            else:
                raise AssertionError("a place was taken twice")

    def test_the_caller_may_name_the_layer_before(self, tmp_path: Path) -> None:
        """Who was killed after the state became a layer, and has written down its id, calls once more."""

        def test() -> None:
            store = Store(tmp_path / "s")
            driver = self.driver(store)
            identity = layers.new_id()
            with lease(store) as held:
                place = os.fsencode(tmp_path / "place")
                with self.mounted(driver.prepare(place, []), tmp_path / "m") as shown:
                    _write(shown + b"/kept", b"1")
                assert driver.commit(place, held, identity).id == identity
            found = layers.find(store, identity)
            assert found is not None and os.listdir(found.path) == [b"kept"]

        self.apart(test)


# -- what is put into layers, and done over them


def fill(top: bytes) -> None:
    """One of everything."""
    _write(top + b"/file", b"content")
    os.chmod(top + b"/file", 0o4755)
    os.chown(top + b"/file", 1000, 2000)
    os.chmod(top + b"/file", 0o4755)
    os.link(top + b"/file", top + b"/hard")
    os.symlink("file", top + b"/link")
    os.symlink(b"/nowhere/\xff", top + b"/broken")
    os.mkfifo(top + b"/fifo")
    os.mknod(top + b"/socket", stat.S_IFSOCK | 0o600)
    os.mknod(top + b"/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.makedirs(top + b"/dir/deep/er")
    for name in (b"one", b"two", b"new\nline \xff"):
        _write(top + b"/dir/deep/" + name, name)
    with open(top + b"/sparse", "wb") as file:
        file.truncate(1 << 24)
        file.seek(1 << 20)
        file.write(b"island")
    _write(top + b"/capable", b"")
    os.setxattr(top + b"/capable", "security.capability", CAPABILITY)
    os.setxattr(top + b"/dir", "user.note", b"a\0b")
    os.chmod(top + b"/dir", 0o2750)
    for above, directories, files in os.walk(top, topdown=False):
        for name in (*directories, *files):
            os.utime(os.path.join(above, name), ns=(TIME, TIME), follow_symlinks=False)
    os.utime(top, ns=(TIME, TIME))


def change_a_little(top: bytes) -> None:
    """One change of each kind. `hard` keeps the old content: its link to `file` was cut before."""
    os.unlink(top + b"/hard")
    _write(top + b"/new", b"content")
    os.rename(top + b"/new", top + b"/hard")
    os.chown(top + b"/hard", 1000, 2000)
    os.chmod(top + b"/hard", 0o4755)
    os.utime(top + b"/hard", ns=(TIME, TIME))
    _write(top + b"/file", b"changed")
    _write(top + b"/new", b"new")
    os.unlink(top + b"/fifo")
    os.unlink(top + b"/link")
    os.mkdir(top + b"/link")
    _write(top + b"/link/in", b"")


def replace_things(top: bytes) -> None:
    """Types are exchanged, a directory is made anew over one that was removed."""
    os.unlink(top + b"/broken")
    os.mkdir(top + b"/broken")
    for name in os.listdir(top + b"/dir/deep"):
        if name != b"er":
            os.unlink(top + b"/dir/deep/" + name)
    os.rmdir(top + b"/dir/deep/er")
    os.rmdir(top + b"/dir/deep")
    os.mkdir(top + b"/dir/deep")
    _write(top + b"/dir/deep/only", b"this")
    os.unlink(top + b"/sparse")
    os.symlink("elsewhere", top + b"/sparse")


def change_attributes(top: bytes) -> None:
    """Metadata alone."""
    os.chmod(top + b"/dir", 0o1777)
    os.chown(top + b"/dir/deep", 7, 8)
    os.setxattr(top + b"/capable", "user.more", b"1")
    os.removexattr(top + b"/dir", "user.note")
    os.utime(top + b"/null", ns=(1, 1))
    os.chmod(top, 0o711)


def link_and_write(top: bytes) -> None:
    """Names are added to files that were there, written through, and taken away."""
    os.link(top + b"/capable", top + b"/dir/another")
    _write(top + b"/dir/another", b"by its other name")
    os.link(top + b"/null", top + b"/nil")
    os.unlink(top + b"/null")
    _write(top + b"/large", b"x" * (3 << 20))
    os.rename(top + b"/file", top + b"/dir/moved")


def remove_nearly_everything(top: bytes) -> None:
    """Deletions, deep ones as well."""
    for above, directories, files in os.walk(top + b"/dir", topdown=False):
        for name in files:
            os.unlink(os.path.join(above, name))
        for name in directories:
            place = os.path.join(above, name)
            os.unlink(place) if os.path.islink(place) else os.rmdir(place)
    os.rmdir(top + b"/dir")
    os.unlink(top + b"/large")


def nothing_but_one(top: bytes) -> None:
    """A single new file, deep in new directories."""
    os.makedirs(top + b"/dir/deep/again")
    _write(top + b"/dir/deep/again/file", b"1")


WORKS: tuple[Callable[[bytes], None], ...] = (
    change_a_little,
    replace_things,
    change_attributes,
    link_and_write,
    remove_nearly_everything,
    nothing_but_one,
)


def snapshot(top: bytes) -> Snapshot:
    """Everything of a tree that a driver must keep, by path: what stat(2) says, attributes, content, links, holes."""
    found: Snapshot = {}
    names: dict[tuple[int, int], bytes] = {}
    for above, directories, files in os.walk(top):
        for name in (
            (b".", *sorted(directories), *sorted(files)) if above == top else sorted(directories + files)
        ):
            path = os.path.join(above, name)
            status = os.lstat(path)
            first = path
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                first = names.setdefault((status.st_dev, status.st_ino), path)
            shown = os.path.relpath(path, top)
            found[shown] = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_mtime_ns,
                status.st_rdev if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode) else 0,
                _content(path, status),
                _attributes(path),
                os.path.relpath(first, top),
                stat.S_ISREG(status.st_mode) and status.st_blocks * 512 < status.st_size,
            )
    return found


def different(ours: Snapshot, theirs: Snapshot) -> list[tuple[bytes, object, object]]:
    """Where two snapshots differ."""
    return [
        (path, ours.get(path), theirs.get(path))
        for path in sorted(ours.keys() | theirs.keys())
        if ours.get(path) != theirs.get(path)
    ]


def _content(path: bytes, status: os.stat_result) -> object:
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path)
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            content = file.read()
        return content if len(content) <= LONGEST else (len(content), hashlib.sha256(content).hexdigest())
    return None


def _attributes(path: bytes) -> tuple[tuple[str, bytes], ...]:
    """Without the marks of overlayfs in a layer that is looked at by itself."""
    found = []
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        if not name.startswith(("trusted.overlay.", "user.overlay.")):
            try:
                found.append((name, os.getxattr(path, name, follow_symlinks=False)))
            except OSError as error:
                if error.errno != errno.ENODATA:
                    raise
    return tuple(found)


def _write(path: bytes, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


__all__ = ["DriverContract", "different", "fill", "snapshot"]
