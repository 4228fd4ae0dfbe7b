"""The verbs as click commands: help, completion, and the words for a command line that is not clean.

Built from the same tables as the quick parser (`quick.py`); doing stays outside of click.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from difflib import get_close_matches
from typing import Any, cast

import click
from click.shell_completion import CompletionItem

from lamina.argv import quick
from lamina.argv.declare import Argument, Option, Verb
from lamina.cli import absent, output
from lamina.cli.entry import load
from lamina.cli.options import GLOBAL
from lamina.cli.usage import UsageError
from lamina.cli.verbs import ALSO, GROUPS, VERBS

WIDEST, NARROWEST = 100, 30
COMPLETE = "_LAMINA_COMPLETE"


def explain(argv: Sequence[str]) -> tuple[str, dict[str, Any]] | int:
    """Parse *argv* with click: the verb and its values, or an exit status where help or completions were printed.

    Raises UsageError with the reason and the way out.
    """
    words = _asking_for_help(list(argv))
    try:
        outcome = _parse(words)
    except click.Abort:
        raise KeyboardInterrupt from None
    except click.UsageError as error:
        raise _translate(error) from None
    if isinstance(outcome, int):
        return outcome
    return cast("tuple[str, dict[str, Any]]", outcome)


def _parse(words: list[str]) -> Any:
    """What click makes of *words*. What it prints is kept and written by us: its own handling of a reader that goes
    away, and of a full disk, is not ours.
    """
    if COMPLETE in os.environ:
        return Root().main(words, prog_name="lamina", complete_var=COMPLETE, standalone_mode=False)
    printed = io.StringIO()
    with redirect_stdout(printed):
        outcome = Root().main(words, prog_name="lamina", standalone_mode=False)
    output.text(printed.getvalue())
    return outcome


def _asking_for_help(words: list[str]) -> list[str]:
    """`lamina`, `lamina help run` and `lamina overlay` ask for help; words behind the verb never run."""
    if words[:1] == ["help"]:
        length = next((n for n in (2, 1) if " ".join(words[1 : n + 1]) in VERBS), 1)
        return [*words[1 : length + 1], "--help"]
    group = (
        len(words) == 1 and any(name.startswith(words[0] + " ") for name in VERBS) and words[0] not in VERBS
    )
    return words if words and not group else [*words, "--help"]


def parse_verb(verb: Verb, argv: Sequence[str]) -> dict[str, Any]:
    """What `quick.parse` answers, by click; raises UsageError where that answers None."""
    command = Command(verb)
    try:
        outcome = command.main(list(argv), prog_name=f"lamina {verb.name}", standalone_mode=False)
    except click.UsageError as error:
        raise _translate(error) from None
    _, values = outcome
    return {key: value for key, value in values.items() if key not in _globals({})}


# -- commands from tables


class Heading:
    """Help in sections whose headings and terms stand out on a terminal."""

    @staticmethod
    @contextmanager
    def section(formatter: click.HelpFormatter, name: str) -> Iterator[None]:
        formatter.write_paragraph()
        formatter.write(f"{click.style(name, bold=True)}\n")
        formatter.indent()
        try:
            yield
        finally:
            formatter.dedent()

    @staticmethod
    def write(formatter: click.HelpFormatter, name: str, rows: Sequence[tuple[str, str]]) -> None:
        with Heading.section(formatter, name):
            styled = [(click.style(term, fg="cyan"), text) for term, text in rows]
            formatter.write_dl(styled, col_max=min(34, formatter.width // 2))


class Command(click.Command):
    """A verb's table as a click command, which answers with the verb's name and its values."""

    def __init__(self, verb: Verb) -> None:
        self.verb = verb
        about = VERBS[verb.name][2]
        names = ["--help"] if any(option.short == "h" for option in verb.all_options) else ["-h", "--help"]
        super().__init__(
            verb.name.rpartition(" ")[2],
            params=[*map(_option, verb.all_options), *map(_argument, verb.arguments)],
            callback=self._answer,
            help=about,
            context_settings={"help_option_names": names, "allow_interspersed_args": verb.interspersed},
        )

    def _answer(self, **values: Any) -> tuple[str, dict[str, Any]]:
        before = click.get_current_context().find_root().params
        unset = {option.key: option.unset for option in self.verb.all_options}
        given = {key: value for key, value in values.items() if value is not None}
        found = {**_globals(before), **dict.fromkeys(values), **unset, **given}
        rare = self.verb.all_options[len(self.verb.options) :]
        if all(found[option.key] == option.unset for option in rare):
            for option in rare:  # as if they had not been loaded
                del found[option.key]
        return self.verb.name, found

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, spelled(self.verb, args))
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # click's parser does not always say where it was
            raise

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        hidden = {f"--{option.also}" for option in self.verb.all_options if option.also}
        found = super().shell_complete(ctx, incomplete)
        return [item for item in found if not item.value.startswith(OFF) and item.value not in hidden]

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_usage(ctx, formatter)
        formatter.write_paragraph()
        formatter.write_text(VERBS[self.verb.name][2] + ".")
        for paragraph in self.verb.details.strip().split("\n\n"):
            if paragraph:
                formatter.write_paragraph()
                formatter.write_text(" ".join(paragraph.split()))
        self._write_options(ctx, formatter)
        if self.verb.examples:
            with Heading.section(formatter, "Examples"):
                for line in self.verb.examples.strip().splitlines():
                    formatter.write(f"{' ' * formatter.current_indent}{line.rstrip()}".rstrip() + "\n")

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(f"{click.style('Usage', bold=True)}: {usage(self.verb)}\n")

    def _write_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for option in self.verb.all_options:
            if option.help:
                groups.setdefault(option.group, []).append((_term(option), option.help))
        for name, rows in groups.items():
            Heading.write(formatter, name, rows)
        short = "" if any(option.short == "h" for option in self.verb.all_options) else "-h, "
        Heading.write(formatter, "Help", [(f"{short or '    '}--help", "Show this and leave")])


class Group(click.Group):
    """Verbs found by their table, imported when named."""

    prefix = ""

    def list_commands(self, ctx: click.Context) -> list[str]:
        own = [name.removeprefix(self.prefix) for name in VERBS if name.startswith(self.prefix)]
        return list(dict.fromkeys(name.partition(" ")[0] for name in own))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = self.prefix + cmd_name
        name = ALSO.get(name, name)
        if name in VERBS:
            return Command(load(name).VERB)
        if any(other.startswith(name + " ") for other in VERBS):
            return Nested(name)
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        command = self.get_command(ctx, args[0])
        if command is None and not ctx.resilient_parsing:
            if args[0].startswith("-"):
                raise click.NoSuchOption(args[0], ctx=ctx)
            raise NoSuchVerb(self.prefix + args[0], ctx)
        return args[0] if command else None, command, args[1:]

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        bold = click.style("Usage", bold=True)
        formatter.write(f"{bold}: lamina {self.prefix or '[OPTIONS] '}VERB ...\n")
        formatter.write_paragraph()
        for paragraph in (self.help or "").strip().split("\n\n"):
            formatter.write_text(" ".join(paragraph.split()))
        for group in GROUPS:
            rows = [
                (name.removeprefix(self.prefix), about)
                for name, (where, _, about) in VERBS.items()
                if where == group and name.startswith(self.prefix) and (self.prefix or name not in LONGER)
            ]
            if rows:
                Heading.write(formatter, group, rows)
        if not self.prefix:
            rows = [(_term(option), option.help) for option in GLOBAL.options]
            Heading.write(formatter, "Options", [*rows, ("-h, --help", "Show this and leave")])
        formatter.write_paragraph()
        formatter.write_text(f"'lamina {self.prefix}VERB --help' says more about a verb.")


# `image rm` is `rmi`: shown by `lamina image` alone
LONGER = frozenset(
    name
    for name, (_, module, _) in VERBS.items()
    if " " in name and any(module == other and " " not in short for short, (_, other, _) in VERBS.items())
)


class Nested(Group):
    """`lamina overlay`: verbs of two words."""

    def __init__(self, name: str) -> None:
        super().__init__(
            name, help=NESTED.get(name, ""), context_settings={"help_option_names": ["-h", "--help"]}
        )
        self.prefix = name + " "


NESTED = {
    "overlay": "Stacks of directories as the kernel's overlayfs knows them: mounted, compared, explained.",
    "container": "Containers: what runs over images, and over this system.",
    "image": "Images: what containers are made of.",
    "system": "Everything that is kept: counted, cleaned up, checked.",
    "healthcheck": "Health checks: whether what runs in containers is well.",
    "generate": "Files by which others look after containers.",
    "network": "Networks: what containers reach each other and the world by.",
    "snapshot": "Snapshots: states of containers, to which they can be put back, in constant time.",
    "volume": "Volumes: directories that outlive the containers that mount them.",
}


class Root(Group):
    """`lamina` itself."""

    def __init__(self) -> None:
        super().__init__(
            "lamina",
            params=[_option(option) for option in GLOBAL.options],
            callback=lambda **_: None,
            help="Run commands over layers: see what they changed, then keep it, apply it or throw it away.",
            context_settings={
                "help_option_names": ["-h", "--help"],
                "terminal_width": max(min(shutil.get_terminal_size().columns, WIDEST) - 2, NARROWEST),
                "color": output.is_coloured(),
            },
        )


class Text(click.ParamType):  # type: ignore[type-arg]  # not generic in older clicks
    """An option's or argument's value, checked and converted by its table."""

    name = "text"

    def __init__(self, declared: Option | Argument) -> None:
        self.declared = declared

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):  # a default
            return value
        declared = self.declared
        said = f"--{declared.name} {_quoted(value)}" if isinstance(declared, Option) else _quoted(value)
        if declared.choices and value not in declared.choices:
            near = get_close_matches(value, declared.choices, 1)
            one_of = "one of " if len(declared.choices) > 1 else ""
            raise Wrong(f"{said}: not {one_of}{', '.join(declared.choices)}", near, ctx)
        try:
            return declared.convert(value) if isinstance(declared, Option) and declared.convert else value
        except ValueError as error:
            raise Wrong(f"{said}: {error}", (), ctx) from None

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        from lamina.cli import completing

        declared = self.declared
        root = ctx.find_root().params.get("root")
        offered = declared.choices or completing.offers(declared.complete, root, ctx.params.get("name"))
        if offered is None:
            return [CompletionItem(incomplete, type="dir" if declared.complete == "directory" else "file")]
        return [CompletionItem(word) for word in offered if word.startswith(incomplete)]


def _option(option: Option) -> click.Option:
    names = [f"--{option.name}", *([f"--{option.also}"] if option.also else []), option.key]
    if option.short:
        names.insert(0, f"-{option.short}")
    if not option.metavar:
        names[names.index(f"--{option.name}")] += f"/{OFF}{option.name}"
        return click.Option(names, is_flag=True, default=option.unset, help=option.help)
    return click.Option(
        names, type=Text(option), metavar=option.metavar, multiple=option.multiple, help=option.help
    )


# what click knows `--flag=false` as: it has no flags with values; no command line has such a word
OFF = "--\0"


def spelled(verb: Verb, words: Sequence[str]) -> list[str]:
    """The *words* with `--flag=true`, `--flag=false` and `-n=value` as click knows them."""
    table = {f"--{option.name}": option for option in verb.all_options}
    table.update({f"-{option.short}": option for option in verb.all_options if option.short})
    table.update({f"--{option.also}": option for option in verb.all_options if option.also})
    found: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--" or (not verb.interspersed and (word[:1] != "-" or word == "-")):
            return [*found, word, *left]
        found += _long(table, word) if word.startswith("--") else _cluster(table, word)
        last = table.get(word) if word.startswith("--") else _last(table, word)
        if last is not None and last.metavar and left:
            found.append(left.pop(0))
    return found


def _long(table: dict[str, Option], word: str) -> list[str]:
    name, equals, text = word.partition("=")
    option = table.get(name)
    switched = _switched(option, text) if option is not None and equals else []
    return switched or [word]


def _cluster(table: dict[str, Option], word: str) -> list[str]:
    for at in range(1, len(word) if word[:1] == "-" else 0):
        option, rest = table.get(f"-{word[at]}"), word[at + 1 :]
        if option is None:
            break
        if option.metavar:
            return [word[: at + 1] + quick.attached(rest)]
        if rest[:1] == "=":
            switched = _switched(option, rest[1:])
            return [*([word[:at]] if at > 1 else []), *switched] if switched else [word]
    return [word]


def _switched(option: Option, text: str) -> list[str]:
    """A flag that is given as true or false, in click's words; nothing where *text* is neither."""
    if option.metavar or text not in (*quick.TRUE, *quick.FALSE):
        return []
    return [f"{'--' if text in quick.TRUE else OFF}{option.name}"]


