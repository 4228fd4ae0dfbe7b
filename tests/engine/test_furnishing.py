"""The directories of a container's layers, made for a start."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lamina.engine import layers
from lamina.overlay.spec import MountSpec
from lamina.store.tree import remove_tree


def test_an_upper_that_somebody_was_killed_making_is_made_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of a place which is new since the container was made: it looks as what is below it, or it is not there."""
    home, lower = os.fsencode(tmp_path) + b"/home", os.fsencode(tmp_path) + b"/lower"
    os.mkdir(home)
    os.mkdir(lower)
    os.chmod(lower, 0o1751)
    spec = MountSpec((lower,), home + b"/upper-1", home + b"/work-1")
    image: Any = SimpleNamespace(stubs=(), places=(SimpleNamespace(lower=lower),))
    found = layers.Layers(((b"/", spec),), image, home, ((),))

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(layers, "resemble", killed)
        with pytest.raises(KeyboardInterrupt):
            layers.furnish(found, remove_tree)
    layers.furnish(found, remove_tree)
    assert os.stat(home + b"/upper-1").st_mode & 0o7777 == 0o1751
    os.chmod(home + b"/upper-1", 0o700)
    layers.furnish(found, remove_tree)
    assert os.stat(home + b"/upper-1").st_mode & 0o7777 == 0o700, "one that is there stays as it is"
    assert sorted(os.listdir(home)) == [b"upper-1", b"work-1"]
