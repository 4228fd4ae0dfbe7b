"""A container's directory, with several at it at once."""

from __future__ import annotations

import os
import threading
from errno import EINVAL
from pathlib import Path

import pytest

from lamina.errors import Conflict, NotFound
from lamina.runtime.container import directory
from lamina.runtime.container.directory import Container


def test_who_comes_late_does_not_keep_a_directory_from_going(tmp_path: Path) -> None:
    root, over = os.fsencode(tmp_path / "state"), threading.Event()

    def late() -> None:
        while not over.is_set():
            container = Container(root, "c")
            try:
                container.lock(0.0)
            except (Conflict, NotFound):
                continue
            container.unlock()

    others = [threading.Thread(target=late) for _ in range(2)]
    for other in others:
        other.start()
    try:
        for _ in range(300):
            try:
                container = Container.make(root, "c")
            except NotFound:  # somebody was in between, and found nothing to keep
                continue
            container.write({})
            container.remove()
            container.unlock()
            assert not os.path.exists(container.path)
    finally:
        over.set()
        for other in others:
            other.join()


def test_a_record_takes_the_place_of_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    container = Container.make(os.fsencode(tmp_path), "c")
    (tmp_path / "c/state.json.new").write_text("of one that was killed")
    for pid in (1, 2, 3):
        container.write({"pid": pid})
        assert container.record() == {"pid": pid}
        assert sorted(os.listdir(tmp_path / "c")) == ["lock", "state.json"]

    def refuse(_one: bytes, _other: bytes) -> None:
        raise OSError(EINVAL, "not on this file system")

    monkeypatch.setattr(directory, "exchange", refuse)
    container.write({"pid": 4})
    assert container.record() == {"pid": 4}
    assert sorted(os.listdir(tmp_path / "c")) == ["lock", "state.json"]
    container.unlock()
