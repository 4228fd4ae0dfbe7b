"""Tests that documents name as proof are there."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_every_test_that_a_document_names_exists() -> None:
    tests = {path.name: path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py")}
    defined = {name for text in tests.values() for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}
    named = {
        name
        for page in (REPOSITORY / "docs").rglob("*.md")
        for name in re.findall(r"`(test_\w+)`", page.read_text())
    }
    assert "test_a_fork_bomb_stands_still_as_well" in named
    assert sorted(named - defined) == []
