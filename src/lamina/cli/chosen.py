"""Containers that pass the filters of `ps`, in docker's words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lamina.cli.filters import labelled, passes, port_range
from lamina.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamina.engine import Engine
    from lamina.engine.listing import Glanced


def containers(engine: Engine, found: Sequence[Glanced], filters: Sequence[tuple[str, str]]) -> list[Glanced]:
    """Those of *found* that pass all *filters*. Raises NotFound for a container that `before` or `since` names."""
    known = _Known(engine)
    for key, value in filters:
        if key in ("before", "since"):
            known.created(value)  # or one that is not there would be an empty list
    chosen = []
    for one in found:
        try:
            if passes(filters, lambda key, value, one=one: _holds(one, key, value, known)):  # type: ignore[misc]
                chosen.append(one)
        except NotFound:  # removed meanwhile
            continue
    return chosen


class _Known:
    """What filters name, looked up once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._created: dict[str, float] = {}
        self._images: dict[str, str] = {}

    def created(self, container: str) -> float:
        if container not in self._created:
            self._created[container] = self._engine.container(container).created
        return self._created[container]

    def image(self, reference: str) -> str:
        """The id of an image that is here, "" of one that is not."""
        if reference not in self._images:
            try:
                self._images[reference] = self._engine.image(reference).id
            except (NotFound, ValueError):
                self._images[reference] = ""
        return self._images[reference]


def _holds(one: Glanced, key: str, value: str, known: _Known) -> bool:
    if key == "label":
        return labelled(one.labels, value)
    if key == "exited":
        return one.exit_code == int(value)
    if key == "id":
        return one.id.startswith(value)
    if key == "name":  # docker's names have a slash in front, so people write it
        return re.search(value, one.name) is not None or re.search(value, "/" + one.name) is not None
    if key == "status":
        return one.state == value
    if key == "health":
        return one.health == value
    if key == "volume":
        return any(
            value in (mount.get("Name"), mount["Destination"]) for mount in one.whole.inspect()["Mounts"]
        )
    if key == "network":
        return value in one.networks
    if key == "expose":
        return any(_within(port, value) for port in one.whole.inspect()["Config"]["ExposedPorts"] or ())
    if key == "publish":
        return _publishes(one, value)
    if key == "before":
        return one.created < known.created(value)
    if key == "since":
        return one.created > known.created(value)
    return _descends(one, value, known)


def _within(port: str, wanted: str) -> bool:
    """Whether the *port* ("80/tcp") is one of the *wanted* ones."""
    numbers, protocol = port_range(wanted)
    number, _, own = port.partition("/")
    return own == protocol and int(number) in numbers


def _publishes(one: Glanced, wanted: str) -> bool:
    """Whether it has one of the *wanted* ports of this host, as in docker: who looks for who has port 80 means that."""
    return any(
        _within(f"{place['HostPort']}/{port.partition('/')[2]}", wanted)
        for port, places in one.whole.inspect()["NetworkSettings"]["Ports"].items()
        for place in places or ()
    )


def _descends(one: Glanced, reference: str, known: _Known) -> bool:
    """Whether it was made from the image, by the name it was asked for with, any name of the same image, or its id."""
    if reference == one.image:
        return True
    identity = one.whole.image_id
    return bool(identity) and known.image(reference) == identity
