"""A snapshot after each further command in a container, where that was asked for (`auto_snapshot`)."""

from __future__ import annotations

from lamina.errors import LaminaError, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamina.store.containers import Home


def after_exec(home: Home, words: Sequence[str]) -> str:
    """Make a snapshot after *words* were executed in the container at *home*; why there is none, "" where there is one.

    A command that was executed did not fail because of that.
    """
    from lamina.engine.snapshotting import snapshot

    try:
        snapshot(home, command=words)
    except NotFound:  # it was removed with its end
        return ""
    except LaminaError as error:
        return f"no snapshot was made after {' '.join(words)[:200]}: {error.message}"
    return ""
