"""Notes of where copies came from, which lead nowhere."""

from __future__ import annotations

import pytest

from lamina.engine.apply import origins
from lamina.engine.apply.origins import ORIGIN_HEAD, Origins
from lamina.overlay.spec import MountSpec
from lamina.values import value

HEAD = b"h" * ORIGIN_HEAD


@value
class Added:
    """As much of a HostChange as is looked at."""

    kind: str
    mountpoint: bytes
    spec: MountSpec


def test_copies_of_each_other_are_of_nothing_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of files are given anew: the original's may be that of a copy by now."""
    spec = MountSpec((b"/",), b"/s/containers/c/upper-1", b"/s/containers/c/work-1")
    change = Added("added", b"/", spec)
    found = Origins(None, [], frozenset())  # type: ignore[arg-type]
    monkeypatch.setattr(origins, "_noted", lambda change: HEAD + b"one")
    monkeypatch.setattr(found, "_copies_of", lambda spec: {b"one": b"/a", b"two": b"/b"})
    monkeypatch.setattr(
        origins, "_origin_of", lambda path, spec: HEAD + (b"two" if path == b"/a" else b"one")
    )
    assert found.vanished(change)  # type: ignore[arg-type]
    monkeypatch.setattr(origins, "_origin_of", lambda path, spec: HEAD + b"one")
    assert found.vanished(change)  # type: ignore[arg-type]
