"""Containers that do not run, removed."""

from __future__ import annotations

from lamina.errors import Conflict, NotFound
from lamina.store.usage import walked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lamina.engine.container import Container


def prune_containers(
    containers: Iterable[Container], before: float | None, labels: Sequence[str], without: Sequence[str]
) -> tuple[list[str], int]:
    """Of *containers*; see `Engine.prune_containers`. One that begins to run, or goes, meanwhile is left out."""
    gone, freed = [], 0
    for container in containers:
        try:
            chosen = not container.is_alive and (before is None or container.created < before)
            if not chosen or not _labelled(container.labels, labels, without):
                continue
            amount = walked(container.store.containers + b"/" + container.id.encode()).bytes
            container.remove()
        except (Conflict, NotFound):
            continue
        gone.append(container.id)
        freed += amount
    return gone, freed


def _labelled(own: dict[str, str], labels: Sequence[str], without: Sequence[str]) -> bool:
    def has(label: str) -> bool:
        key, equals, value = label.partition("=")
        return key in own and (not equals or own[key] == value)

    return all(map(has, labels)) and not any(map(has, without))
