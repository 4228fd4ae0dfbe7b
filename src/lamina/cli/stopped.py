"""What a signal makes of a verb that has something to clean up: see `ending`."""

from __future__ import annotations

WORDS = {1: "hung up", 2: "interrupted", 15: "terminated"}


class Stopped(KeyboardInterrupt):
    """Raised in the main thread by SIGINT, SIGTERM, SIGHUP; the exit status is 128 + `signal`."""

    def __init__(self, verb: str, signal: int) -> None:
        super().__init__(f"{verb}: {WORDS.get(signal, f'ended by signal {signal}')}")
        self.signal = signal
