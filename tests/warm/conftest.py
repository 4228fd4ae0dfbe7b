"""An installation whose commands may leave warm processes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.warm import House, compile_client, install


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled client, a patient one."""
    if not (shutil.which("cc") or shutil.which("gcc")):
        pytest.skip("there is no C compiler")
    return compile_client(tmp_path_factory.mktemp("client") / "lamina")


@pytest.fixture
def house(client: Path, tmp_path: Path) -> Iterator[House]:
    """A place of one's own."""
    found = House(tmp_path, install(tmp_path / "prefix", client))
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def server(house: House) -> int:
    """The pid of the warm process of `house`."""
    return house.warm_up()
