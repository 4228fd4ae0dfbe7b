"""CVE-2024-25621: what is made under an open umask is nobody else's all the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.runtime.cgroups import create

pytestmark = pytest.mark.root


@pytest.fixture
def open_mask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_cve_2024_25621_control_groups_cannot_be_joined_by_others(open_mask: None) -> None:
    """Who may make a directory in ours leaves behind the limits of the group he was in."""
    name = f"lamina-mask-{os.getpid()}"
    cgroup = create(f"/{name}/between/{name}", {"pids": {"limit": 100}})
    assert cgroup is not None
    try:
        for path in map(os.fsdecode, cgroup.paths.values()):
            for made in (Path(path), Path(path).parent, Path(path).parent.parent):
                assert made.name in (name, "between")
                assert made.stat().st_mode & 0o022 == 0, made
    finally:
        cgroup.close()
        cgroup.remove()
        for path in map(os.fsdecode, cgroup.paths.values()):
            top = Path(path).parent.parent
            if top.exists():
                top.rmdir()
