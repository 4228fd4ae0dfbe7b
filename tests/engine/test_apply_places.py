"""Where the host is not one plain file system: other mounts, full or read-only ones, overlays, odd and deep paths."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.engine.apply.gather import changes_of
from lamina.engine.apply.hands import Hands
from lamina.engine.apply.operations import apply, forget, history, recover, undo
from lamina.engine.moment import moment
from lamina.errors import Corrupt, HostChanged, InvalidInput, KernelError
from lamina.overlay.spec import MountSpec
from support.hosts import Machine, differences, hidden, picture, settle
from support.namespaces import in_mount_namespace

pytestmark = pytest.mark.root


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def sh(command: str) -> Callable[[], int]:
    return lambda: os.system(command)


def mounted(place: Path, options: str, kind: str = "tmpfs") -> None:
    subprocess.run(["mount", "-t", kind, "-o", options, "none", place], check=True)


def on_tmpfs(machine: Machine, size: str, container: str, then: Callable[[], None]) -> None:
    """The host's files on a file system of their own, not the store's; all in a private namespace."""

    def inside() -> None:
        mounted(machine.root, f"size={size}")
        os.system(f"cd {machine.root}; mkdir d; echo old > d/f; echo x > d/gone; mkdir d/t; echo y > d/t/u")
        machine.start()
        machine.run(sh(container))
        then()

    in_mount_namespace(inside)


def test_originals_are_kept_beside_where_the_store_is_elsewhere(machine: Machine) -> None:
    def then() -> None:
        before, merged = picture(machine.root), machine.merged_picture()
        machine.apply()
        (area,) = hidden(machine.root)
        assert area.parent == machine.root
        assert area.stat().st_mode & 0o7777 == 0o700
        after = {path: found for path, found in picture(machine.root).items() if ".lamina-" not in path}
        assert differences(after, merged) == {}
        machine.undo()
        assert hidden(machine.root) == []
        assert differences(picture(machine.root), before) == {}
        machine.apply()
        forget(machine.journal)
        forget(machine.journal)
        assert hidden(machine.root) == []
        assert not machine.journal.exists()
        assert differences(picture(machine.root), merged) == {}

    on_tmpfs(machine, "10m", "echo new > d/f; rm -r d/gone d/t; mkdir n; echo z > n/f", then)


def test_nothing_is_left_beside_where_nothing_is_replaced(machine: Machine) -> None:
    def then() -> None:
        before, merged = picture(machine.root), machine.merged_picture()
        machine.apply()
        assert hidden(machine.root) == []
        assert differences(picture(machine.root), merged) == {}
        machine.undo()
        assert hidden(machine.root) == []
        assert differences(picture(machine.root), before) == {}

    on_tmpfs(machine, "10m", "mkdir n; echo z > n/f; echo z > d/g", then)


def test_a_crash_leaves_nothing_beside_after_recovery(machine: Machine) -> None:
    class Dying(Hands):
        def before(self, call: str, subject: bytes) -> None:
            if call == "apply:staged":
                os._exit(9)

    def then() -> None:
        before = picture(machine.root)
        pid = os.fork()
        if pid == 0:
            machine.apply(hands=Dying())
        os.waitpid(pid, 0)
        assert len(hidden(machine.root)) == 1
        ended = recover(machine.journal)
        assert ended is not None and ended.was == "planning"
        assert hidden(machine.root) == []
        assert differences(picture(machine.root), before).keys() <= {
            "."
        }  # a directory was made and removed in it
        assert history(machine.journal) == []

    on_tmpfs(machine, "10m", "echo new > d/f; rm d/gone", then)


@pytest.mark.parametrize("size", ["300k", "2m", "3m"])
def test_a_full_disk_changes_nothing(machine: Machine, size: str) -> None:
    def then() -> None:
        before = picture(machine.root)
        with pytest.raises(KernelError) as caught:
            machine.apply()
        assert caught.value.errno == errno.ENOSPC
        assert "/n/" in str(caught.value) and "everything is as it was before" in str(caught.value)
        assert "make room" in caught.value.remedy
        assert hidden(machine.root) == []
        assert differences(picture(machine.root), before).keys() <= {"."}
        assert history(machine.journal) == []
        machine.apply("/d")
        assert (machine.root / "d/f").read_text() == "new\n"

    on_tmpfs(
        machine,
        size,
        "echo new > d/f; rm d/gone; mkdir n; for i in 1 2 3 4; do head -c 1000000 /dev/urandom > n/$i; done",
        then,
    )


@pytest.mark.parametrize("host", ["here", "tmpfs"])  # records differ in size, and so where there is no room
def test_a_full_disk_of_the_store_changes_nothing(tmp_path: Path, host: str) -> None:
    """The journal itself finds no room, at whatever moment."""

    def inside() -> None:
        if host == "tmpfs":
            mounted(tmp_path, "size=20m")
        machine = Machine(tmp_path)
        for number in range(40):
            machine.write(f"d/file{number}", "x")
        machine.run(sh("for f in d/*; do echo y >> $f; done; rm d/file7"))
        before = picture(machine.root)
        small = machine.place / "small"
        small.mkdir()
        mounted(small, "size=1m")
        for free in range(0, 60_000, 4096):
            with open(small / "filler", "wb") as filler:
                filler.write(bytes((1 << 20) - free))
            journal = small / "journal"
            try:
                apply(machine.changes(), journal, started_ns=machine.started_ns, root=machine.root)
            except OSError as error:
                assert error.errno == errno.ENOSPC
                assert picture(machine.root) == before
                os.truncate(small / "filler", 0)
                recover(journal)
                assert picture(machine.root) == before
            else:
                undo(journal)
            (small / "filler").unlink()
            forget(journal)
            machine.start()
            assert picture(machine.root) == before

    in_mount_namespace(inside)


def test_mounts_below_are_not_entered(machine: Machine) -> None:
    """Something that the host mounted meanwhile: its files are other files."""
    machine.write("mnt/usb/file", "below")
    machine.run(sh("echo new > mnt/usb/file; echo new > top"))

    def inside() -> None:
        mounted(machine.root / "mnt/usb", "size=1m")
        machine.write("mnt/usb/file", "on the other file system")
        with pytest.raises(HostChanged):
            machine.apply()
        assert (machine.root / "mnt/usb/file").read_text() == "on the other file system"

    in_mount_namespace(inside)


def test_each_overlay_goes_to_its_own_mount(tmp_path: Path) -> None:
    root, home = Machine(tmp_path / "root"), Machine(tmp_path / "home")

    def inside() -> None:
        (root.root / "home").mkdir()
        mounted(root.root / "home", "size=4m")
        home.root.rmdir()
        home.root.symlink_to(root.root / "home")
        root.write("etc/f", "1")
        root.write("home/u/f", "1")
        for one in (root, home):
            one.start()
        root.run(sh("echo 2 > etc/f; rmdir home; mkdir -p home/hidden 2>/dev/null; rm -rf home/hidden"))
        home.run(sh("echo 2 > u/f; mkdir u/new; echo 3 > u/new/x; rm -f u/none"))
        overlays = [(b"/", root.spec), (b"/home", home.spec)]
        changes = [c for c in changes_of(overlays) if c.path != b"/home" or c.mountpoint == b"/home"]
        assert [c.path for c in changes if not c.incidental] == [
            b"/etc/f",
            b"/home/u/f",
            b"/home/u/new",
            b"/home/u/new/x",
        ]
        before = picture(root.root)
        applied = apply(changes, root.journal, started_ns=home.started_ns, root=root.root)
        assert applied.number == 1
        assert (root.root / "home/u/new/x").read_text() == "3\n"
        assert (root.root / "etc/f").read_text() == "2\n"
        assert [area.parent for area in hidden(root.root)] == [root.root / "home"]
        undo(root.journal)
        assert differences(picture(root.root), before) == {}

    in_mount_namespace(inside)


def test_a_read_only_file_system_is_said(machine: Machine) -> None:
    def then() -> None:
        before = picture(machine.root)
        subprocess.run(["mount", "-o", "remount,ro", machine.root], check=True)
        with pytest.raises(KernelError) as caught:
            machine.apply()
        assert caught.value.errno == errno.EROFS
        assert "read-only" in str(caught.value)
        assert picture(machine.root) == before

    on_tmpfs(machine, "1m", "echo new > d/f", then)


def test_the_host_may_itself_be_an_overlay(tmp_path: Path) -> None:
    """As in a container of another engine: directories from a lower layer cannot be renamed there (EXDEV)."""
    machine = Machine(tmp_path)
    below, upper, work = (tmp_path / name for name in ("below", "theirs", "theirs-work"))
    for directory in (below, upper, work):
        directory.mkdir()
    os.system(
        f"cd {below}; mkdir -p d/e/f t/u k; echo 1 > d/e/f/g; echo 2 > d/a; echo 3 > t/u/v; echo 4 > k/l; chmod 711 d/e"
    )

    def inside() -> None:
        mounted(machine.root, f"lowerdir={below},upperdir={upper},workdir={work}", "overlay")
        machine.start()
        machine.run(sh("rm -r d; echo file > d; rm -r t; echo x >> k/l; mkdir k/n; mkdir t; echo new > t/w"))
        before, merged = picture(machine.root), machine.merged_picture()
        machine.apply()
        after = {path: found for path, found in picture(machine.root).items() if ".lamina-" not in path}
        assert differences(after, merged) == {}
        machine.undo()
        assert differences(picture(machine.root), before) == {}

        class Dying(Hands):
            def __init__(self, number: int) -> None:
                self.left = number

            def before(self, call: str, subject: bytes) -> None:
                self.left -= call in ("apply:before-rename", "rename", "rmdir", "chmod", "utime")
                if self.left < 0:
                    os._exit(9)

        for number in range(200):
            pid = os.fork()
            if pid == 0:
                machine.apply(hands=Dying(number))
                os._exit(0)
            done = os.WEXITSTATUS(os.waitpid(pid, 0)[1]) == 0
            recover(machine.journal)
            if [past.state for past in history(machine.journal)][-1:] == ["applied"]:
                machine.undo()
            # staging beside makes and removes a directory in the root
            assert differences(picture(machine.root), before).keys() <= {"."}, number
            forget(machine.journal)
            machine.start()
            if done:
                break
        else:
            raise AssertionError("never came to its end")

    in_mount_namespace(inside)


def test_odd_names(machine: Machine) -> None:
    odd = [
        b"new\nline",
        b"\xff\xfe",
        b"a:b,c\\d",
        b" ",
        b"-rf",
        b"'\"`$",
        b"caf\xc3\xa9",
        b"." * 3,
        b"x" * 255,
    ]
    root = os.fsencode(machine.root)
    for name in odd:
        os.makedirs(root + b"/" + name)
        Path(os.fsdecode(root + b"/" + name + b"/f")).write_bytes(name)

    def work() -> None:
        for name in odd:
            here = os.fsdecode(name)
            Path(here, "f").write_bytes(b"new")
            os.symlink(name, os.fsencode(here) + b"/l")
            Path(here, "sub").mkdir()
            Path(here, "sub", here).write_bytes(b"")

    machine.run(work)
    before, merged = picture(machine.root), machine.merged_picture()
    machine.apply()
    assert differences(picture(machine.root), merged) == {}
    machine.undo()
    assert differences(picture(machine.root), before) == {}


def test_paths_longer_than_the_kernel_takes(machine: Machine) -> None:
    name = "n" * 200

    def work() -> None:
        os.mkdir("deep")
        os.chdir("deep")
        for _ in range(40):
            os.mkdir(name)
            os.chdir(name)
        Path("bottom").write_text("reached")

    machine.run(work)
    machine.apply()

    def bottom() -> str:
        os.chdir(machine.root / "deep")
        for _ in range(40):
            os.chdir(name)
        return Path("bottom").read_text()

    assert in_mount_namespace(bottom) == "reached"
    machine.start()
    shallow = picture(machine.place / "container" / "journal")
    assert shallow
    undo(machine.journal)
    assert os.listdir(machine.root) == []
    assert os.listdir(machine.journal / "1") == ["log"]


def test_the_store_is_never_moved_into_itself(machine: Machine) -> None:
    """The journal lies below a directory that the container deleted."""
    machine.write("var/lib/x", "x")
    machine.run(sh("rm -r var"))
    journal = machine.root / "var/lib/journal"
    journal.mkdir()
    before = picture(machine.root / "var/lib/x")
    with pytest.raises((InvalidInput, HostChanged)):
        apply(machine.changes(), journal, started_ns=machine.started_ns, root=machine.root)
    settle()
    with pytest.raises((InvalidInput, HostChanged), match=r"store|host changed"):
        apply(machine.changes(), journal, started_ns=moment(machine.store / "m") + 10**9, root=machine.root)
    assert picture(machine.root / "var/lib/x") == before


def test_originals_that_are_gone_are_told_before_anything_is_touched(machine: Machine) -> None:
    machine.write("a", "1")
    machine.write("b", "1")
    machine.run(sh("echo 2 > a; rm b"))
    machine.apply()
    after = picture(machine.root)
    area = machine.journal / "1" / "area"
    for slot in area.iterdir():
        slot.unlink()
        break
    with pytest.raises(Corrupt, match="no longer where it was kept"):
        machine.undo()
    assert picture(machine.root) == after


def test_an_area_that_somebody_exchanged_is_not_used(machine: Machine) -> None:
    machine.write("a", "1")
    machine.run(sh("echo 2 > a"))
    machine.apply()
    area = machine.journal / "1" / "area"
    area.rename(area.with_name("elsewhere"))
    area.mkdir(0o700)
    (area / "1").write_text("something else")
    with pytest.raises(Corrupt):
        machine.undo()
    assert (machine.root / "a").read_text() == "2\n"


def test_two_stacks_without_an_upper_are_no_changes(tmp_path: Path) -> None:
    assert changes_of([(b"/", MountSpec(lowerdirs=(os.fsencode(tmp_path),)))]) == []


def test_marks_of_other_overlays_on_the_host_stay(machine: Machine) -> None:
    """A docker store, say: what its layers' marks are, no overlay over them shows."""
    machine.write("store/other/f", "x")
    os.setxattr(machine.root / "store/other", "trusted.overlay.opaque", b"y")
    before = picture(machine.root)

    def work() -> None:
        os.chmod("store/other", 0o711)
        os.setxattr("store/other", "user.x", b"y")

    machine.run(work)
    machine.apply()
    assert os.getxattr(machine.root / "store/other", "trusted.overlay.opaque") == b"y"
    assert (machine.root / "store/other").stat().st_mode & 0o7777 == 0o711
    machine.undo()
    assert differences(picture(machine.root), before) == {}
