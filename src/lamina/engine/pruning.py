"""Which of what nobody uses is to go, in docker's words; containers that do not run, removed."""

from __future__ import annotations

from lamina.errors import Conflict, NotFound
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lamina.engine.container import Container


@value
class Chosen:
    """What was made before `until` (seconds since 1970), with all `labels` (KEY or KEY=VALUE) and none of `without`."""

    until: float | None = None
    labels: Sequence[str] = ()
    without: Sequence[str] = ()

    def takes(self, created: float, own: Mapping[str, str]) -> bool:
        """Whether something of that time, with the labels *own*, is among it."""
        if self.until is not None and created >= self.until:
            return False
        return all(has_label(own, one) for one in self.labels) and not any(
            has_label(own, one) for one in self.without
        )


def has_label(own: Mapping[str, str], wanted: str) -> bool:
    """Whether there is the label KEY, or KEY=VALUE."""
    name, equals, text = wanted.partition("=")
    return name in own and (not equals or own[name] == text)


def prune_containers(containers: Iterable[Container], chosen: Chosen) -> tuple[list[str], int]:
    """Of *containers*; see `Engine.prune_containers`. One that begins to run, or goes, meanwhile is left out."""
    from lamina.store.usage import walked

    gone, freed = [], 0
    for container in containers:
        try:
            if container.is_alive or not chosen.takes(container.created, container.labels):
                continue
            amount = walked(container.store.containers + b"/" + container.id.encode()).bytes
            container.remove()
        except (Conflict, NotFound):
            continue
        gone.append(container.id)
        freed += amount
    return gone, freed
