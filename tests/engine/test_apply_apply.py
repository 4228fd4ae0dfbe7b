"""Applying: what a container did, done to the host, exactly and all or nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.engine.apply import history
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


def test_nothing_to_do(machine: Machine) -> None:
    machine.write("a")
    machine.run(lambda: None)
    assert machine.apply().changes == ()
    assert history(machine.journal) == []
