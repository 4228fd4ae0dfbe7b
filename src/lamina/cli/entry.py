"""Where the command `lamina` begins.

Cold, this is a good part of what a container costs, so it imports the verb it was asked for and nothing else:
no click unless the command line needs explaining, no engine before there is something to do.
"""

from __future__ import annotations

import gc
import os
import sys

from lamina.argv import open_standard_streams, quick
from lamina.argv.declare import Arguments
from lamina.cli.options import GLOBAL
from lamina.cli.verbs import ALSO, VERBS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn


def main() -> NoReturn:
    """The console script. Leaves without the interpreter's finalisation: there is nothing left to finalise."""
    # importing makes many objects and no garbage: looking for some after every 700 is a tenth of a start
    gc.set_threshold(100_000)
    os._exit(run())


def run() -> int:
    """Do what the program was called for; the exit status. All that was printed is written out."""
    open_standard_streams()
    return _flush(command_line(sys.argv[1:]))


def command_line(argv: Sequence[str]) -> int:
    """Do what *argv* (without the program's name) says; the exit status. Never raises, prints no traceback."""
    try:
        return perform(argv)
    except BaseException as error:
        from lamina.cli.report import report

        return report(error, argv)


def perform(argv: Sequence[str]) -> int:
    """Parse and do; whatever goes wrong is raised."""
    asked = _read(argv)
    if asked is None:
        from lamina.cli.commands import explain

        outcome = explain(argv)
        if isinstance(outcome, int):
            return outcome
        asked = outcome
    name, values = asked
    status: int = load(name).do(Arguments(values))
    return status


def load(name: str) -> Any:
    """The module of the verb *name*, or the same under that name where the module is another verb's."""
    module = "lamina.cli.verbs." + VERBS[name][1]
    __import__(module)
    found = sys.modules[module]
    return found if found.VERB.name == name else Alias(name, found)


class Alias:
    """A verb of another name: `lamina image ls` is `lamina images`."""

    def __init__(self, name: str, module: Any) -> None:
        from lamina.values import replace

        self.VERB, self.do = replace(module.VERB, name=name), module.do


def _read(argv: Sequence[str]) -> tuple[str, dict[str, Any]] | None:
    """The verb and its values, where the command line is clean."""
    if "_LAMINA_COMPLETE" in os.environ:
        return None
    before = quick.options(GLOBAL.options, argv, interspersed=False)
    if before is None:
        return None
    values, words = before
    if values["version"]:
        words = ["version"]
    found = named(words)
    if found is None:
        return None
    name, rest = found
    own = quick.parse(load(name).VERB, rest)
    return None if own is None else (name, {**values, **own})


def named(words: Sequence[str]) -> tuple[str, list[str]] | None:
    """The verb that *words* begin with, and the words behind it."""
    for length in (1, 2):
        name = " ".join(words[:length])
        name = ALSO.get(name, name)
        if len(words) >= length and name in VERBS:
            return name, [*words[length:]]
    return None


def _flush(status: int) -> int:
    """Write out what is buffered; a reader that went away early is no error of ours."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            status = status or 141
        except (OSError, ValueError):
            status = status or 1
    return status
