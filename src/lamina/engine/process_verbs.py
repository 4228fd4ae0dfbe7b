"""The verbs of a container for further processes: beside what runs in it, each in its own words of subprocess."""

from __future__ import annotations

from lamina.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal, Unpack, overload

    from lamina.engine import keywords
    from lamina.engine.completed import Completed
    from lamina.engine.executing import ExecOptions
    from lamina.engine.parameters import Command, Stream
    from lamina.engine.process import Process
    from lamina.store.containers import Home


class ProcessVerbs:
    """What `Container` does with further processes."""

    if TYPE_CHECKING:
        _home: Home

    if TYPE_CHECKING:

        @overload
        def exec(self, command: Command, *,
            text: Literal[True], encoding: str | None = None, errors: str | None = None,
            **keywords: Unpack[keywords.Exec]) -> Completed[str]: ...  # fmt: skip
        @overload
        def exec(self, command: Command, *,
            text: bool = False, encoding: str, errors: str | None = None,
            **keywords: Unpack[keywords.Exec]) -> Completed[str]: ...  # fmt: skip
        @overload
        def exec(self, command: Command, *,
            text: bool = False, encoding: str | None = None, errors: str,
            **keywords: Unpack[keywords.Exec]) -> Completed[str]: ...  # fmt: skip
        @overload
        def exec(self, command: Command, *,
            text: Literal[False] = False, encoding: None = None, errors: None = None,
            **keywords: Unpack[keywords.Exec]) -> Completed[bytes]: ...  # fmt: skip
        @overload
        def exec(self, command: Command, *,
            text: bool = False, encoding: str | None = None, errors: str | None = None,
            **keywords: Unpack[keywords.Exec]) -> Completed[Any]: ...  # fmt: skip

    def exec(
        self,
        command: Command,
        *,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        input: bytes | str | None = None,
        capture_output: bool = False,
        text: bool = False,
        encoding: str | None = None,
        errors: str | None = None,
        check: bool = False,
        timeout: float | None = None,
        forward_signals: bool = False,
        **options: Unpack[ExecOptions],
    ) -> Completed[Any]:
        """Run *command* beside what runs in it, and wait for its end; parameters as of `Engine.run`.

        After *timeout* seconds it is killed, with what it began and left in its process group (a daemon that made a
        session of its own goes on), and so when it is interrupted.

        `**options` are those of `docker exec`: env, workdir, user, tty, interactive, privileged, detach_keys. Raises
        Conflict when it does not run or is paused, CommandNotFound, CommandNotExecutable, TimeoutExpired and others.
        """
        from lamina.engine.exec_process import check as checked
        from lamina.engine.executing import execute
        from lamina.engine.parameters import completed, streams_of, text_of, words_of

        asked, words = checked(options), words_of(command, "exec")
        encoded = text_of(text, encoding, errors)
        io = streams_of(
            stdin, stdout, stderr, input, capture_output, encoded, timeout, forward_signals, asked.interactive,
            "exec",
        )  # fmt: skip
        return completed(lambda: execute(self._home, words, asked, io), encoded, check=check)

    def exec_detached(self, command: Command, **options: Unpack[ExecOptions]) -> int:
        """Begin *command* beside what runs in it and leave it to itself; its pid on this machine. Raises as `exec`."""
        from lamina.engine.exec_process import check as checked
        from lamina.engine.executing import detach
        from lamina.engine.parameters import words_of

        return detach(self._home, words_of(command, "exec"), checked(options))

    if TYPE_CHECKING:

        @overload
        def popen(self, command: Command, *,
            text: Literal[True], encoding: str | None = None, errors: str | None = None,
            **keywords: Unpack[keywords.ExecPopen]) -> Process[str]: ...  # fmt: skip
        @overload
        def popen(self, command: Command, *,
            text: bool = False, encoding: str, errors: str | None = None,
            **keywords: Unpack[keywords.ExecPopen]) -> Process[str]: ...  # fmt: skip
        @overload
        def popen(self, command: Command, *,
            text: bool = False, encoding: str | None = None, errors: str,
            **keywords: Unpack[keywords.ExecPopen]) -> Process[str]: ...  # fmt: skip
        @overload
        def popen(self, command: Command, *,
            text: Literal[False] = False, encoding: None = None, errors: None = None,
            **keywords: Unpack[keywords.ExecPopen]) -> Process[bytes]: ...  # fmt: skip
        @overload
        def popen(self, command: Command, *,
            text: bool = False, encoding: str | None = None, errors: str | None = None,
            **keywords: Unpack[keywords.ExecPopen]) -> Process[Any]: ...  # fmt: skip

    def popen(
        self,
        command: Command,
        *,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        bufsize: int = -1,
        text: bool = False,
        encoding: str | None = None,
        errors: str | None = None,
        **options: Unpack[ExecOptions],
    ) -> Process[Any]:
        """Begin *command* beside what runs in it, and give it as a Process: subprocess.Popen, in the container.

        The streams, `bufsize`, `text`, `encoding` and `errors` are those of Popen, with one difference: standard input
        is empty unless `stdin` is given, or `interactive` asks for the caller's. `**options` and what is raised are
        those of `exec`. The process lives on when the caller ends, and ends with the container.
        """
        from lamina.engine.exec_process import check as checked
        from lamina.engine.parameters import streams_of, text_of, words_of
        from lamina.engine.popen import popen

        if options.get("detach_keys") is not None:
            raise InvalidInput("popen: detach_keys: nobody is attached who could detach")
        asked, words = checked(options), words_of(command, "popen")
        io = streams_of(
            stdin, stdout, stderr, None, False, None, None, False, asked.interactive, "popen"
        )  # fmt: skip
        return popen(self._home, words, asked, io, bufsize, text_of(text, encoding, errors))


__all__ = ["ProcessVerbs"]
