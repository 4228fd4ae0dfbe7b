"""docs/security.md says which attack is played by which test: there must be such tests."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
TABLE = TESTS.parent / "docs/security.md"


def test_each_test_that_the_document_names_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", TABLE.read_text()))
    there = {
        name for file in TESTS.rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    assert len(named) > 30
    assert named - there == set()


def test_each_attack_that_a_test_is_named_after_is_in_the_document() -> None:
    """2016-9962 of `test_cve_2016_9962_...`."""
    text = TABLE.read_text()
    here = (file.read_text() for file in (TESTS / "security").glob("test_*.py"))
    attacks = {"-".join(found) for code in here for found in re.findall(r"def test_cve_(\d+)_(\d+)", code)}
    assert [attack for attack in sorted(attacks) if attack not in text] == []
