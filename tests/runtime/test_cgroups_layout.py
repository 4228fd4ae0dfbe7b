"""Where control groups are: mounts, the process's own groups, what was delegated; on trees of plain files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.errors import InvalidInput
from lamina.runtime.cgroups import Layout, read_layout
from lamina.runtime.cgroups.delegation import delegated, own, settle
from lamina.runtime.cgroups.layout import V1_CONTROLLERS, relative_path
from support.cgroupfs import FakeV1, FakeV2


def test_the_layout_of_this_machine():
    layout = read_layout()
    lines = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    kinds = {line[line.index("-") + 1] for line in lines}
    assert (layout.v2 is not None) == ("cgroup2" in kinds)
    assert bool(layout.v1) == ("cgroup" in kinds)
    for place in layout.v1.values():
        assert Path(os.fsdecode(place), "cgroup.procs").exists()
    assert {name for name in layout.v1 if "=" not in name} <= V1_CONTROLLERS


def test_this_process_is_in_its_own_groups():
    layout = read_layout()
    for name, place in own(layout).items():
        assert str(os.getpid()) in Path(os.fsdecode(place), "cgroup.procs").read_text().split(), name


OWN = """\
9:name=systemd:/user.slice
4:cpu,cpuacct:/docker/abc/x
0::/docker/abc
"""


def test_own_groups_below_a_mount_of_a_part(tmp_path):
    layout = Layout(
        {"cpu": b"/c", "cpuacct": b"/c", "name=systemd": b"/s"},
        b"/u",
        frozenset(),
        ((b"/c", b"/docker/abc"), (b"/s", b"/a")),
    )
    groups = _mapped(tmp_path, OWN)
    assert own(layout, groups) == {"cpu": b"/c/x", "cpuacct": b"/c/x", "": b"/u/docker/abc"}


def _mapped(tmp_path: Path, text: str) -> str:
    """A "pid" under which `own` finds *text* as that process's groups."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cgroup").write_text(text)
    return os.path.relpath(tmp_path / "proc", "/proc")


@pytest.mark.parametrize("path", ["", "/", "/../../etc", "a/../b", "..", "a\nb", "a\0b"])
def test_a_path_outside_the_hierarchy_is_refused(path):
    with pytest.raises(InvalidInput, match="not a path below the hierarchy"):
        relative_path(path)


@pytest.mark.parametrize(
    ("path", "relative"), [("/a/b", b"a/b"), ("a", b"a"), ("/a..b/", b"a..b"), ("/\udcff", b"\xff")]
)
def test_a_path_below_the_hierarchy(path, relative):
    assert relative_path(path) == relative


# -- delegation; as whoever runs the suite, root included: what is not writable does not exist


def _delegated_tree(tmp_path: Path, own_group: str, *inhabited: str) -> Layout:
    """A v2 tree of which only user@1000.service and what is below may be divided."""
    fake = FakeV2(tmp_path / "v2")
    fake.group(own_group)
    for group in inhabited:
        (tmp_path / "v2" / group / "cgroup.procs").write_text("77\n")
    for above in ("", "user.slice", "user.slice/user-1000.slice"):
        (tmp_path / "v2" / above / "cgroup.subtree_control").unlink(missing_ok=True)
    return fake.layout


SERVICE = "user.slice/user-1000.slice/user@1000.service"


@pytest.mark.parametrize(
    ("own_group", "inhabited", "found"),
    [
        (f"{SERVICE}/app.slice/shell.scope", [f"{SERVICE}/app.slice/shell.scope"], f"{SERVICE}/app.slice"),
        (f"{SERVICE}/shell.scope", [f"{SERVICE}/shell.scope", SERVICE], None),
        (f"{SERVICE}/empty", [], f"{SERVICE}/empty"),
        ("user.slice/user-1000.slice/session-3.scope", ["user.slice/user-1000.slice/session-3.scope"], None),
    ],
    ids=["an application", "nothing without processes", "an empty one", "a session that is the system's"],
)
def test_what_was_delegated_is_found(tmp_path, own_group, inhabited, found):
    layout = _delegated_tree(tmp_path, own_group, *inhabited)
    groups = _mapped(tmp_path, f"0::/{own_group}\n")
    assert delegated(layout, groups) == (None if found is None else os.fsencode(tmp_path / "v2" / found))


def test_a_relative_path_begins_where_something_was_delegated(tmp_path):
    group = f"{SERVICE}/app.slice/shell.scope"
    layout = _delegated_tree(tmp_path, group, group)
    (tmp_path / "v2" / SERVICE / "app.slice/cgroup.controllers").write_text("memory pids\n")
    settled = settle(layout, _mapped(tmp_path, f"0::/{group}\n"))
    assert settled.v2 == os.fsencode(tmp_path / "v2" / SERVICE / "app.slice")
    assert settled.v2_controllers == {"memory", "pids"}


def test_a_relative_path_begins_at_the_mount_point_of_whoever_may_divide_it(tmp_path):
    layout = FakeV2(tmp_path / "v2").layout
    assert settle(layout) == layout
    v1 = FakeV1(tmp_path / "v1", controllers=("cpu", "memory")).layout
    assert settle(v1) == v1


def test_without_delegation_there_are_no_controllers(tmp_path):
    layout = _delegated_tree(tmp_path, "user.slice/user-1000.slice/session-3.scope")
    (tmp_path / "v2/user.slice/user-1000.slice/session-3.scope/cgroup.subtree_control").unlink()
    settled = settle(layout, _mapped(tmp_path, "0::/user.slice/user-1000.slice/session-3.scope\n"))
    assert settled.v2_controllers == frozenset()
