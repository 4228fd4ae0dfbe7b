"""A container's directory, with several at it at once."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from lamina.errors import Conflict, NotFound
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
