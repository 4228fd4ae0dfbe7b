"""What a thread does of `ProcessVerbs`: made by scripts/mirror from engine/process_verbs.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.mirror import Mirrored
from lamina.engine.asynchronous.threads import in_thread

if TYPE_CHECKING:
    from typing import Unpack

    from lamina.engine.executing import ExecOptions
    from lamina.engine.parameters import Command
    from lamina.engine.process_verbs import ProcessVerbs


class MirroredProcessVerbs(Mirrored):
    """The verbs of `ProcessVerbs` that a thread does."""

    if TYPE_CHECKING:
        _sync: ProcessVerbs

    async def exec_detached(self, command: Command, **options: Unpack[ExecOptions]) -> int:
        """Begin *command* beside what runs in it and leave it to itself; its pid on this machine. Raises as `exec`."""
        return await in_thread(self._do(lambda: self._sync.exec_detached(command, **options)))
