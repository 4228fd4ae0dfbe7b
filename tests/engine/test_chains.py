"""Chains of containers, as records: what is frozen, gone back to, referred to. Pure."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.engine import chains
from lamina.engine.layers import stacks_of
from lamina.store.snapshots import referred_to

HOME = b"/store/containers/c"
A, B, X, Y, Z = ("a" * 64, "b" * 64, "x" + "1" * 63, "x" + "2" * 63, "x" + "3" * 63)


def image_record() -> dict[str, Any]:
    lower = [f"../../layers/{one}/fs" for one in (B, A)]
    entry = {"at": "/", "inode": 0, "lower": lower, "upper": "upper-0", "work": "work-0", "userxattr": False}
    return {"id": "c", "layers": [A, B], "overlays": [entry], "image_id": "1" * 64}


def host_record() -> dict[str, Any]:
    def entry(at: str, number: int | None) -> dict[str, Any]:
        upper = None if number is None else f"upper-{number}"
        work = None if number is None else f"work-{number}"
        return {"at": at, "inode": 7, "lower": [at], "upper": upper, "work": work, "userxattr": True}

    return {"id": "c", "overlays": [entry("/", 0), entry("/home", 3), entry("/boot", None)]}


def lowers(asked: dict[str, Any], at: bytes = b"/") -> list[bytes]:
    return list(dict(stacks_of(asked["overlays"], HOME))[at].lowerdirs)


def tree(layer: str) -> bytes:
    return b"/store/layers/%b/fs" % layer.encode()


def test_what_is_frozen_lies_above_the_image_under_a_new_upper() -> None:
    asked = chains.with_frozen(image_record(), {b"/": X}, "s1")
    asked = chains.with_frozen(asked, {b"/": Y}, "s2")
    assert lowers(asked) == [tree(Y), tree(X), tree(B), tree(A)]
    assert dict(stacks_of(asked["overlays"], HOME))[b"/"].upperdir == HOME + b"/upper-2"
    assert (asked["layers"], asked["base_layers"], asked["snapshot"]) == ([A, B, X, Y], [A, B], "s2")
    assert (chains.chain_of(asked), chains.own_layers(asked)) == ({b"/": (X, Y)}, (A, B))
    assert asked["left"] == ["upper-1", "work-1"]


def test_a_record_goes_to_another_chain_and_back() -> None:
    first = chains.with_frozen(image_record(), {b"/": X}, "s1")
    later = chains.with_frozen(first, {b"/": Y}, "s2")
    back = chains.on_chain(later, {b"/": (X,)}, "s1")
    assert lowers(back) == lowers(first)
    assert dict(stacks_of(back["overlays"], HOME))[b"/"].upperdir == HOME + b"/upper-3"
    nothing = chains.on_chain(back, {}, None)
    assert lowers(nothing) == lowers(image_record())
    assert (nothing["layers"], chains.own_layers(nothing)) == ([A, B], (A, B))
    assert "frozen" not in nothing["overlays"][0]


def test_places_of_the_host_have_chains_of_their_own() -> None:
    asked = chains.with_frozen(host_record(), {b"/home": X}, "s1")
    assert lowers(asked, b"/home") == [tree(X), b"/home"]
    assert (lowers(asked), lowers(asked, b"/boot")) == ([b"/"], [b"/boot"])
    assert [entry["upper"] for entry in asked["overlays"]] == ["upper-0", "upper-4", None]
    asked = chains.with_frozen(asked, {b"/": Y, b"/home": Z}, "s2")
    assert [entry["upper"] for entry in asked["overlays"]] == ["upper-5", "upper-6", None]
    assert set(asked["layers"]) == {X, Y, Z}
    assert chains.own_layers(asked) == ()
    back = chains.on_chain(asked, {b"/": (), b"/home": (X,)}, "s1")
    assert (lowers(back), lowers(back, b"/home")) == ([b"/"], [tree(X), b"/home"])


def test_what_is_under_way_is_referred_to() -> None:
    asked = chains.with_freezing(host_record(), {b"/": X}, "s")
    assert chains.pending(asked)
    assert referred_to(asked) == [X]
    asked = chains.with_rewinding(host_record(), {b"/": (Y, Z)}, "s")
    assert set(referred_to(asked)) == {Y, Z}
    assert not chains.pending(chains.settled(asked))
    assert not chains.pending(chains.on_chain(asked, {b"/": (Y,)}, "s"))


@pytest.mark.parametrize("record", [image_record, host_record])
@given(st.data())
def test_layers_are_never_confused(record: Any, data: st.DataObject) -> None:
    """Whatever is frozen and gone back to: the bottom stays, no number is given twice, every chain is referred to."""
    asked, number = record(), 0
    bottom = {at: spec.lowerdirs for at, spec in stacks_of(asked["overlays"], HOME)}
    states: list[dict[bytes, tuple[str, ...]]] = [chains.chain_of(asked)]
    seen = {entry["upper"] for entry in asked["overlays"]}
    writable = [at for at, spec in stacks_of(asked["overlays"], HOME) if spec.upperdir is not None]
    for _ in range(data.draw(st.integers(1, 6))):
        if data.draw(st.booleans()):
            places = data.draw(st.lists(st.sampled_from(writable), min_size=1, unique=True))
            made = {}
            for at in places:
                number += 1
                made[at] = f"x{number:063x}"
            asked, changed = chains.with_frozen(asked, made, "s"), set(places)
            states.append(chains.chain_of(asked))
        else:
            chain = data.draw(st.sampled_from(states))
            asked, changed = chains.on_chain(asked, chain, "s"), set(writable)
            assert chains.chain_of(asked) == chain
        uppers = {
            at: entry["upper"] for at, entry in zip(bottom, asked["overlays"], strict=True) if at in changed
        }
        assert len(set(uppers.values())) == len(uppers)
        assert not seen & set(uppers.values())
        seen |= set(uppers.values())
        for at, spec in stacks_of(asked["overlays"], HOME):
            own = chains.chain_of(asked)[at]
            assert spec.lowerdirs == (*map(tree, reversed(own)), *bottom[at])
            assert set(own) <= set(referred_to(asked))
