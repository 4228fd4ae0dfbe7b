"""What went wrong, in two lines on standard error: `lamina: verb object: cause` and `hint: remedy`."""

from __future__ import annotations

import errno
import os
import sys

from lamina.argv import quick
from lamina.cli.options import GLOBAL
from lamina.cli.stopped import Stopped
from lamina.errors import REMEDIES, HostChanged, LaminaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130
BROKEN_PIPE = 141


def report(error: BaseException, argv: Sequence[str]) -> int:
    """Say what *error* means for the user of the command line *argv*; the exit status.

    A KeyboardInterrupt (unless a verb has a word for it, `Stopped`) and a reader that went away are silent. A bug of
    ours asks to be reported; `--debug` (or LAMINA_DEBUG=1) shows the traceback of anything.
    """
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, KeyboardInterrupt):
        if isinstance(error, Stopped):
            say(str(error))
            return 128 + error.signal
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        _silence_stdout()
        return BROKEN_PIPE
    if _debugging(argv):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, HostChanged):
        _say_clashes(error)
        return error.exit_code
    if isinstance(error, LaminaError):
        say(error.message, error.remedy)
        for note in getattr(error, "__notes__", ()):
            say(note)
        return error.exit_code
    return _foreign(error, argv)


def say(message: str, hint: str = "") -> None:
    """Print a message of ours, and what to do about it, on standard error."""
    strong, weak, plain = ("\033[1;31m", "\033[36m", "\033[0m") if _coloured() else ("", "", "")
    lines = f"{strong}lamina:{plain} {_harmless(message)}\n"
    if hint:
        lines += f"{weak}hint:{plain} {_harmless(hint)}\n"
    data = lines.encode("utf-8", "surrogateescape")
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:  # a standard output that is full may be what this message is about
        pass
    # straight to the descriptor: the message must come out even where sys.stderr is None or closed
    try:
        while data:
            data = data[os.write(2, data) :]
    except OSError:
        pass


def _harmless(message: str) -> str:
    """Names in a message are anybody's: none of them commands the terminal. Lines stay lines."""
    from lamina.cli.quoting import harmless

    return "\n".join(map(harmless, message.split("\n")))


def _say_clashes(error: HostChanged) -> None:
    """Every path that the host changed, with both sides."""
    from lamina.cli.applying import clash_lines

    first = error.message.partition("\n")[0]
    say("\n".join([first, *clash_lines(error.clashes)]), error.remedy)  # type: ignore[arg-type]


def _foreign(error: BaseException, argv: Sequence[str]) -> int:
    verb = next((word for word in argv if not word.startswith("-")), "help")
    if isinstance(error, OSError) and error.errno is not None:
        place = f" {os.fsdecode(error.filename)}" if isinstance(error.filename, (str, bytes)) else ""
        full = "free some space, or use another --root" if error.errno == errno.ENOSPC else ""
        say(f"{verb}{place}: {os.strerror(error.errno).lower()}", full or REMEDIES.get(error.errno, ""))
        return 125
    if isinstance(error, ImportError) and os.strerror(errno.EMFILE) in str(error):  # of a shared object
        say(f"{verb}: {os.strerror(errno.EMFILE).lower()}", REMEDIES[errno.EMFILE])
        return 125
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    say(
        f"{verb}: internal error: {reason}",
        "this is a bug in Lamina; repeat with --debug and report what it prints",
    )
    return 125


def _debugging(argv: Sequence[str]) -> bool:
    """Whether --debug stands before the verb, or LAMINA_DEBUG is set."""
    before = quick.options(GLOBAL.options, argv, interspersed=False)
    return bool(before and before[0]["debug"]) or os.environ.get("LAMINA_DEBUG", "") not in ("", "0")


def _coloured() -> bool:
    try:
        return os.isatty(2) and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    except OSError:
        return False


def _silence_stdout() -> None:
    """Let later flushes of the closed pipe succeed quietly."""
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, 1)
    os.close(null)
