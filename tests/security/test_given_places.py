"""Volumes with U, z and Z: the system's own places stay the system's, by whatever way they are named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.engine.mounted import _own_source
from lamina.engine.options import BIND, Volume
from lamina.errors import InvalidInput
from lamina.store.root import Store


@pytest.fixture
def store(store_root: Path) -> Store:
    return Store(store_root)


def place_of(store: Store, source: bytes) -> bytes:
    """What would be given away, or labelled. Nothing is."""
    return _own_source(store, Volume(source, b"/x", (), BIND), "it is the system's")


@pytest.mark.parametrize(
    "named",
    [
        "/",
        "/etc",
        "/usr",
        "/bin",
        "/lib",
        "/sbin",
        "/usr/lib",
        "/usr/bin",
        "/var/lib",
        "/var/log",
        "/etc/shadow",
    ],
)
@pytest.mark.parametrize("written", ["{}", "{}/", "/tmp/..{}", "/proc/self/root{}", "/proc/self/root/{}/."])
def test_the_system_is_not_given_away(store: Store, named: str, written: str) -> None:
    """/lib is a link on most systems: what it leads to is the system's as well."""
    if written.endswith("/.") and not os.path.isdir(named):
        written = "{}"
    with pytest.raises(InvalidInput, match="it is the system's"):
        place_of(store, os.fsencode(written.format(named)))


def test_nor_by_a_link_of_somebody_elses(store: Store, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to("/lib")
    (tmp_path / "more").symlink_to("data/../..")
    for name in ("data", "more"):
        with pytest.raises(InvalidInput, match="it is the system's"):
            place_of(store, bytes(tmp_path / name))
    (tmp_path / "own").mkdir()
    assert place_of(store, bytes(tmp_path / "own")) == bytes(tmp_path / "own")
