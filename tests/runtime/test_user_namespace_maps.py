"""Id maps: what cannot be meant is refused before the kernel is asked, and a namespace that has only maps."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import InvalidInput, StepFailed
from lamina.linux import descriptors
from lamina.linux.namespaces import ns_owner_uid, ns_type
from lamina.overlay.spec import MountSpec
from lamina.runtime import stacks
from lamina.runtime.bundle import NULL, Bundle, Wiring
from lamina.runtime.id_maps import LARGEST_ID, MOST_MAPPINGS, mapped_namespace, write_id_maps
from lamina.runtime.plan.namespaces import FLAGS
from support.held import held_descriptors
from support.process import children

WHOLE = [{"containerID": 0, "hostID": 100_000, "size": 65536}]


def some(count: int) -> list[dict[str, int]]:
    return [{"containerID": 2 * n, "hostID": 2 * n, "size": 1} for n in range(count)]


def two(inside: int, outside: int) -> list[dict[str, int]]:
    return [
        {"containerID": 0, "hostID": 9, "size": 5},
        {"containerID": inside, "hostID": outside, "size": 5},
    ]


@pytest.mark.parametrize(
    ("maps", "complaint"),
    [
        ([], "0 entries"),
        (some(MOST_MAPPINGS + 1), "341 entries, 1 to 340"),
        (some(65536), "65536 entries"),
        ([{"containerID": 0, "hostID": 0, "size": 0}], "out of range"),
        ([{"containerID": -1, "hostID": 0, "size": 1}], "out of range"),
        ([{"containerID": 0, "hostID": 1 << 32, "size": 1}], "out of range"),
        ([{"containerID": 0, "hostID": 0, "size": 1 << 70}], "out of range"),
        ([{"containerID": 5, "hostID": 0, "size": LARGEST_ID}], "beyond the last id"),
        (two(4, 99), "containerID 4 is in two"),
        (two(7, 13), "hostID 13 is in two"),
    ],
)  # fmt: skip
def test_cve_2021_43784_maps_that_cannot_be_meant(maps: list[dict[str, Any]], complaint: str) -> None:
    """Also when there are more than a message could count, or numbers larger than the kernel's."""
    for document in (
        {"uidMappings": maps, "gidMappings": WHOLE},
        {"uidMappings": WHOLE, "gidMappings": maps},
    ):
        with pytest.raises(InvalidInput, match=complaint):
            write_id_maps(os.getpid(), document)


@pytest.mark.root
@pytest.mark.parametrize("count", [1, MOST_MAPPINGS])
def test_a_namespace_that_has_maps_and_nobody_in_it(count: int) -> None:
    gc.collect()  # what other tests left is not to go meanwhile
    before, young = held_descriptors(), children()
    with mapped_namespace(some(count), WHOLE) as namespace:
        assert ns_type(namespace) == FLAGS["user"]
        assert ns_owner_uid(namespace) == os.getuid()
        assert os.readlink("/proc/self/ns/user") != os.readlink(f"/proc/self/fd/{int(namespace)}")
    assert held_descriptors() == before
    assert children() <= young  # others may end meanwhile
    with pytest.raises(InvalidInput):
        mapped_namespace([], WHOLE)
    assert Path("/proc/self/fd").exists()


@pytest.mark.root
def test_a_helper_that_fails_is_noticed_whoever_has_its_channel_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that the program forks meanwhile has a copy of both ends, and may live for long."""
    copies: list[int] = []

    def socketpair(kind: int) -> tuple[int, int]:
        ours, theirs = descriptors.socketpair(kind)
        copies.append(os.dup(theirs))
        return ours, theirs

    monkeypatch.setattr(stacks, "socketpair", socketpair)
    bundle = Bundle({}, MountSpec((os.fsencode(tmp_path / "missing"),)), os.fsencode(tmp_path))
    known = Wiring(-1, NULL, NULL, NULL, release=stacks.KERNEL, lowerdir_plus=True)
    before = children()
    with mapped_namespace(WHOLE, WHOLE) as namespace, pytest.raises(StepFailed, match="missing"):
        stacks.mapped_stacks(bundle, namespace, (100_000, 100_000), known)
    for copy in copies:
        os.close(copy)
    assert children() == before