def _last(table: dict[str, Option], word: str) -> Option | None:
    """The option of a cluster that takes the next word as its value, if one does."""
    for at, letter in enumerate(word[1:], 1):
        option = table.get(f"-{letter}")
        if option is None or option.metavar:
            return option if at == len(word) - 1 else None
    return None


def _argument(argument: Argument) -> click.Argument:
    return click.Argument(
        [argument.name],
        type=Text(argument),
        metavar=argument.metavar,
        nargs=-1 if argument.count in "*+" else 1,
        required=argument.count in "1+",
    )


def _globals(params: dict[str, Any]) -> dict[str, Any]:
    return {option.key: params.get(option.key) for option in GLOBAL.options}


def usage(verb: Verb) -> str:
    """One line: `lamina run [OPTIONS] IMAGE [COMMAND...]`."""
    shapes = {"1": "{}", "?": "[{}]", "*": "[{}...]", "+": "{}..."}
    words = [shapes[argument.count].format(argument.metavar) for argument in verb.arguments]
    options = ["[OPTIONS]"] if verb.options else []
    return " ".join(["lamina", verb.name, *options, *words])


def _term(option: Option) -> str:
    short = f"-{option.short}, " if option.short else "    "
    return f"{short}--{option.name}{' ' if option.metavar else ''}{option.metavar}"


