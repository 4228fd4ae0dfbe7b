"""docs/runtime.md has a row for every field of the specification, and what it says of tests is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lamina.runtime.plan.options import option_names
from support.schema import EVERY
from support.sources import REPOSITORY

DOCUMENT = (REPOSITORY / "docs/runtime.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in DOCUMENT.splitlines()
    if line.startswith("| `")
]
FIELDS = {row[0].strip("`"): row for row in ROWS if len(row) == 4}
# whose parts each have a row of their own
DETAILED = (
    "",
    "hooks",
    "root",
    "mounts[]",
    "process",
    "process.user",
    "linux",
    "linux.seccomp",
    "linux.resources",
)


def parent(path: str) -> str:
    return path.rpartition(".")[0]


@pytest.mark.parametrize("path", sorted(EVERY))
def test_every_field_is_in_the_table(path: str) -> None:
    if parent(path) in DETAILED and not path.endswith("[]"):
        assert path in FIELDS
    while path not in FIELDS:
        path = path.removesuffix("[]") if path.endswith("[]") else parent(path)
        assert path, "there is no row above it either"


@pytest.mark.parametrize("field", FIELDS)
def test_a_row_is_of_the_specification_and_says_something(field: str) -> None:
    assert field in EVERY
    _, what, since, test = FIELDS[field]
    assert what and since and test
    file, _, function = test.strip("`").partition("::")
    source = Path(REPOSITORY / "tests" / file).read_text()
    assert not function or re.search(rf"^def {function}\(", source, re.MULTILINE), test


def test_every_mount_option_is_in_the_table() -> None:
    listed = {word for row in ROWS if len(row) == 2 for word in re.findall(r"`([a-z]+)`", row[0])}
    assert listed == set(option_names())
