"""What a container wrote and nobody wants any more goes: at once out of the way, and then in its own time.

Moving it takes as long for a file as for a gigabyte. A thread removes it; if this process ends first, whoever uses the
store next goes on (`store.containers.bury_all`).
"""

from __future__ import annotations

import os
import threading

from lamina.engine.discard import remover
from lamina.errors import LaminaError
from lamina.store.root import raise_storage_error
from lamina.store.scratch import Scratch
from lamina.store.trace import point

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.store.containers import Home


def bury(home: Home, asked: dict[str, Any], paths: list[bytes]) -> None:
    """Remove the directories *paths* of the container whose record is *asked*; uppers, which may be large, later.

    Raises KernelError.
    """
    remove = remover(asked)
    large = [path for path in paths if b"/upper-" in path]
    for path in paths:
        if path not in large:
            point("state.remove")
            remove(path)
    if not large:
        return
    from lamina.engine.within import maps_of, reach

    try:
        scratch = Scratch(home.store)
        for path in large:
            point("state.move-away")
            reach(lambda: maps_of(asked), os.rename, path, scratch.path + b"/" + os.path.basename(path))
    except OSError as error:
        raise_storage_error(error, "remove what the container wrote", home.path)
    threading.Thread(target=_remove, args=(scratch, asked), name="lamina-bury").start()


def _remove(scratch: Scratch, asked: dict[str, Any]) -> None:
    try:
        scratch.remove(remover(asked))
    except (OSError, LaminaError):
        scratch.leave()  # for the next time
