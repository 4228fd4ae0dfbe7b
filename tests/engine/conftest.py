"""Fixtures of the tests of containers that live; further words for them are in tests/support/lives.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina import Engine
from support.leaks import Leaks
from support.lives import await_burials, remove_all
from support.small_images import small_image


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks) -> Iterator[Engine]:
    """An engine on this test's store. Its containers are removed at the end, and nothing else may be left: no thread
    either, whose steps and descriptors the next test would take for its own.
    """
    engine = Engine(store_root)
    yield engine
    remove_all(engine)
    await_burials()


@pytest.fixture
def tiny(store_root: Path) -> None:
    """The image `tiny`, which is busybox: for `pytest.mark.usefixtures`, with `pytest.mark.peer("busybox")`."""
    small_image(store_root)
