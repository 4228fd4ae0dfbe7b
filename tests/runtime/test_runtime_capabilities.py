"""--cap-add and --cap-drop, as Docker computes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import InvalidInput
from lamina.linux.capabilities import CAPABILITIES
from lamina.runtime.capabilities import DEFAULT_CAPABILITIES, adjust, capability


def test_the_default_is_dockers_but_for_mknod() -> None:
    assert len(set(DEFAULT_CAPABILITIES) | {"CAP_MKNOD"}) == 14
    assert "CAP_MKNOD" not in DEFAULT_CAPABILITIES
    assert set(adjust()) == set(DEFAULT_CAPABILITIES)
    assert "CAP_SYS_ADMIN" not in adjust()


@pytest.mark.parametrize(
    "written", ["net_admin", "NET_ADMIN", "CAP_NET_ADMIN", "cap_net_admin", " NET_ADMIN "]
)
def test_the_ways_people_write_a_name(written: str) -> None:
    assert capability(written) == "CAP_NET_ADMIN"
    assert "CAP_NET_ADMIN" in adjust(add=[written])


@pytest.mark.parametrize("written", ["", "CAP_", "NET_ADMIN,SYS_ADMIN", "CAP_CAP_KILL", "EVERYTHING"])
def test_no_name(written: str) -> None:
    with pytest.raises(InvalidInput, match="there is none of that name"):
        adjust(add=[written])
    with pytest.raises(InvalidInput, match="there is none of that name"):
        adjust(drop=[written])


def test_all() -> None:
    assert adjust(drop=["ALL"]) == ()
    assert adjust(drop=["all"], add=["KILL"]) == ("CAP_KILL",)
    assert adjust(add=["ALL"]) == tuple(CAPABILITIES)
    assert set(adjust(add=["ALL"], drop=["KILL"])) == set(CAPABILITIES) - {"CAP_KILL"}
    assert adjust(add=["ALL"], known=["CAP_KILL", "CAP_CHOWN"]) == ("CAP_CHOWN", "CAP_KILL")
    with pytest.raises(InvalidInput, match="contradicts"):
        adjust(add=["ALL"], drop=["ALL"])


names = st.lists(st.sampled_from(sorted(CAPABILITIES)), max_size=6)


@given(names, names)
def test_a_drop_wins_over_an_add(add: list[str], drop: list[str]) -> None:
    kept = adjust(add, drop)
    assert set(kept) == (set(DEFAULT_CAPABILITIES) | set(add)) - set(drop)
    assert list(kept) == sorted(kept, key=CAPABILITIES.__getitem__)
