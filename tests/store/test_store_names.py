"""Names and ids: what is one, and that a name belongs to one container at a time."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import Conflict, InvalidInput
from lamina.store import names

DOCKERS = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}\Z")


@given(
    st.text(max_size=140)
    | st.from_regex(r"[a-zA-Z0-9_.-]{0,130}", fullmatch=True)
    | st.sampled_from(["", ".", "..", "a/b", "/", "a\n", "a\0", "-a", "ä", "٣", "a" * 128, "a" * 129])
)
def test_a_name_is_what_docker_takes_for_one(text: str) -> None:
    try:
        names.check_name(text)
    except InvalidInput:
        assert not DOCKERS.match(text)
    else:
        assert DOCKERS.match(text)


@given(st.text(max_size=70) | st.from_regex(r"[0-9a-f]{60,66}", fullmatch=True))
def test_an_id_is_64_hexadecimal_digits(text: str) -> None:
    assert names.is_id(text) == bool(re.fullmatch(r"[0-9a-f]{64}", text))


def test_new_ids_are_ids_and_differ() -> None:
    made = {names.new_id() for _ in range(100)}
    assert len(made) == 100
    assert all(map(names.is_id, made))


@pytest.mark.parametrize("attempt", [0, 1, 2, 50])
def test_random_names_are_names(attempt: int) -> None:
    made = {names.random_name(attempt) for _ in range(200)}
    assert len(made) > 100
    for name in made:
        assert re.fullmatch(r"[a-z]+_[a-z]+[0-9]*", names.check_name(name))


class Names:
    """A names directory with containers beside it."""

    def __init__(self, tmp_path: Path) -> None:
        self.names, self.alive = tmp_path / "names", tmp_path / "containers"
        self.names.mkdir()
        self.alive.mkdir()

    def container(self) -> str:
        identity = names.new_id()
        (self.alive / identity).mkdir()
        return identity

    def take(self, name: str, identity: str) -> None:
        names.take(os.fsencode(self.names), name, identity, os.fsencode(self.alive))

    def holder(self, name: str) -> str | None:
        return names.holder(os.fsencode(self.names), name)

    def remove(self, identity: str) -> None:
        (self.alive / identity).rmdir()

    def drop_stale(self, name: str) -> None:
        names.drop_stale(os.fsencode(self.names), name, os.fsencode(self.alive))


@pytest.fixture
def place(tmp_path: Path) -> Names:
    return Names(tmp_path)


def test_a_taken_name_is_refused_until_its_container_is_gone(place: Names) -> None:
    first, second = place.container(), place.container()
    place.take("web", first)
    with pytest.raises(Conflict, match=f"web: taken by container {first[:12]}"):
        place.take("web", second)
    place.drop_stale("web")  # it is not: nothing happens
    assert place.holder("web") == first
    place.remove(first)
    place.drop_stale("web")
    assert place.holder("web") is None
    place.drop_stale("web")
    place.take("web", second)
    assert place.holder("web") == second


def test_the_name_of_a_container_that_is_gone_is_free(place: Names) -> None:
    place.take("web", names.new_id())
    here = place.container()
    place.take("web", here)
    assert place.holder("web") == here


def test_a_name_that_is_not_a_link_of_ours_has_no_holder(place: Names) -> None:
    (place.names / "odd").symlink_to("/etc/passwd")
    (place.names / "file").write_text("x")
    assert place.holder("odd") is None
    assert place.holder("file") is None


def test_of_many_who_want_a_name_one_gets_it(place: Names) -> None:
    """Also when the name is stale, and all find that out at once."""
    for _ in range(20):
        (place.names / "x").unlink(missing_ok=True)
        place.take("x", names.new_id())
        wanting = [place.container() for _ in range(6)]
        got: list[str] = []

        def want(identity: str, got: list[str] = got) -> None:
            try:
                place.take("x", identity)
                got.append(identity)
            except Conflict:
                pass

        threads = [threading.Thread(target=want, args=(identity,)) for identity in wanting]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 1
        assert place.holder("x") == got[0]
