"""Control groups: what is written where, on a tree in a directory; and the real one of this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.errors import InvalidInput, KernelError, Unsupported
from lamina.runtime.cgroups import Layout, create, read_layout, remove_directories, settings

V1 = Layout({c: b"/sys/fs/cgroup/" + c.encode() for c in ("memory", "cpu", "pids")}, None, frozenset())
V2 = Layout({}, b"/sys/fs/cgroup", frozenset({"memory", "cpu", "pids"}))


@pytest.mark.parametrize(
    ("resources", "v1", "v2"),
    [
        ({"memory": {"limit": 1 << 20}}, [("memory.limit_in_bytes", "1048576")], [("memory.max", "1048576")]),
        ({"memory": {"limit": -1}}, [("memory.limit_in_bytes", "-1")], [("memory.max", "max")]),
        (
            {"memory": {"limit": 100, "swap": 300}},
            [("memory.limit_in_bytes", "100"), ("?memory.memsw.limit_in_bytes", "300")],
            [("memory.max", "100"), ("?memory.swap.max", "200")],
        ),
        ({"cpu": {"shares": 1024}}, [("cpu.shares", "1024")], [("cpu.weight", "39")]),
        ({"cpu": {"shares": 2}}, [("cpu.shares", "2")], [("cpu.weight", "1")]),
        ({"cpu": {"shares": 262144}}, [("cpu.shares", "262144")], [("cpu.weight", "10000")]),
        (
            {"cpu": {"quota": 50_000, "period": 100_000}},
            [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "50000")],
            [("cpu.max", "50000 100000")],
        ),
        ({"cpu": {"quota": -1}}, [("cpu.cfs_quota_us", "-1")], [("cpu.max", "max 100000")]),
        ({"pids": {"limit": 9}}, [("pids.max", "9")], [("pids.max", "9")]),
        ({"pids": {"limit": -1}}, [("pids.max", "max")], [("pids.max", "max")]),
    ],
)
def test_a_limit_in_the_words_of_both_versions(resources, v1, v2):
    (controller,) = resources
    assert settings(resources, V1) == {controller: v1}
    assert settings(resources, V2) == {controller: v2}


def test_nothing_asked_is_nothing_made():
    assert settings({"memory": {"limit": None}, "pids": {}}, V1) == {}
    assert create("/lamina/x", {}) is None


def test_a_limit_without_its_controller_is_refused():
    with pytest.raises(Unsupported, match="memory"):
        settings({"memory": {"limit": 1}}, Layout({}, None, frozenset()))


def test_a_resource_that_is_not_handled_is_refused_not_dropped():
    with pytest.raises(Unsupported, match="hugepageLimits"):
        settings({"hugepageLimits": [{}]}, V1)


@pytest.mark.parametrize("path", ["", "/", "/../../etc", "a/../b"])
def test_a_path_outside_the_hierarchy_is_refused(path):
    with pytest.raises(InvalidInput):
        create(path, {"pids": {"limit": 1}}, V1)


@pytest.fixture
def unified(tmp_path):
    """A v2 tree as plain files: what is written can be read."""
    (tmp_path / "cgroup.controllers").write_text("memory pids")
    return Layout({}, os.fsencode(tmp_path), frozenset({"memory", "pids"}))


def test_v2_hands_the_controller_down_to_the_containers_parent(tmp_path, unified):
    cgroup = create("/lamina/box", {"memory": {"limit": 4096}, "pids": {"limit": 3}}, unified)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+pids"
    assert (tmp_path / "lamina/cgroup.subtree_control").read_text() == "+pids"
    assert not (tmp_path / "lamina/box/cgroup.subtree_control").exists()
    assert (tmp_path / "lamina/box/memory.max").read_text() == "4096"
    assert (tmp_path / "lamina/box/pids.max").read_text() == "3"
    assert cgroup is not None and cgroup.v2 is not None
    cgroup.close()


def test_the_layout_of_a_hybrid_host(tmp_path):
    assert read_layout().v1 or read_layout().v2


@pytest.mark.root
def test_a_refused_value_leaves_no_directory():
    layout = read_layout()
    with pytest.raises(KernelError, match=r"pids\.max"):
        create(f"/lamina-test-{os.getpid()}/bad", {"pids": {"limit": 1 << 70}}, layout)
    root = os.fsdecode(layout.v1.get("pids") or layout.v2 or b"")
    assert not Path(root, f"lamina-test-{os.getpid()}").exists()


@pytest.mark.root
def test_made_twice_and_removed_twice_is_no_error():
    name = f"/lamina-test-{os.getpid()}-twice/box"
    first = create(name, {"pids": {"limit": 5}})
    second = create(name, {"pids": {"limit": 6}})
    assert first is not None and second is not None
    first.close()
    second.close()
    first.remove()
    remove_directories(second.paths)
    assert not os.path.exists(first.paths["pids"])
    assert not os.path.exists(os.path.dirname(first.paths["pids"]))
