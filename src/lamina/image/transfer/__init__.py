"""Images from registries into the store, and back: `pull` and `push`."""

from __future__ import annotations

from lamina.image.transfer.events import Events, no_events
from lamina.image.transfer.options import Options
from lamina.image.transfer.pull import pull, pull_all
from lamina.image.transfer.push import Pushed, push

__all__ = ["Events", "Options", "Pushed", "no_events", "pull", "pull_all", "push"]
