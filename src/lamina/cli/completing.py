"""What a shell may offer for a word: names of containers, images, volumes, networks; paths are the shell's."""

from __future__ import annotations

from collections.abc import Sequence


def offers(kind: str, root: str | None) -> Sequence[str] | None:
    """The words for *kind*, or None where the shell should complete a path."""
    if kind == "container":
        return _containers(root)
    if kind == "image":
        return _images(root)
    if kind == "volume":
        return _volumes(root)
    if kind == "network":
        return _networks(root)
    return None


def _containers(root: str | None) -> list[str]:
    from lamina.engine import Engine

    try:
        return sorted(container.name for container in Engine(root).containers(all=True))
    except Exception:  # a completion never complains
        return []


def _images(root: str | None) -> list[str]:
    from lamina.engine import Engine

    try:
        return ["host", *sorted(name for image in Engine(root).images() for name in image.tags)]
    except Exception:
        return []


def _networks(root: str | None) -> list[str]:
    from lamina.engine import Engine

    try:
        return ["none", "host", *sorted({"bridge", *(one.name for one in Engine(root).networks.list())})]
    except Exception:
        return []


def _volumes(root: str | None) -> list[str]:
    from lamina.engine import Engine

    try:
        return sorted(volume.name for volume in Engine(root).volumes())
    except Exception:
        return []
