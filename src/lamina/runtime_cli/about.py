"""What the command says about itself: version, help, and what is wrong with a command line."""

from __future__ import annotations

from lamina.argv import quick
from lamina.argv.declare import Option, Verb
from lamina.errors import InvalidInput
from lamina.runtime.container.directory import OCI_VERSION
from lamina.runtime_cli.entry import VERBS, load
from lamina.runtime_cli.options import GLOBAL


def version() -> str:
    """As runc prints it: callers look for the specification's version in the line that begins with `spec:`."""
    from lamina import __version__

    return f"lamina-runtime version {__version__}\nspec: {OCI_VERSION}\n"


def help_text(name: str, words: list[str]) -> tuple[str, int]:
    """Help for everything or a verb, and the exit status."""
    if name == "help" and words and words[0] in VERBS:
        return _verb_help(words[0]), 0
    if name and name != "help":
        from difflib import get_close_matches

        near = get_close_matches(name, VERBS, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        return f"lamina-runtime: no such verb {name!r}{meant}\n", 1
    lines = ["usage: lamina-runtime [OPTION...] VERB ...", "", "An OCI runtime, as runc is one.", ""]
    lines += [f"  {verb:<12}{text}" for verb, (_, text) in VERBS.items()]
    return "\n".join([*lines, "", *_options(GLOBAL)]) + "\n", 0


def _verb_help(name: str) -> str:
    verb: Verb = load(name).VERB
    forms = {"1": "{}", "?": "[{}]", "*": "[{}...]", "+": "{}..."}
    arguments = " ".join(forms[argument.count].format(argument.metavar) for argument in verb.arguments)
    head = f"usage: lamina-runtime {name} [OPTION...] {arguments}".rstrip()
    return "\n".join([head, "", VERBS[name][1], "", *_options(verb)]) + "\n"


def _options(verb: Verb) -> list[str]:
    rows = []
    for option in verb.options:
        names = f"-{option.short}, --{option.name}" if option.short else f"    --{option.name}"
        rows.append((f"{names} {option.metavar}".rstrip(), option.help))
    return [f"  {term:<36}{text}" for term, text in rows]


def usage_error(argv: list[str], name: str) -> InvalidInput:
    """The words for a command line that does not parse."""
    verb: Verb = load(name).VERB if name else GLOBAL
    where = f"lamina-runtime {name}".rstrip()
    return InvalidInput(
        f"{f'{name}: ' if name else ''}{_complaint(verb, _words(argv, name))}", remedy=f"see `{where} --help`"
    )


def _words(argv: list[str], name: str) -> list[str]:
    if not name:
        return argv
    before = quick.options(GLOBAL.options, argv, interspersed=False)
    return before[1][1:] if before else argv


def _complaint(verb: Verb, words: list[str]) -> str:
    known = {f"--{option.name}": option for option in verb.options}
    known.update({f"-{option.short}": option for option in verb.options if option.short})
    at = -1
    while (at := at + 1) < len(words):
        word = words[at]
        if not word.startswith("-") or word == "-":
            if not verb.interspersed:
                break
            continue
        if word == "--":
            break
        label, equals, text = word.partition("=") if word.startswith("--") else (word[:2], "", word[2:])
        option = known.get(label)
        if option is None:
            return f"there is no option {label}"
        attached = bool(equals or (text and option.metavar))
        if (said := _value_complaint(option, label, text if attached else None, words[at + 1 :])) is not None:
            return said
        at += bool(option.metavar) and not attached  # its value is the next word
    wanted = " ".join(a.metavar for a in verb.arguments if a.count in "1+")
    return f"the arguments do not fit (it takes {wanted or 'none'})"


def _value_complaint(option: Option, label: str, text: str | None, after: list[str]) -> str | None:
    if not option.metavar:
        known = text is None or text in (*quick.TRUE, *quick.FALSE)
        return None if known else f"{label} {text!r}: true, false are possible"
    if text is None:
        if not after:
            return f"{label} needs a value"
        text = after[0]
    if option.choices and text not in option.choices:
        return f"{label} {text!r}: {', '.join(option.choices)} are possible"
    try:
        if option.convert:
            option.convert(text)
    except ValueError as error:
        return f"{label} {text!r} {error}"
    return None
