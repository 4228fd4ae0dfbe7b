"""Numbers as people read them."""

from __future__ import annotations

from lamina.engine.quantities import plural, size


def test_sizes() -> None:
    assert [size(n) for n in (0, 999, 1000, 1_234_567, 999_960, 5 * 10**15)] == [
        "0 B", "999 B", "1.0 kB", "1.2 MB", "1.0 MB", "5000.0 TB",
    ]  # fmt: skip


def test_one_and_many() -> None:
    assert [plural(n, "entry", "entries") for n in (0, 1, 1234)] == ["0 entries", "1 entry", "1,234 entries"]
