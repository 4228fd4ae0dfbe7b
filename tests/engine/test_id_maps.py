"""Which ids an ordinary user's containers have."""

from __future__ import annotations

import os

import pytest

from lamina.engine.id_maps import IdMaps, id_maps, maps_for

PASSWD = b"ann:x:1000:1000::/home/ann:/bin/sh\n"


def maps(subuid: bytes, subgid: bytes | None = None, helpers: bool = True, uid: int = 1000) -> IdMaps:
    files = {
        "/etc/passwd": PASSWD,
        "/etc/subuid": subuid,
        "/etc/subgid": subuid if subgid is None else subgid,
    }
    return maps_for(uid, 100, lambda path: files[path], helpers)


OWN = IdMaps(((0, 1000, 1),), ((0, 100, 1),))


def test_the_whole_range_follows_the_own_id() -> None:
    assert maps(b"ann:100000:65536\n", b"ann:200000:65536\n") == IdMaps(
        ((0, 1000, 1), (1, 100000, 65536)), ((0, 100, 1), (1, 200000, 65536))
    )


def test_several_ranges_by_name_and_by_number() -> None:
    text = (
        b"bob:1:5\nann:100000:10\n# comment\n1000:300000:20\n\nann:bad:5\nann:5\nann:4294967290:10\nann:7:0\n"
    )
    assert maps(text).uids == ((0, 1000, 1), (1, 100000, 10), (11, 300000, 20))


@pytest.mark.parametrize(
    ("subuid", "subgid", "helpers"),
    [
        (b"", b"", True),
        (b"ann:1:5", b"", True),
        (b"", b"ann:1:5", True),
        (b"ann:1:5", b"ann:1:5", False),
        (b"bob:1:5", None, True),
    ],
)
def test_without_ranges_or_helpers_there_is_the_own_id(
    subuid: bytes, subgid: bytes | None, helpers: bool
) -> None:
    found = maps(subuid, subgid, helpers)
    assert found == OWN
    assert not found.whole


def test_which_ids_there_are() -> None:
    found = maps(b"ann:100000:10\n")
    assert found.has(0, 0)
    assert found.has(10, 10)
    assert not found.has(11, 0)
    assert not found.has(0, 11)
    assert not OWN.has(1, 0)


def test_as_the_specification_writes_them() -> None:
    assert maps(b"ann:100000:10\n").spec()["uidMappings"] == [
        {"containerID": 0, "hostID": 1000, "size": 1},
        {"containerID": 1, "hostID": 100000, "size": 10},
    ]


def test_root_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert id_maps() is None


def test_a_user_in_no_file_goes_by_number() -> None:
    assert maps(b"4321:100000:10\n", uid=4321).uids == ((0, 4321, 1), (1, 100000, 10))
