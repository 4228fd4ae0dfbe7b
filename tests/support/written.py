"""What a container over an image wrote, as if it had run: put into its upper by hand."""

from __future__ import annotations

import os
from pathlib import Path

from lamina import Container
from lamina.overlay.stack import Overlay


def upper(box: Container) -> Path:
    """Where it would write now, if it ran."""
    directory = box.overlays()[0][1].upperdir
    assert directory is not None
    return Path(os.fsdecode(directory))


def put(box: Container, path: str, text: str) -> None:
    place = upper(box) / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)


def delete(box: Container, path: str) -> None:
    """As rm does, of something in the layers below: a whiteout."""
    place = upper(box) / path
    place.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(place, 0o020000, 0)


def shown(box: Container, top: str = "task") -> dict[str, str]:
    """The files that are seen below the directory *top*, by their paths from there."""
    with Overlay(box.overlays()[0][1]).open() as tree:
        found = [directory / name for directory, _, others in (tree / top).walk() for name in others]
        return {str(one)[len(top) + 2 :]: one.read_text() for one in found}
