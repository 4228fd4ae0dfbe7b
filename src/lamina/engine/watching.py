"""Events as they are asked for: from when to when, and of what."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lamina.engine.pruning import has_label
from lamina.errors import InvalidInput
from lamina.store.events import Event, Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from lamina.store.root import Store

    Test = Callable[[Event, str], bool]

__all__ = ["FILTERS", "Event", "events"]

# how often somebody who waits looks, in seconds
EVERY = 0.05


def events(
    store: Store,
    since: float | None = None,
    until: float | None = None,
    filters: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[Event]:
    """What happened after *since*, and what still happens before *until*; both in seconds since 1970.

    Without *since* only what comes from now on, without *until* for ever. Of one key in *filters* any value may hold,
    of several keys each must. Raises InvalidInput for a key that there is not.
    """
    return _patiently(looks(store, since, until, filters))


def looks(
    store: Store,
    since: float | None = None,
    until: float | None = None,
    filters: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[Event | None]:
    """The same, for who waits in another way: None where there is nothing more at the moment."""
    checks = [_check(key, values) for key, values in (filters or {}).items()]
    reader = Reader(store)
    if since is None:
        reader.skip()
    return _looks(reader, since, until, checks)


def _patiently(found: Iterator[Event | None]) -> Iterator[Event]:
    for one in found:
        if one is None:
            time.sleep(EVERY)
        else:
            yield one


def _looks(
    reader: Reader, since: float | None, until: float | None, checks: Sequence[Callable[[Event], bool]]
) -> Iterator[Event | None]:
    try:
        while True:
            late = until is not None and time.time() >= until  # before reading: what comes after is too late
            for one in reader.read():
                if since is not None and one.time_ns < since * 1e9:
                    continue
                if until is not None and one.time_ns >= until * 1e9:
                    continue
                if all(check(one) for check in checks):
                    yield one
            if late:
                return
            yield None
    finally:
        reader.close()


def _check(key: str, values: Sequence[str]) -> Callable[[Event], bool]:
    test = FILTERS.get(key)
    if test is None:
        raise InvalidInput(f"filter events by {key}: there is no such key", remedy=", ".join(FILTERS))
    return lambda one: any(test(one, value) for value in values)


def _of(kind: str) -> Test:
    """By the id (or the beginning of one, as people type it) or the name of what it happened to."""

    def test(one: Event, value: str) -> bool:
        identity = one.id.removeprefix("sha256:")
        long_enough = len(value) >= 4 and identity.startswith(value.removeprefix("sha256:"))
        return one.type == kind and (long_enough or value in (one.id, one.attributes.get("name")))

    return test


def _image(one: Event, value: str) -> bool:
    """Of an image, and of containers over it."""
    return _of("image")(one, value) or (one.type == "container" and one.attributes.get("image") == value)


FILTERS: dict[str, Test] = {
    "type": lambda one, value: one.type == value,
    # `health_status` stands for `health_status: healthy` and the others
    "event": lambda one, value: one.action == value or one.action.partition(":")[0] == value,
    "container": _of("container"),
    "image": _image,
    "volume": _of("volume"),
    "network": _of("network"),
    "label": lambda one, value: has_label(one.attributes, value),
}
