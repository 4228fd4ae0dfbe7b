"""Processes that no record knows are killed; those that cannot be are named."""

from __future__ import annotations

import pytest

from lamina.engine import strays
from lamina.errors import Conflict

IDENTITY = "5a" * 32


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    killed: list[int] = []
    monkeypatch.setattr(strays, "BETWEEN", 0)
    monkeypatch.setattr(strays, "_numbers", lambda: [1, 7, 8])
    monkeypatch.setattr(strays, "_kill", lambda pid, identity: killed.append(pid))
    return killed


def test_two_looks_without_any_are_enough(killed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strays, "_is_in", lambda pid, identity: pid == 7 and killed.count(7) < 3)
    strays.kill_strays(IDENTITY)
    assert killed == [7, 7, 7]


def test_one_that_does_not_die_is_said(killed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strays, "_is_in", lambda pid, identity: pid == 8)
    with pytest.raises(Conflict, match="container 5a5a5a5a5a5a: 1 of them live on, 8 among them") as raised:
        strays.kill_strays(IDENTITY)
    assert "/proc/8/stack" in raised.value.remedy
