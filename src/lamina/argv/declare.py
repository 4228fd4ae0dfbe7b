"""How a verb is declared: options and arguments as tables, read by the quick parser and by click alike.

On the path of `lamina run`, so nothing but values here.
"""

from __future__ import annotations

from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


@value
class Option:
    """One option of a verb.

    Without a `metavar` it is a flag, which may be given as `--flag=true` or `--flag=false` too (so one whose `default`
    is True can be switched off). `convert` turns the text into what the verb wants and raises ValueError with a reason
    ("is not a number"). `complete` says what a shell offers: "file", "directory", "container", "running" (of these),
    "paused", "stopped", "container@" (one, or a snapshot of one), "snapshot" (of the container that is the argument
    `name`), "image", "volume", "network", "state" (a container, snapshot or image), "anything", words with "|" between
    them, or "". `also` is a second name, which is understood and not shown.
    """

    name: str
    short: str = ""
    metavar: str = ""
    help: str = ""
    group: str = "Options"
    multiple: bool = False
    convert: Callable[[str], Any] | None = None
    choices: tuple[str, ...] = ()
    default: Any = None
    complete: str = ""
    also: str = ""

    @property
    def key(self) -> str:
        """The name under which the verb finds the value."""
        return self.name.replace("-", "_")

    @property
    def unset(self) -> Any:
        """The value when the option is not given."""
        if not self.metavar:
            return self.default is True
        return () if self.multiple else self.default


@value
class Argument:
    """A positional argument: `count` is "1", "?" (one or none), "*" (any number) or "+" (at least one)."""

    name: str
    metavar: str
    count: str = "1"
    choices: tuple[str, ...] = ()
    complete: str = ""

    def takes(self, words: list[str]) -> bool:
        """Whether *words* are among the choices, where there are any."""
        return not self.choices or all(word in self.choices for word in words)


@value
class Verb:
    """What a verb accepts and says about itself; the doing is the function `do` beside it.

    `interspersed` is False where everything after the first argument belongs to another command (`run`).
    `more` is a module with further OPTIONS, which is loaded when they are needed: what was not loaded is not among the
    values.
    """

    name: str
    options: tuple[Option, ...] = ()
    arguments: tuple[Argument, ...] = ()
    details: str = ""
    examples: str = ""
    interspersed: bool = True
    more: str = ""

    @property
    def all_options(self) -> tuple[Option, ...]:
        """Those of `more` as well."""
        if not self.more:
            return self.options
        import sys

        __import__(self.more)
        return (*self.options, *sys.modules[self.more].OPTIONS)


class Arguments:
    """What was typed, as attributes: `args.name`, `args.pids_limit`; also the global `root` and `debug`."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