# -- the words for what went wrong


class Wrong(click.UsageError):
    """A value that an option does not take; *near* are values it does."""

    def __init__(self, message: str, near: Sequence[str], ctx: click.Context | None) -> None:
        super().__init__(message, ctx)
        self.near = near


class NoSuchVerb(click.UsageError):
    def __init__(self, name: str, ctx: click.Context) -> None:
        super().__init__(f"no such verb {_quoted(name)}", ctx)
        self.verb_name = name


def _translate(error: click.UsageError) -> UsageError:
    command = error.ctx.command if error.ctx else None
    verb = command.verb if isinstance(command, Command) else None
    name = verb.name if verb else command.prefix.strip() if isinstance(command, Group) else ""
    path = f"lamina {name}".strip()
    message, near = _words(error, verb, name)
    remedy = f"did you mean {_either(near)}? " if near else ""
    if isinstance(error, click.MissingParameter) and verb:
        remedy = f"usage: {usage(verb)}; "
    remedy += f"'{path} --help' shows what is possible"
    return UsageError(f"{name}: {message}" if verb else message, remedy=remedy)


def _words(error: click.UsageError, verb: Verb | None, name: str) -> tuple[str, Sequence[str]]:
    """The message in our manner, and the nearest names of what is there; *name* is the verb's, or its beginning."""
    options = verb.all_options if verb else GLOBAL.options
    if isinstance(error, click.NoSuchOption) and (why := absent.option(name, error.option_name)):
        return f"{error.option_name} {why}", ()
    if isinstance(error, click.NoSuchOption):
        known = [f"--{option.name}" for option in options]
        return f"no such option {error.option_name}", _nearest(error.option_name, known)
    if isinstance(error, click.MissingParameter):
        declared = getattr(getattr(error.param, "type", None), "declared", None)
        what = declared.metavar if isinstance(declared, Argument) else getattr(error.param, "name", "a value")
        return f"{(what or '').rpartition(' ')[2]} is missing", ()
    if isinstance(error, NoSuchVerb) and (why := absent.VERBS.get(error.verb_name)):
        return f"{error.verb_name} {why}", ()
    if isinstance(error, NoSuchVerb):
        return error.message, _nearest(error.verb_name, list(VERBS))
    if isinstance(error, Wrong):
        return error.message, error.near
    if isinstance(error, click.BadOptionUsage):
        takes = any(f"--{option.name}" == error.option_name and not option.metavar for option in options)
        return f"{error.option_name} {'takes no value' if takes else 'needs a value'}", ()
    text = error.format_message().rstrip(".")
    return text[:1].lower() + text[1:], ()


def _nearest(typed: str, known: Sequence[str]) -> Sequence[str]:
    """What was most likely meant: names that begin like it, else names that look like it."""
    begun = [name for name in known if name.startswith(typed)] if len(typed) > 1 and typed != "--" else []
    return begun[:3] or get_close_matches(typed, known, 2, 0.6)


def _either(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _quoted(text: str) -> str:
    from lamina.cli.quoting import quote

    return quote(os.fsencode(text))
