"""What calls of the Python API have in common with subprocess.run: a command's words, its streams, text or bytes."""

from __future__ import annotations

import os

from lamina.errors import InvalidInput
from lamina.supervisor.stdio import DEVNULL, PIPE, STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from os import PathLike
    from typing import Any, Protocol

    from lamina.engine.completed import Completed
    from lamina.engine.options import Io

    class HasFileno(Protocol):
        """A file object."""

        def fileno(self) -> int: ...

    Stream = int | HasFileno | None
    Command = str | PathLike[str] | Sequence[str | bytes | PathLike[str]]
    # of an archive: where it is, or an open one
    Source = str | PathLike[str] | int | HasFileno


def words_of(command: Command, verb: str = "run") -> tuple[str, ...]:
    """A command as its words. Raises InvalidInput for what is none."""
    if isinstance(command, (str, bytes, os.PathLike)):
        command = (command,)
    try:
        return tuple(os.fsdecode(word) for word in command)
    except TypeError:
        raise InvalidInput(f"{verb} {command!r}: a command is a list of texts") from None


def streams_of(
    stdin: Stream,
    stdout: Stream,
    stderr: Stream,
    input: bytes | str | None,
    capture_output: bool,
    encoding: tuple[str, str] | None,
    timeout: float | None,
    forward_signals: bool,
    interactive: bool,
    verb: str = "run",
) -> Io:
    """The parameters of subprocess.run, checked. Raises InvalidInput."""
    from lamina.engine.options import Io

    if capture_output:
        if stdout is not None or stderr is not None:
            raise InvalidInput(f"{verb}: capture_output and stdout or stderr contradict each other")
        stdout = stderr = PIPE
    if input is not None and stdin is not None:
        raise InvalidInput(f"{verb}: input and stdin contradict each other")
    if stdin is None and not interactive:
        stdin = DEVNULL
    if timeout is not None and not timeout >= 0:
        raise InvalidInput(f"{verb}: timeout {timeout} is not a number of seconds")
    return Io(
        stdin=_descriptor(stdin, verb),
        stdout=_descriptor(stdout, verb),
        stderr=_descriptor(stderr, verb),
        data=_encoded(input, encoding),
        timeout=timeout,
        forward_signals=forward_signals,
    )


def text_of(text: bool, encoding: str | None, errors: str | None) -> tuple[str, str] | None:
    """The encoding and how its errors are treated, where text was asked for by any of these; None for bytes. Raises
    LookupError for one that there is not.
    """
    if not (text or encoding or errors):
        return None
    import codecs

    found = encoding or "utf-8", errors or "strict"
    codecs.lookup(found[0])
    codecs.lookup_error(found[1])
    return found


def completed(work: Callable[[], Completed], encoding: tuple[str, str] | None, *, check: bool) -> Completed:
    """What *work* gives, its output decoded if that is text; also that in an error. Raises ContainerFailed with
    *check* and an exit status that is not 0.
    """
    try:
        done = work()
    except Exception as error:
        if encoding is not None:
            _decode_partial(error, encoding[0])
        raise
    if encoding is not None:
        done = _decoded(done, *encoding)
    if check:
        done.check_returncode()
    return done


def _descriptor(stream: Stream, verb: str) -> int | None:
    if stream is None or isinstance(stream, int):
        if stream is not None and stream < 0 and stream not in (PIPE, STDOUT, DEVNULL):
            raise InvalidInput(f"{verb}: {stream} is not a descriptor")
        return stream
    return stream.fileno()


def _encoded(data: bytes | str | None, encoding: tuple[str, str] | None) -> bytes | None:
    return data.encode(*(encoding or ("utf-8",))) if isinstance(data, str) else data


def _decoded(done: Completed, encoding: str, errors: str) -> Completed:
    from lamina.values import replace

    stdout, stderr = decoded(done.stdout, encoding, errors), decoded(done.stderr, encoding, errors)
    return replace(done, stdout=stdout, stderr=stderr)


def decoded(data: Any, encoding: str, errors: str) -> Any:
    """As subprocess has it: text, with universal newlines; what is not bytes stays as it is. UnicodeDecodeError."""
    if not isinstance(data, bytes):
        return data
    return data.decode(encoding, errors).replace("\r\n", "\n").replace("\r", "\n")


def _decode_partial(error: Exception, encoding: str) -> None:
    for stream in ("stdout", "stderr"):
        data = getattr(error, stream, None)
        if isinstance(data, bytes):
            # what was cut off may end within a character
            setattr(error, stream, decoded(data, encoding, "replace"))
