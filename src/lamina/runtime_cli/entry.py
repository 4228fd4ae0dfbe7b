"""Where the command `lamina-runtime` begins.

An engine calls it some times for every container and waits each time, so it imports the verb it was asked for and
nothing else.
"""

from __future__ import annotations

import gc
import os
import sys

from lamina.argv import open_standard_streams, quick
from lamina.argv.declare import Arguments
from lamina.runtime_cli.options import GLOBAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

# verb: module, what it does
VERBS = {
    "checkpoint": ("checkpoint", "Not supported: says so"),
    "create": ("create", "Create a container from a bundle; it waits for `start`"),
    "delete": ("delete", "Delete a container that has ended"),
    "events": ("events", "Show statistics and out-of-memory kills of a container, as JSON lines"),
    "exec": ("execute", "Run a further process in a running container"),
    "features": ("features", "Say what this runtime can do, as the OCI features document"),
    "kill": ("kill", "Send a signal to a container"),
    "list": ("listing", "List the containers of this root"),
    "pause": ("pause", "Freeze every process of a container"),
    "ps": ("ps", "List the processes of a container"),
    "restore": ("restore", "Not supported: says so"),
    "resume": ("resume", "Let the processes of a paused container go on"),
    "run": ("run", "Create and start a container, and stay with it"),
    "spec": ("spec", "Write a config.json to begin with"),
    "start": ("start", "Start a created container"),
    "state": ("state", "Show a container's state, as the OCI runtime specification has it"),
    "update": ("update", "Change the limits of a container"),
}
# whatever options stand behind these, the answer is the same
REFUSED = ("checkpoint", "restore")
USAGE = 1


def main() -> NoReturn:
    """The console script. Leaves without the interpreter's finalisation: there is nothing left to finalise."""
    # importing makes many objects and no garbage
    gc.set_threshold(100_000)
    os._exit(run())


def run() -> int:
    """Do what the program was called for; the exit status. All that was printed is written out."""
    open_standard_streams()
    status = command_line(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError:
        status = status or 1
    return status


def command_line(argv: Sequence[str]) -> int:
    """Do what *argv* (without the program's name) says; the exit status. Never raises."""
    words = [str(word) for word in argv]
    try:
        return perform(words)
    except BaseException as error:
        from lamina.runtime_cli.report import report

        return report(error, words)


def perform(argv: list[str]) -> int:
    """Parse and do; whatever goes wrong is raised."""
    before = quick.options(GLOBAL.options, argv, interspersed=False)
    if before is None:
        raise _usage(argv)
    values, words = before
    if values["version"]:
        from lamina.runtime_cli.about import version

        sys.stdout.write(version())
        return 0
    name = {"ls": "list"}.get(words[0], words[0]) if words else ""
    if values["help"] or not words or name == "help" or name not in VERBS:
        return _help(name, words[1:])
    verb = load(name)
    if any(word in ("--help", "-h") for word in own_words(words[1:])):
        return _help("help", [name])
    own = quick.parse(verb.VERB, ["--", *words[1:]] if name in REFUSED else words[1:])
    if own is None:
        raise _usage(argv, name)
    status: int = verb.do(Arguments({**values, **own}))
    return status


def own_words(words: list[str]) -> list[str]:
    """What stands before the first word that is no option: behind it another command may begin."""
    own: list[str] = []
    for word in words:
        if word == "--" or not word.startswith("-"):
            break
        own.append(word)
    return own


def load(name: str) -> Any:
    """The module of the verb *name*."""
    module = "lamina.runtime_cli.verbs." + VERBS[name][0]
    __import__(module)
    return sys.modules[module]


def _help(name: str, words: list[str]) -> int:
    from lamina.runtime_cli.about import help_text

    text, status = help_text(name, words)
    (sys.stdout if status == 0 else sys.stderr).write(text)
    return status


def _usage(argv: list[str], name: str = "") -> BaseException:
    from lamina.runtime_cli.about import usage_error

    return usage_error(argv, name)
