"""What the host says to a plan."""

from __future__ import annotations

import pytest

from lamina.runtime.facts import kernel_of


@pytest.mark.parametrize(
    ("release", "numbers"),
    [
        ("6.1.76-1", (6, 1)),
        ("5.15.0-91-generic", (5, 15)),
        ("6.6-amd64", (6, 6)),  # Debian's first of a series: 6.664 had lowerdir+, which came with 6.8
        ("6.12-rc3", (6, 12)),
        ("6.18.44-fc-v669", (6, 18)),
        ("7", (7, 0)),
        ("6-custom", (6, 0)),
    ],
)
def test_the_version_in_the_name_of_a_kernel(release: str, numbers: tuple[int, int]) -> None:
    assert kernel_of(release) == numbers
