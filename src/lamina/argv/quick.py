"""The clean command line, parsed without click: its import alone costs as much as starting a container.

`parse` knows getopt's grammar (`--name value`, `--name=value`, `-nvalue`, clusters of flags, `--`), Docker's
`--flag=false` and `-n=value`, and nothing else. Whatever is irregular (an unknown option, a missing or wrong value,
`--help`) it answers with None, and click, built from the same tables, finds the words for it. A property test holds the
two to the same answers.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from lamina.argv.declare import Argument, Option, Verb


# what is read as a flag's value: strconv.ParseBool of Go
TRUE, FALSE = ("true", "1", "t", "T", "TRUE", "True"), ("false", "0", "f", "F", "FALSE", "False")


def parse(verb: Verb, argv: Sequence[str]) -> dict[str, Any] | None:
    """The values of *argv* by key, or None where click must explain."""
    read = options(verb.options, argv, verb.interspersed)
    if read is None and verb.more:
        read = options(verb.all_options, argv, verb.interspersed)
    if read is None:
        return None
    values, words = read
    placed = place(verb.arguments, words)
    if placed is None:
        return None
    values.update(placed)
    return values


def options(
    table: tuple[Option, ...], argv: Sequence[str], interspersed: bool
) -> tuple[dict[str, Any], list[str]] | None:
    """Option values by key, and the words left over. Without *interspersed* options end at the first word."""
    by_name: dict[str, Option] = {}
    for option in table:
        by_name["--" + option.name] = option
        if option.short:
            by_name["-" + option.short] = option
        if option.also:
            by_name["--" + option.also] = option
    found: list[tuple[Option, str | None]] = []
    words: list[str] = []
    position, end = 0, len(argv)
    while position < end:
        word = argv[position]
        position += 1
        if word == "--":
            words.extend(argv[position:])
            break
        if word[:1] != "-" or word == "-":
            words.append(word)
            if not interspersed:
                words.extend(argv[position:])
                break
            continue
        taken = _long(by_name, word) if word[1] == "-" else _cluster(by_name, word)
        if taken is None:
            return None
        found.extend(taken)
        last, value = taken[-1]
        if last.metavar and value is None:
            if position == end:
                return None
            found[-1] = (last, argv[position])
            position += 1
    values = _values(table, found)
    return None if values is None else (values, words)


def _long(by_name: dict[str, Option], word: str) -> list[tuple[Option, str | None]] | None:
    name, equals, value = word.partition("=")
    option = by_name.get(name)
    if option is None or (equals and not option.metavar and value not in TRUE and value not in FALSE):
        return None
    return [(option, value if equals else None)]


def _cluster(by_name: dict[str, Option], word: str) -> list[tuple[Option, str | None]] | None:
    """`-it` and `-eKEY=VALUE`: flags, of which the last may take the rest of the word as its value.

    As in Docker (pflag) a `=` before it is none of it: `-e=KEY=VALUE` is the same.
    """
    taken: list[tuple[Option, str | None]] = []
    for at in range(1, len(word)):
        option = by_name.get("-" + word[at])
        if option is None:
            return None
        if option.metavar:
            taken.append((option, attached(word[at + 1 :]) or None))
            return taken
        if word[at + 1 : at + 2] == "=" and (word[at + 2 :] in TRUE or word[at + 2 :] in FALSE):
            taken.append((option, word[at + 2 :]))
            return taken
        taken.append((option, None))
    return taken


def attached(rest: str) -> str:
    """The value that stands at a letter, of what follows that."""
    return rest[1:] if rest[:1] == "=" and len(rest) > 1 else rest


def _values(table: tuple[Option, ...], found: list[tuple[Option, str | None]]) -> dict[str, Any] | None:
    values: dict[str, Any] = {option.key: option.unset for option in table}
    # of an option that is not to be repeated the last counts, and only the last is looked at
    last = {option.key: number for number, (option, _) in enumerate(found)}
    for number, (option, text) in enumerate(found):
        if not option.metavar:
            values[option.key] = text is None or text in TRUE
            continue
        assert text is not None  # an option without its value was refused
        if not option.multiple and number != last[option.key]:
            continue
        if option.choices and text not in option.choices:
            return None
        try:
            value = option.convert(text) if option.convert else text
        except ValueError:
            return None
        values[option.key] = (*values[option.key], value) if option.multiple else value
    return values


def place(arguments: tuple[Argument, ...], words: list[str]) -> dict[str, Any] | None:
    """Hand the words to the arguments in order; only the last argument may take a number of them."""
    values: dict[str, Any] = {}
    left = list(words)
    for argument in arguments:
        single = argument.count in "1?"
        own, left = (left[:1], left[1:]) if single else (left, [])
        if (argument.count in "1+" and not own) or not argument.takes(own):
            return None
        values[argument.name] = (own[0] if own else None) if single else tuple(own)
    return None if left else values
