"""What the host changed meanwhile: refused, all at once, with both sides; and what must not be mistaken for it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.engine.apply.conflicts import changed_since
from lamina.engine.apply.operations import clashes_of, history
from lamina.engine.moment import moment
from lamina.errors import HostChanged, NotFound
from support.hosts import Machine, differences, picture, settle
from support.namespaces import in_mount_namespace

pytestmark = pytest.mark.root

SECOND = 1_000_000_000


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    for path in ("etc/conf", "etc/other", "etc/moved", "usr/d/a", "usr/d/e/b", "usr/f"):
        machine.write(path, "original\n")
    return machine


def sh(command: str) -> Callable[[], int]:
    return lambda: os.system(command)


@pytest.mark.parametrize(
    ("container", "host", "clashing"),
    [
        # the same path, changed on both sides
        ("echo c > etc/conf", "echo h > etc/conf", {"/etc/conf": "changed on the host"}),
        ("echo c > etc/conf", "chmod 600 etc/conf", {"/etc/conf": "changed on the host"}),
        ("echo c > etc/conf", "touch -d 2001-01-01 etc/conf", {"/etc/conf": "changed on the host"}),
        ("rm etc/conf", "echo h > etc/conf", {"/etc/conf": "changed on the host"}),
        ("chmod 700 etc/conf", "echo h > x; mv x etc/conf", {"/etc/conf": "changed on the host"}),
        ("echo c > etc/new", "echo h > etc/new", {"/etc/new": "changed on the host"}),
        ("mkdir etc/new", "echo h > etc/new", {"/etc/new": "changed on the host"}),
        # gone on the host: only overlayfs' note of the origin tells
        ("echo c > etc/conf", "rm etc/conf", {"/etc/conf": "deleted, moved or replaced on the host"}),
        ("echo c > etc/conf", "mv etc/conf etc/x", {"/etc/conf": "deleted, moved or replaced on the host"}),
        ("chmod 700 usr/d", "rm -r usr/d", {"/usr/d": "deleted, moved or replaced on the host"}),
        # directories that are to go
        ("rm -r usr/d", "echo h > usr/d/new", {"/usr/d": "changed on the host", "/usr/d/new": "changed on the host"}),
        ("rm -r usr/d", "echo h > usr/d/e/b", {"/usr/d/e/b": "changed on the host"}),
        ("rm -r usr/d; echo > usr/d", "echo h > usr/d/a", {"/usr/d/a": "changed on the host"}),
        ("rm -r usr/d; mkdir usr/d", "echo h > usr/d/a", {"/usr/d/a": "changed on the host"}),
        ("rm -r usr/d; mkdir usr/d", "echo h > usr/d/n", {"/usr/d/n": "changed on the host"}),
        # directories' own attributes
        ("chmod 700 usr/d", "chown 3 usr/d", {"/usr/d": "changed on the host"}),
        # not a conflict
        ("echo c > etc/conf", "echo h > etc/other; echo h > etc/new", {}),
        ("echo c > etc/new", "rm etc/conf", {}),
        ("rm etc/conf", "rm etc/conf", {}),
        ("mv etc/moved etc/renamed; echo c >> etc/renamed", "echo h > etc/new", {}),
        ("mv usr/d/a etc/renamed", "echo h > etc/new", {}),
        ("ln etc/moved etc/linked; echo c >> etc/linked", "echo h > etc/new", {}),
        ("ln etc/moved etc/linked", "echo h > etc/new", {}),
        ("rm etc/conf; echo c > etc/conf", "true", {}),
        ("rm -r usr/d; mkdir usr/d; echo c > usr/d/a", "touch usr", {}),
        ("true", "echo h > etc/conf", {}),
    ],
)  # fmt: skip
def test_what_clashes(machine: Machine, container: str, host: str, clashing: dict[str, str]) -> None:
    machine.run(sh(container))
    settle()
    os.system(f"cd {machine.root} && ({host})")
    before = picture(machine.root)
    changes = machine.changes()
    if clashing:
        with pytest.raises(HostChanged) as caught:
            machine.apply()
        found = {clash.path.decode(): clash.reason for clash in caught.value.clashes}  # type: ignore[attr-defined]
        assert found == clashing
        for path, reason in clashing.items():
            assert f"{path}: {reason}" in str(caught.value)
        assert picture(machine.root) == before
        assert history(machine.journal) == []
        assert clashes_of(changes, machine.journal, started_ns=machine.started_ns, root=machine.root)
        merged = machine.merged_picture()
        applied = machine.apply(force=True)
        assert {clash.path.decode() for clash in applied.forced} == set(clashing)
        # times of directories in which the host was busy; and a file that it moved, of which the mount is confused
        assert differences(picture(machine.root), merged).keys() <= {".", "etc", "etc/x", "usr", "usr/d"}
    else:
        assert clashes_of(changes, machine.journal, started_ns=machine.started_ns, root=machine.root) == []
        machine.apply()
    if history(machine.journal):
        machine.undo()
        assert differences(picture(machine.root), before).keys() == set()


def test_both_sides_are_shown(machine: Machine) -> None:
    machine.run(sh("echo container > etc/conf; rm etc/other"))
    os.system(f"cd {machine.root}; echo h > etc/conf; rm etc/other; ln -s x etc/other")
    with pytest.raises(HostChanged) as caught:
        machine.apply()
    text = str(caught.value)
    assert "the host changed 2 paths since the container started" in text
    assert "    host:      file 0644 0:0, 2 bytes, changed 20" in text
    assert "    container: file 0644 0:0, 10 bytes, modified 20" in text
    assert "    container: nothing" in text
    assert "--force" in text


def test_a_clash_may_be_excluded(machine: Machine) -> None:
    machine.run(sh("echo c > etc/conf; echo c > etc/other"))
    os.system(f"echo h > {machine.root}/etc/conf")
    machine.apply(exclude=["/etc/conf"])
    assert (machine.root / "etc/conf").read_text() == "h\n"
    assert (machine.root / "etc/other").read_text() == "c\n"


def test_an_own_apply_is_no_change_of_the_hosts(machine: Machine) -> None:
    machine.run(sh("echo 1 > etc/conf; echo 1 > etc/other; mkdir n; echo 1 > n/f"))
    machine.apply("/etc/conf")
    machine.apply("/n", "/etc/other")
    machine.run(sh("echo 2 > etc/conf; echo 2 > n/f; rm etc/other; chmod 700 n"))
    machine.apply("/etc")
    machine.undo()
    merged = machine.merged_picture()
    machine.apply()
    assert differences(picture(machine.root), merged) == {}
    settle()
    os.system(f"echo h > {machine.root}/n/f")
    machine.run(sh("echo 3 > n/f"))
    with pytest.raises(HostChanged):
        machine.apply()


def test_a_renamed_file_applied_in_two_parts(machine: Machine) -> None:
    """Its old name goes first; then its original is nowhere, but that was not the host."""
    machine.run(sh("mv etc/moved etc/renamed; mv usr/d/a usr/g; rm -r usr/d"))
    merged = machine.merged_picture()
    machine.apply("/etc/moved")
    machine.apply("/usr/d")
    machine.apply()
    assert differences(picture(machine.root), merged).keys() <= {"etc", "usr"}


def test_undo_refuses_what_the_host_changed_since(machine: Machine) -> None:
    machine.run(sh("echo c > etc/conf; rm etc/other; mkdir -p n/m; echo c > n/m/f; chmod 700 usr"))
    before = picture(machine.root)
    machine.apply()
    settle()
    os.system(
        f"cd {machine.root}; echo h >> etc/conf; echo h > etc/other; echo h > n/m/g; chmod 755 usr; rm n/m/f"
    )
    after = picture(machine.root)
    with pytest.raises(HostChanged) as caught:
        machine.undo()
    assert {c.path.decode(): c.reason for c in caught.value.clashes} == {  # type: ignore[attr-defined]
        "/etc/conf": "changed on the host",
        "/etc/other": "created on the host",
        "/n/m": "changed on the host",
        "/n/m/f": "deleted on the host",
        "/n/m/g": "created on the host",
        "/usr": "changed on the host",
    }
    assert picture(machine.root) == after
    undone = machine.undo(force=True)
    assert len(undone.forced) == 6
    assert differences(picture(machine.root), before).keys() <= {
        ".",
        "etc",
        "usr",
    }  # times: the host was there
    with pytest.raises(NotFound):
        machine.undo()


def test_undo_leaves_the_times_of_directories_where_the_host_was_busy(machine: Machine) -> None:
    machine.run(sh("echo c > etc/conf; rm etc/moved"))
    before = picture(machine.root)
    machine.apply()
    settle()
    machine.write("etc/unrelated", "host")
    machine.undo()
    found = differences(picture(machine.root), before)
    assert found.keys() == {"etc", "etc/unrelated"}
    assert picture(machine.root)["etc"][4] > before["etc"][4]


def test_applies_are_undone_newest_first(machine: Machine) -> None:
    pictures = [picture(machine.root)]
    for number in range(3):
        machine.run(
            sh(
                f"echo {number} > etc/conf; mkdir -p n{number}/x; rm -rf n{number - 1}; echo {number} > n{number}/f"
            )
        )
        machine.apply()
        pictures.append(picture(machine.root))
    for number in (3, 2, 1):
        assert differences(picture(machine.root), pictures[number]) == {}
        undone = machine.undo()
        assert (undone.number, undone.remaining) == (number, number - 1)
    assert differences(picture(machine.root), pictures[0]) == {}
    assert [past.state for past in history(machine.journal)] == ["undone"] * 3


@pytest.mark.parametrize(
    ("ctime", "started", "changed"),
    [
        (10 * SECOND + 5, 10 * SECOND + 5, True),
        (10 * SECOND + 4, 10 * SECOND + 5, False),
        (10 * SECOND + 6, 10 * SECOND + 5, True),
        (10 * SECOND, 10 * SECOND + 5, True),  # whole seconds: in the same one
        (9 * SECOND, 10 * SECOND + 5, False),
        (10 * SECOND + 5_000_000, 10 * SECOND + 5_999_999, True),  # milliseconds
        (10 * SECOND + 4_000_000, 10 * SECOND + 5_999_999, False),
    ],
)
def test_coarse_stamps_count_as_changed_where_they_cannot_tell(
    ctime: int, started: int, changed: bool
) -> None:
    assert changed_since(ctime, started) is changed


def test_the_start_is_between_what_is_before_and_what_is_after(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / "before").write_text(str(number))
        started = moment(tmp_path / "mark")
        (tmp_path / "after").write_text(str(number))
        assert (tmp_path / "before").stat().st_ctime_ns <= started <= (tmp_path / "after").stat().st_ctime_ns


def test_a_file_system_that_was_mounted_on_a_directory_that_goes(machine: Machine) -> None:
    machine.write("d/f", "old")
    machine.run(sh("rm -r d"))

    def meanwhile() -> None:
        subprocess.run(["mount", "-t", "tmpfs", "none", machine.root / "d"], check=True)
        for force in (False, True):
            with pytest.raises(HostChanged, match="/d: a file system was mounted on it"):
                machine.apply(force=force)

    in_mount_namespace(meanwhile)
    machine.apply()
    assert not (machine.root / "d").exists()
