"""Applying: what a container did, done to the host, exactly and all or nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.engine.apply.hands import Hands
from lamina.engine.apply.operations import apply, history, recover
from lamina.engine.textdiff import diff_changes
from lamina.errors import Conflict
from support.hosts import Machine, differences, hidden, picture

pytestmark = pytest.mark.root


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def everyday(machine: Machine) -> None:
    """A host with a bit of everything, and a container that did a bit of everything to it."""
    machine.write("etc/conf", "old\n")
    machine.write("etc/gone", "x\n")
    machine.write("etc/mode", "m\n")
    machine.write("usr/lib/a/one", "1")
    machine.write("usr/lib/a/b/two", "2")
    machine.write("usr/was-file", "f")
    machine.write("usr/was-dir/inner/x", "x")
    machine.write("var/log/old", "log")
    os.link(machine.root / "etc/gone", machine.root / "etc/gone-too")
    (machine.root / "etc/link").symlink_to("conf")

    def work() -> None:
        Path("etc/conf").write_text("new\n")
        Path("etc/gone").unlink()
        Path("etc/mode").chmod(0o4711)
        os.setxattr("etc/mode", "user.note", b"\0\xff")
        Path("etc/link").unlink()
        Path("etc/link").symlink_to("elsewhere")
        os.system("rm -r usr/lib/a && rm usr/was-file && mkdir usr/was-file && echo in > usr/was-file/in")
        os.system("rm -r usr/was-dir && echo file > usr/was-dir")
        os.makedirs("opt/new/deep")
        Path("opt/new/deep/file").write_text("deep")
        os.link("opt/new/deep/file", "opt/new/other-name")
        os.link("opt/new/deep/file", "etc/third-name")
        os.mkfifo("opt/fifo", 0o640)
        os.mknod("opt/null", 0o20666, os.makedev(1, 3))
        os.chown("opt/fifo", 12, 34)
        os.chown("var", 5, 6)
        os.chmod("var", 0o1777)
        os.system("rm -r var/log && mkdir var/log && echo fresh > var/log/new")
        with open("opt/sparse", "wb") as file:
            file.truncate(1 << 20)
            file.seek(500_000)
            file.write(b"in the middle")
        os.utime("opt/sparse", ns=(1_000_000_007, 2_000_000_009))
        os.setxattr(
            "opt/sparse", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000")
        )

    machine.run(work)


def test_everything_at_once(machine: Machine) -> None:
    everyday(machine)
    before, merged = picture(machine.root), machine.merged_picture()
    applied = machine.apply()
    assert differences(picture(machine.root), merged) == {}
    assert [c.path for c in applied.changes if c.kind == "replaced"] == [b"/usr/was-dir", b"/usr/was-file"]
    assert (machine.root / "opt/sparse").stat().st_blocks * 512 < 1 << 19
    assert hidden(machine.root) == []
    assert machine.changes() == []
    undone = machine.undo()
    assert differences(picture(machine.root), before) == {}
    assert b"/etc/conf" in undone.paths
    assert hidden(machine.root) == []
    assert [past.state for past in history(machine.journal)] == ["undone"]


def test_again_after_an_undo(machine: Machine) -> None:
    everyday(machine)
    before, merged = picture(machine.root), machine.merged_picture()
    for _ in range(3):
        machine.apply()
        assert differences(picture(machine.root), merged) == {}
        machine.undo()
        assert differences(picture(machine.root), before) == {}


def test_what_is_done_already_is_nothing_that_could_be_taken_back(machine: Machine) -> None:
    """Of a directory that others work in, /tmp say, not even the times are taken over."""
    machine.write("d/old")
    machine.run(lambda: Path("d/new").write_text("n"))
    before = picture(machine.root)
    machine.apply()
    machine.write("d/of-somebody-else")
    again = machine.apply()
    assert (again.changes, again.number) == ((), 0)
    assert [past.state for past in history(machine.journal)] == ["applied"]
    (machine.root / "d/of-somebody-else").unlink()
    assert b"/d/new" in machine.undo().paths
    assert picture(machine.root).keys() == before.keys()
    assert hidden(machine.root) == []


def test_nothing_to_do(machine: Machine) -> None:
    machine.write("a")
    machine.run(lambda: None)
    assert machine.apply().changes == ()
    assert history(machine.journal) == []


def sh(command: str) -> Callable[[], int]:
    return lambda: os.system(command)


def test_a_part_with_its_parents(machine: Machine) -> None:
    machine.write("etc/old", "x")
    before = picture(machine.root)
    machine.run(
        sh("mkdir -m 710 -p n; mkdir -m 750 n/m; echo x > n/m/f; echo y > n/m/g; echo z > n/h; rm etc/old")
    )
    applied = machine.apply("/n/m/f")
    assert applied.parents == (b"/n", b"/n/m")
    assert sorted(c.path for c in applied.changes) == [b"/n", b"/n/m", b"/n/m/f"]
    assert sorted(os.listdir(machine.root / "n/m")) == ["f"]
    assert (machine.root / "n").stat().st_mode & 0o7777 == 0o710
    assert (machine.root / "etc/old").exists()
    machine.apply("/n")
    assert sorted(os.listdir(machine.root / "n/m")) == ["f", "g"]
    machine.undo()
    machine.undo()
    assert differences(picture(machine.root), before) == {}


def test_what_is_excluded_keeps_its_directory(machine: Machine) -> None:
    machine.write("d/e/keep", "x")
    machine.write("d/e/other", "x")
    machine.write("d/f", "x")
    machine.run(sh("rm -r d"))
    applied = machine.apply(exclude=["/d/e/keep"])
    assert applied.kept == (b"/d", b"/d/e")
    assert picture(machine.root).keys() == {".", "d", "d/e", "d/e/keep"}


def test_hard_links_of_the_host(machine: Machine) -> None:
    """A name whose file the container changed is a file of its own then; undone it is the old file again."""
    machine.write("a", "old")
    os.link(machine.root / "a", machine.root / "b")
    os.link(machine.root / "a", machine.root / "c")
    before, inode = picture(machine.root), (machine.root / "a").stat().st_ino
    machine.run(sh("echo new > a; rm b"))
    machine.apply()
    assert (machine.root / "a").read_text() == "new\n"
    assert (machine.root / "c").read_text() == "old"
    machine.undo()
    assert {(machine.root / name).stat().st_ino for name in "abc"} == {inode}
    assert differences(picture(machine.root), before) == {}


def test_all_names_of_a_file_deleted_one_by_one(machine: Machine) -> None:
    for name in ("d/a", "x", "y"):
        (machine.root / "d").mkdir(exist_ok=True)
        if name == "d/a":
            machine.write(name, "old")
        else:
            os.link(machine.root / "d/a", machine.root / name)
    before = picture(machine.root)
    machine.run(sh("rm -r d x y"))
    machine.apply()
    assert os.listdir(machine.root) == []
    machine.undo()
    assert differences(picture(machine.root), before) == {}


def test_a_new_name_for_a_file_of_the_host(machine: Machine) -> None:
    machine.write("a", "old")
    machine.run(sh("ln a b; mkdir n; ln a n/c"))
    before = picture(machine.root)
    machine.apply()
    assert {(machine.root / name).stat().st_ino for name in ("a", "b", "n/c")} == {
        (machine.root / "a").stat().st_ino
    }
    machine.undo()
    assert differences(picture(machine.root), before) == {}
    machine.apply("/b")
    machine.run(sh("echo more >> a"))
    machine.apply()
    assert (machine.root / "n/c").read_text() == "oldmore\n"


def test_two_equal_files_that_became_one(machine: Machine) -> None:
    """Nothing of either differs but that they are the same file now."""
    for name in ("a", "b"):
        os.utime(machine.write(name, "same"), ns=(1, 1))
    before = picture(machine.root)
    machine.run(sh("ln -f a b"))
    machine.apply()
    assert (machine.root / "a").stat().st_ino == (machine.root / "b").stat().st_ino
    machine.undo()
    assert differences(picture(machine.root), before) == {}


def test_a_container_that_goes_on_is_noticed(machine: Machine) -> None:
    machine.write("a", "1")
    machine.write("b", "1")
    machine.run(sh("echo 2 > a; echo 2 > b"))
    changes = machine.changes()
    machine.run(sh("echo 3 > b"))
    before = picture(machine.root)
    with pytest.raises(Conflict, match="apply /b: the container changed it again"):
        apply(changes, machine.journal, started_ns=machine.started_ns, root=machine.root)
    assert picture(machine.root) == before
    machine.apply()


def test_one_at_a_time(machine: Machine) -> None:
    machine.write("a", "1")
    machine.run(sh("echo 2 > a"))

    class Meanwhile(Hands):
        def before(self, call: str, subject: bytes) -> None:
            if call == "apply:staged":
                for work in (machine.apply, machine.undo, lambda: recover(machine.journal)):
                    with pytest.raises(Conflict, match="under way"):
                        work()

    machine.apply(hands=Meanwhile())
    assert (machine.root / "a").read_text() == "2\n"


def test_an_interrupt_takes_everything_back(machine: Machine) -> None:
    machine.write("a", "1")
    machine.run(sh("echo 2 > a; mkdir n"))
    before = picture(machine.root)

    class Interrupted(Hands):
        def __init__(self, point: str) -> None:
            self.point = point

        def before(self, call: str, subject: bytes) -> None:
            if call == self.point:
                self.point = ""
                raise KeyboardInterrupt

    for point in ("apply:before-stage", "apply:staged", "apply:after-rename", "apply:renamed", "apply:done"):
        with pytest.raises(KeyboardInterrupt):
            machine.apply(hands=Interrupted(point))
        assert differences(picture(machine.root), before) == {}, point
    machine.apply()


def test_nothing_else_is_made_in_the_store(machine: Machine) -> None:
    """A failed apply leaves no directory, a finished one only what undo needs."""
    machine.write("a", "1")
    machine.run(sh("echo 2 > a; echo n > n"))
    machine.apply()
    assert sorted(path.name for path in machine.journal.rglob("*")) == ["1", "2", "area", "lock", "log"]
    assert machine.journal.stat().st_mode & 0o7777 == 0o700
    machine.undo()
    assert sorted(path.name for path in machine.journal.rglob("*")) == ["1", "lock", "log"]


def test_the_patch_of_a_container(machine: Machine, tmp_path: Path) -> None:
    machine.write("etc/conf", "one\ntwo\n")
    machine.write("etc/gone", "gone\n")
    machine.write("etc/same", "same\n")
    copy = tmp_path / "copy"
    os.system(f"cp -a {machine.root} {copy}")
    machine.run(
        sh(
            "echo three >> etc/conf; rm etc/gone; echo x > etc/new; chmod 755 etc/same; mkdir etc/d; ln -s a etc/l"
        )
    )
    patch = b"".join(diff_changes(machine.changes()))
    assert b"# directory /etc/d: added, mode 0755, owner 0:0\n" in patch
    subprocess.run(["git", "apply", "-"], cwd=copy, input=patch, check=True)
    machine.apply()
    (copy / "etc/d").mkdir()
    wanted = {path: (entry[0], entry[1], entry[6]) for path, entry in picture(machine.root).items()}
    assert {path: (entry[0], entry[1], entry[6]) for path, entry in picture(copy).items()} == wanted
