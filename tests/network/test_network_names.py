"""Names of containers in a network, as files: taken, shared, given back, also by many at once."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from lamina.network import names
from lamina.network.subnet import packed

ONE, OTHER = "a" * 64, "b" * 64
FOUR, SIX, FIVE = packed("10.1.0.4"), packed("fd00::6"), packed("10.1.0.5")


def test_a_name_has_all_addresses_of_all_who_have_it(tmp_path):
    place = os.fsencode(tmp_path / "names")
    os.mkdir(place)
    assert names.is_empty(place)
    names.take(place, "Web", ONE, [FOUR, SIX])
    names.take(place, "web", OTHER, [FIVE])
    assert names.find(place, "wEB") == [FOUR, FIVE, SIX]
    assert names.every(place) == {("web", ONE), ("web", OTHER)}
    names.take(place, "web", OTHER, [FIVE])  # as it is
    names.give_back(place, "web", ONE)
    names.give_back(place, "web", ONE)
    assert names.find(place, "web") == [FIVE]
    assert not names.is_empty(place)
    names.give_back(place, "web", OTHER)
    assert names.is_empty(place)
    assert names.find(place, "web") == []


def test_names_that_are_none_are_nobodys(tmp_path):
    place = os.fsencode(tmp_path / "network/names")
    os.makedirs(place)
    (tmp_path / "network/network.json").write_text("{}")
    for name in ("..", ".", "", "../network.json", "a/b", "a..b", "x" * 64, "a" * 300, "\0", "é"):
        assert not names.is_name(name)
        assert names.find(place, name) == []
    assert names.is_name("db.1_a-b")


def test_a_network_that_is_gone(tmp_path):
    place = os.fsencode(tmp_path / "gone/names")
    with pytest.raises(FileNotFoundError):
        names.take(place, "web", ONE, [FOUR])
    assert names.is_empty(place)
    assert names.every(place) == set()
    os.mkdir(tmp_path / "gone")  # one that was made before there were names
    names.take(place, "web", ONE, [FOUR])
    assert names.find(place, "web") == [FOUR]


def test_many_who_come_and_go_with_the_same_name(tmp_path):
    place = os.fsencode(tmp_path / "names")

    def one(number: int) -> bool:
        owner, own = f"{number:064x}", packed(f"10.1.0.{number}")
        for _ in range(20):
            names.take(place, "web", owner, [own])
            if own not in names.find(place, "web"):
                return False
            names.give_back(place, "web", owner)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(1, 9)))
    assert names.is_empty(place)
