"""What happens during a transfer, told to whoever draws or logs it.

    events("missing", image="debian:12")                         (run) it is not here: a pull begins
    events("resolving", reference="docker.io/library/debian:12")
    events("layer", id="sha256:...", total=28_000_000)           for each layer, before anything happens to it
    events("exists", id=...)                                     it is there already: nothing is transferred
    events("waiting", id=...)                                    another process unpacks it
    events("progress", id=..., bytes=262_144)                    that many more came, or went; fewer than none: these
                                                                 were wrong, and are fetched again from elsewhere
    events("retrying", id=..., seconds=5, left=3,                something failed, and is tried again when the `left`
           attempt=2, reason=...)                                of `seconds` are over; told once a second. Without id:
                                                                 not of a layer
    events("unpacking", id=...)                                  everything came
    events("mounted", id=...)                                    (push) the registry took it from another repository
    events("packing", id=...)                                    (push) it has to be packed again, or for the first time
    events("packed", id=...)                                     (push, save) it was, and has its digest from now on
    events("loaded", reference="debian:12", image=...)           (load) a name that the archive gives to an image
    events("warning", text=...)                                  something the user should read
    events("done", id=...)                                       a layer is done
    events("done", image=..., digest=...)                        all is done; (pull) also reference=..., known=...:
                                                                 the name stood for this image before

Calls come from several threads, one at a time. Who is called may have a method `stopped_by`: it is given, once, what
makes the transfer end soon, for whoever does not want it any more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from lamina.errors import LaminaError
from lamina.image.registry.waits import Listener, Wait

__all__ = ["Events", "Telling", "no_events"]


class Events(Protocol):
    """Called with the kind of event, and its facts."""

    def __call__(self, kind: str, /, **facts: Any) -> object: ...


def no_events(kind: str, /, **facts: Any) -> None:
    """Tell nobody."""


class Telling:
    """One transfer's events: one at a time, and the place where its threads find out that they shall stop."""

    def __init__(self, events: Events | None, what: str) -> None:
        self._events, self._what = events or no_events, what
        self._turn = threading.Lock()
        self._stopped = threading.Event()
        self._stopping: list[Callable[[], object]] = []
        stopped_by: Callable[[Callable[[], None]], object] | None = getattr(events, "stopped_by", None)
        if stopped_by is not None:
            stopped_by(self.stop)

    def __call__(self, kind: str, /, **facts: Any) -> None:
        with self._turn:
            self._events(kind, **facts)

    def progress(self, identity: str) -> Callable[[int], None]:
        """What a stream is given to tell of its bytes: also how it is stopped."""

        def came(count: int) -> None:
            self.check()
            self("progress", id=identity, bytes=count)

        return came

    def waiting(self, identity: str | None = None) -> Listener:
        """What hears of pauses before something is tried again: also how they are cut short."""

        def waits(wait: Wait) -> None:
            self.check()
            whose = {} if identity is None else {"id": identity}
            facts = {
                "seconds": wait.seconds,
                "left": wait.left,
                "attempt": wait.attempt,
                "reason": wait.reason,
            }
            self("retrying", **whose, **facts)

        return waits

    def stop(self) -> None:
        """Let all threads of the transfer end soon."""
        self._stopped.set()
        for wake in tuple(self._stopping):
            wake()

    def at_stop(self, wake: Callable[[], object]) -> None:
        """Call *wake* when the transfer shall stop, from whichever thread says so: what waits for a peer is woken."""
        self._stopping.append(wake)
        if self._stopped.is_set():
            wake()

    def check(self) -> None:
        """Raise LaminaError if the transfer shall stop."""
        if self._stopped.is_set():
            raise LaminaError(
                f"{self._what}: stopped, because something else of it failed, or nobody wants it any more"
            )
