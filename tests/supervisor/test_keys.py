"""Detach keys: docker's notation, and what is held back until it is clear what is meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import InvalidInput
from lamina.supervisor.keys import Keys, read_keys


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (None, b"\x10\x11"),
        ("", b""),
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("Ctrl-A,b,C", b"\x01bC"),
        ("ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", b"\x00\x1b\x1c\x1d\x1e\x1f"),
        ("a", b"a"),
    ],
)
def test_keys_are_read_as_docker_reads_them(text: str | None, meant: bytes) -> None:
    assert read_keys(text) == meant


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-1", "ab", "ctrl-p,", ",", "ctrl-pp", "é", "alt-x"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="detach keys"):
        read_keys(text)


def test_the_beginning_is_held_back_until_it_is_clear() -> None:
    keys = Keys(b"\x10\x11")
    assert keys.pass_on(b"ab\x10") == b"ab"
    assert keys.pass_on(b"c") == b"\x10c"
    assert keys.pass_on(b"\x10\x10") == b"\x10"
    assert keys.pass_on(b"\x11rest") == b""
    assert keys.pressed


def test_at_the_end_of_input_nothing_is_lost() -> None:
    keys = Keys(b"xyz")
    assert keys.pass_on(b"1xy") == b"1"
    assert keys.rest() == b"xy"
    assert not keys.pressed


LETTERS = st.text("abc", max_size=4).map(str.encode)


@given(st.lists(LETTERS), st.sampled_from([b"a", b"ab", b"aab", b"abab", b""]))
def test_pieces_do_not_matter(pieces: list[bytes], sequence: bytes) -> None:
    keys, whole = Keys(sequence), b"".join(pieces)
    passed = b"".join(map(keys.pass_on, pieces))
    if sequence and sequence in whole:
        assert keys.pressed
        # what follows the keys is nobody's: it came when nobody was attached any more
        assert passed.startswith(whole[: whole.find(sequence)])
    else:
        assert not keys.pressed
        assert passed + keys.rest() == whole
