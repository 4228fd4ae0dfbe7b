"""What a type checker sees of keywords: for the overloads that tell text from bytes, as those of subprocess do.

Nothing of this is there when a program runs; what is, are the signatures of the methods themselves.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypedDict

    from lamina.engine.executing import ExecOptions
    from lamina.engine.options import RunOptions
    from lamina.engine.parameters import Stream

    class Streams(TypedDict, total=False):
        """Of subprocess.Popen."""

        stdin: Stream
        stdout: Stream
        stderr: Stream

    class Buffered(Streams, total=False):
        """Where the pipes are files."""

        bufsize: int

    class Waiting(Streams, total=False):
        """Of subprocess.run."""

        input: bytes | str | None
        capture_output: bool
        check: bool
        timeout: float | None

    class Signalled(Waiting, total=False):
        """Where signals of the program can be handed on."""

        forward_signals: bool

    class Told(TypedDict, total=False):
        """Who wants to know of a new container."""

        on_warning: Callable[[str], None] | None
        on_created: Callable[[str], None] | None
        on_event: Callable[..., None] | None

    class Run(RunOptions, Signalled, Told, total=False):
        """`Engine.run`."""

    class AsyncRun(RunOptions, Waiting, Told, total=False):
        """`AsyncEngine.run`."""

    class Exec(ExecOptions, Signalled, total=False):
        """`Container.exec`."""

    class AsyncExec(ExecOptions, Waiting, total=False):
        """`AsyncContainer.exec`."""

    class RunPopen(RunOptions, Buffered, Told, total=False):
        """`Engine.popen`."""

    class AsyncRunPopen(RunOptions, Streams, Told, total=False):
        """`AsyncEngine.popen`."""

    class ExecPopen(ExecOptions, Buffered, total=False):
        """`Container.popen`."""

    class AsyncExecPopen(ExecOptions, Streams, total=False):
        """`AsyncContainer.popen`."""
