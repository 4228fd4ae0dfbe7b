"""Lists of containers while others remove some of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.cli.entry import command_line
from lamina.engine import listing
from lamina.store import containers
from lamina.store.root import Store
from support.leaks import Leaks

pytestmark = pytest.mark.root


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Three containers, of which the second goes as soon as it has been listed."""
    engine = Engine(store_root)
    for name in ("one", "two", "three"):
        engine.create("host", ["true"], name=name)
    listed = Engine.containers

    def containers(self: Engine, all: bool = False) -> list[Container]:
        found = listed(self, all)
        for one in found:
            if one.name == "two":
                one.remove()
        return found

    monkeypatch.setattr(Engine, "containers", containers)
    return engine


@pytest.mark.parametrize(
    "words",
    [
        ["ps", "-a", "--format", "{{.Names}}"],
        ["ps", "-a", "--format", "{{.Names}}", "--filter", "status=created"],
        ["ps", "-a", "--format", "{{.Names}}", "--filter", "volume=x", "--filter", "name=."],
    ],
)
def test_one_that_was_removed_meanwhile_is_not_listed(
    engine: Engine, words: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ps` shows one moment: what it has read is what was there, and what goes before that is not."""
    listed = containers.identities

    def identities(store: Store) -> list[str]:
        found = listed(store)
        engine.container("two").remove()
        return found

    monkeypatch.setattr(listing, "identities", identities)
    assert command_line(words) == 0
    out, err = capfd.readouterr()
    assert (out, err) == ("" if "volume=x" in words else "three\none\n", "")


def test_one_that_was_removed_meanwhile_is_not_pruned(
    engine: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command_line(["system", "prune", "--force"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert out.splitlines()[:3] == ["Deleted Containers:", "one", "three"]
