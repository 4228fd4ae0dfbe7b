"""What a shell may offer for a word: names of what is in the store; paths are the shell's."""

from __future__ import annotations

from collections.abc import Sequence

# which containers: those in one of these states
LIVING = ("running", "paused", "restarting")
STATES = {
    "container": (),
    "running": LIVING,
    "paused": ("paused",),
    "stopped": ("created", "exited", "dead"),
}


def offers(kind: str, root: str | None, container: str | None = None) -> Sequence[str] | None:
    """The words for *kind*, as `argv.declare.Option` lists them, or None where the shell should complete a path;
    *container* is the one that stands before the word. A completion never complains: what cannot be looked up offers
    nothing.
    """
    if "|" in kind:
        return kind.split("|")
    try:
        if kind in STATES:
            return _containers(root, STATES[kind])
        if kind == "image":
            return _images(root)
        if kind == "network":
            return _networks(root)
        if kind == "snapshot":
            return _snapshots_of(root, container)
        if kind == "container@":
            return [*_containers(root, ()), *_snapshots(root)]
        if kind == "state":
            return [*_containers(root, ()), *_snapshots(root), *_images(root)[1:]]
        if kind == "anything":
            return [*_containers(root, ()), *_images(root)[1:], *_volumes(root)]
        return _volumes(root) if kind == "volume" else None
    except Exception:
        return []


def _containers(root: str | None, states: Sequence[str]) -> list[str]:
    from lamina.engine import Engine
    from lamina.errors import NotFound

    found = []
    for container in Engine(root).containers(all=True):
        try:
            if not states or container.state in states:
                found.append(container.name)
        except NotFound:  # removed meanwhile
            continue
    return sorted(found)


def _snapshots(root: str | None) -> list[str]:
    from lamina.engine import Engine
    from lamina.errors import NotFound

    found = []
    for container in Engine(root).containers(all=True):
        try:
            found += [f"{container.name}@{one.name or one.short_id}" for one in container.snapshots()]
        except NotFound:  # removed meanwhile
            continue
    return sorted(found)


def _snapshots_of(root: str | None, container: str | None) -> list[str]:
    from lamina.engine import Engine

    if container is None:
        return []
    return [one.name or one.short_id for one in Engine(root).container(container).snapshots()]


def _images(root: str | None) -> list[str]:
    from lamina.engine import Engine

    return ["host", *sorted(name for image in Engine(root).images() for name in image.tags)]


def _networks(root: str | None) -> list[str]:
    from lamina.engine import Engine

    return ["none", "host", *sorted({"bridge", *(one.name for one in Engine(root).networks.list())})]


def _volumes(root: str | None) -> list[str]:
    from lamina.engine import Engine

    return sorted(volume.name for volume in Engine(root).volumes())
