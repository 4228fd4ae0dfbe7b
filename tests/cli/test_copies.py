"""The line that says how far a copy has got."""

from __future__ import annotations

import pytest

from lamina.cli import copies, output


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda stream: True)
    monkeypatch.setattr(copies, "BETWEEN", 0.0)


def test_nothing_is_said_of_a_short_copy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "PATIENCE", 100.0)
    with copies.Copying("to", quiet=False) as copying:
        copying.at(5)
    assert capsys.readouterr().err == ""


def test_a_long_one_is_shown_and_the_line_is_free_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "PATIENCE", 0.0)
    with copies.Copying("from", quiet=False) as copying:
        copying.at(5)
        copying.at(2_000_000)
    lines = capsys.readouterr().err.split("\r\x1b[K")
    assert lines == ["", "Copying from container - 5B", "Copying from container - 2MB", ""]


@pytest.mark.parametrize("quiet", [True, False])
def test_nothing_where_nobody_looks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    monkeypatch.setattr(copies, "PATIENCE", 0.0)
    if not quiet:
        monkeypatch.setattr(output, "is_terminal", lambda stream: False)
    with copies.Copying("to", quiet=quiet) as copying:
        copying.at(5)
    assert capsys.readouterr().err == ""
