"""Templates as trees: see `template` for the language."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, NoReturn

from lamina.cli.template_functions import FUNCTIONS
from lamina.errors import InvalidInput
from lamina.values import value

DEEPEST = 100  # blocks, or parentheses, in one another
KEYWORDS = ("if", "range", "with", "else", "end")
REFUSED = ("define", "template", "block", "break", "continue")
_COMMENT = re.compile(r"(-\s)?\s*/\*.*?\*/\s*?(\s-)?\}\}", re.DOTALL)
_ACTION = re.compile(
    r"""(?:"(?:[^"\\\n]|\\.)*"|`[^`]*`|(?!\}\})[^"`])*?(?=\s-\}\}|\}\})(\s-)?\}\}""", re.DOTALL
)
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<text>"(?:[^"\\\n]|\\.)*") | (?P<raw>`[^`]*`) |
    (?P<number>[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![\w.]) |
    (?P<field>(?:\.[^\W\d]\w*)+) | (?P<variable>\$\w*)(?P<below>(?:\.[^\W\d]\w*)*) |
    (?P<dot>\.)(?![\w.]) | (?P<word>[^\W\d]\w*) | (?P<sign>:=|[|(),=]) )""",
    re.VERBOSE,
)
_QUOTED = re.compile(r'\\(["\\abfnrtv]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[0-7]{3})')
_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", '"': '"', "\\": "\\"}
_WORDS = {"true": True, "false": False, "nil": None}


@value
class Literal:
    """Something that stands for itself."""

    value: Any


@value
class Variable:
    """`$`, `$name`."""

    name: str


@value
class Field:
    """`.A.B` of the dot (None), of a variable, or of what parentheses give; without names that itself."""

    of: Any
    names: tuple[str, ...]


@value
class Call:
    """A function with its arguments, or without a name one operand."""

    name: str
    arguments: tuple[Any, ...]


@value
class Pipeline:
    """Calls, of which each gets the value of the one before as its last argument."""

    calls: tuple[Call, ...]


@value
class Text:
    """What is between actions."""

    text: str


@value
class Action:
    """A value to be printed."""

    pipeline: Pipeline


@value
class Assign:
    """`$name := pipeline`, or `=` of one that is there already."""

    name: str
    declares: bool
    pipeline: Pipeline


@value
class With:
    """`with`, and `if`, which leaves the dot as it is (`dots` False)."""

    dots: bool
    variable: str
    pipeline: Pipeline
    then: tuple[Any, ...]
    otherwise: tuple[Any, ...]


@value
class Range:
    """`range`, with the variables of key and value, or "" where there are none."""

    key: str
    variable: str
    pipeline: Pipeline
    then: tuple[Any, ...]
    otherwise: tuple[Any, ...]


Node = Text | Action | Assign | With | Range


def parse(text: str, plain: Callable[[str], str] = str) -> tuple[Node, ...]:
    """The tree of *text*; *plain* is done to what is between actions. Raises InvalidInput."""
    return _Parser(_pieces(text, plain)).whole()


def _pieces(text: str, plain: Callable[[str], str]) -> list[tuple[bool, str]]:
    """(False, text) and (True, inside of an action), with the white space gone that `{{- ` and ` -}}` take."""
    found: list[tuple[bool, str]] = []
    at, trimmed = 0, False
    while True:
        start = text.find("{{", at)
        between = plain(text[at:] if start < 0 else text[at:start])
        trims = start >= 0 and text[start + 2 : start + 3] == "-" and text[start + 3 : start + 4].isspace()
        if trimmed:
            between = between.lstrip()
        if trims:
            between = between.rstrip()
        if between:
            found.append((False, between))
        if start < 0:
            return found
        begin = start + (3 if trims else 2)
        comment = _COMMENT.match(text, start + 2)
        match = comment or _ACTION.match(text, begin)
        if match is None:
            raise InvalidInput(f"--format: {text[start:][:60]} is not closed", remedy="write {{.Names}}")
        if comment is None:
            found.append(
                (True, text[begin : match.end()].removesuffix("}}").removesuffix("-" if match[1] else ""))
            )
        at, trimmed = match.end(), bool(match[2 if comment else 1])


class _Parser:
    """Reads pieces from the first to the last. `variables` are those that may be used here."""

    def __init__(self, pieces: list[tuple[bool, str]]) -> None:
        self._pieces, self._place, self._depth = pieces, 0, 0
        self._variables: list[str] = ["$"]

    def whole(self) -> tuple[Node, ...]:
        nodes, ended, _ = self._block()
        if ended:
            raise InvalidInput(f"--format: {{{{{ended}}}}} without something to end")
        return nodes

    def _block(self) -> tuple[tuple[Node, ...], str, _Line | None]:
        """Nodes up to an `end` or `else` that is not theirs, which is it, and what follows it in its action."""
        found: list[Node] = []
        known = len(self._variables)
        while self._place < len(self._pieces):
            is_action, text = self._pieces[self._place]
            self._place += 1
            if not is_action:
                found.append(Text(text))
                continue
            line = _Line(text, self._variables)
            word = line.keyword()
            if word in ("end", "else"):
                del self._variables[known:]
                return tuple(found), word, line
            found.append(self._node(word, line))
        del self._variables[known:]
        return tuple(found), "", None

    def _node(self, word: str, line: _Line) -> Node:
        if word in REFUSED:
            raise InvalidInput(
                f"--format: {{{{{word}}}}} is not supported", remedy="see docs/cli.md for what is"
            )
        if word in KEYWORDS:
            return self._control(word, line)
        names, declares = line.assigned(1)
        pipeline = line.pipeline()
        line.finish()
        if not names:
            return Action(pipeline)
        if declares:
            self._variables.append(names[0])
        return Assign(names[0], declares, pipeline)

    def _control(self, word: str, line: _Line) -> Node:
        self._depth += 1
        if self._depth > DEEPEST:
            raise InvalidInput("--format: too many blocks in one another")
        known = len(self._variables)
        names, declares = line.assigned(2 if word == "range" else 1)
        if names and not declares:
            line.fail()
        pipeline = line.pipeline()
        line.finish()
        self._variables += names
        then, ended, rest = self._block()
        otherwise: tuple[Node, ...] = ()
        if ended == "else":
            assert rest is not None
            further = rest.keyword()
            if further:
                if further != word or word == "range":
                    rest.fail()
                otherwise = (self._control(further, rest),)  # its end is ours
                ended = "end"
            else:
                rest.finish()
                otherwise, ended, rest = self._block()
                if rest is not None:
                    rest.finish()
        elif rest is not None:
            rest.finish()
        if ended != "end":
            said = "has no {{end}}" if not ended else "has two {{else}}"
            raise InvalidInput(f"--format: {{{{{word}}}}} {said}")
        del self._variables[known:]
        self._depth -= 1
        if word == "range":
            return Range(
                names[0] if len(names) == 2 else "", names[-1] if names else "", pipeline, then, otherwise
            )
        return With(word == "with", names[0] if names else "", pipeline, then, otherwise)


def _asks_for_label(operand: Any) -> bool:
    """Whether it is docker's `.Label "key"`, the one method there is."""
    return isinstance(operand, Field) and operand.names[-1:] == ("Label",)


class _Line:
    """The inside of one action, token by token."""

    def __init__(self, text: str, variables: list[str]) -> None:
        self.text, self._variables = text, variables
        self._tokens: list[tuple[str, re.Match[str]]] = []
        self._place = self._depth = 0
        at, end = 0, len(text.rstrip())
        while at < end:
            match = _TOKEN.match(text, at)
            if match is None or match.end() == at:
                self.fail()
            spaced = at == 0 or match[0][:1].isspace()
            kind = match.lastgroup or ""
            kind = "variable" if kind == "below" else kind
            # `a.B` is neither `a .B` nor a field of a: only what parentheses give has fields
            if not spaced and kind != "sign" and self._tokens[-1][1]["sign"] is None:
                self.fail()
            self._tokens.append((kind, match))
            at = match.end()

    def fail(self, why: str = "") -> NoReturn:
        """Raise InvalidInput for this action."""
        said = f"{{{{{self.text}}}}} is not understood" + (f": {why}" if why else "")
        raise InvalidInput(
            f"--format: {said}", remedy="fields such as {{.Names}} and {{json .}} are; see docs/cli.md"
        )

    def _peek(self, ahead: int = 0) -> tuple[str, str]:
        place = self._place + ahead
        if place >= len(self._tokens):
            return "", ""
        kind, match = self._tokens[place]
        return kind, match[kind]

    def keyword(self) -> str:
        """The keyword that comes next, taken; "" if there is none."""
        kind, word = self._peek()
        if kind == "word" and word in (*KEYWORDS, *REFUSED):
            self._place += 1
            return word
        return ""

    def assigned(self, most: int) -> tuple[list[str], bool]:
        """The variables that are to be set, at most so many, and whether they are new ones (`:=`)."""
        names: list[str] = []
        ahead = 0
        while len(names) < most and self._peek(ahead)[0] == "variable":
            names.append(self._peek(ahead)[1])
            ahead += 1
            if self._peek(ahead)[1] != ",":
                break
            ahead += 1
        sign = self._peek(ahead)[1]
        if not names or sign not in (":=", "="):
            return [], False
        if "$" in names or (sign == "=" and names[0] not in self._variables):
            self.fail(f"there is no variable {names[0]}")
        self._place += ahead + 1
        return names, sign == ":="

    def pipeline(self) -> Pipeline:
        calls = [self._call(first=True)]
        while self._peek() == ("sign", "|"):
            self._place += 1
            calls.append(self._call(first=False))
        return Pipeline(tuple(calls))

    def finish(self) -> None:
        """Raises InvalidInput if anything is left."""
        if self._place < len(self._tokens):
            self.fail()

    def _call(self, *, first: bool) -> Call:
        kind, word = self._peek()
        name = ""
        if kind == "word" and word not in _WORDS:
            self._place += 1
            name = word
            if name not in FUNCTIONS and name not in ("and", "or"):
                near = get_close_matches(name, [*FUNCTIONS, "and", "or"], n=1)
                self.fail(f"there is no function {name}" + (f"; did you mean {near[0]}?" if near else ""))
        arguments = []
        while (kind := self._peek()[0]) and self._peek() not in (("sign", "|"), ("sign", ")")):
            arguments.append(self._operand())
        if not name and first and len(arguments) == 2 and _asks_for_label(arguments[0]):
            return Call("", tuple(arguments))
        if not name and (len(arguments) != 1 or not first):
            self.fail("only functions take arguments" if arguments else "")
        return Call(name, tuple(arguments))

    def _operand(self) -> Any:
        kind, text = self._peek()
        match = self._tokens[self._place][1]
        self._place += 1
        if kind == "dot":
            return Field(None, ())
        if kind == "field":
            return Field(None, tuple(text[1:].split(".")))
        if kind == "variable":
            if text not in self._variables:
                self.fail(f"there is no variable {text}")
            below = match["below"]
            return Field(Variable(text), tuple(below[1:].split("."))) if below else Variable(text)
        if kind in ("text", "raw"):
            return Literal(self._unquoted(text[1:-1]) if kind == "text" else text[1:-1])
        if kind == "number":
            number = float(text) if any(letter in text for letter in ".eE") else int(text)
            return Literal(number) if abs(number) < float("inf") else self.fail("too large a number")
        if kind == "word":
            if text in _WORDS:
                return Literal(_WORDS[text])
            if text in FUNCTIONS:
                return Pipeline((Call(text, ()),))
            self.fail(f"there is no function {text}")
        return self._parenthesis() if text == "(" else self.fail()

    def _parenthesis(self) -> Any:
        self._depth += 1
        if self._depth > DEEPEST:
            self.fail("too many parentheses")
        inner = self.pipeline()
        if self._peek() != ("sign", ")"):
            self.fail("a parenthesis is not closed")
        self._place += 1
        self._depth -= 1
        kind, text = self._peek()
        if kind == "field" and not self._tokens[self._place][1][0][:1].isspace():
            self._place += 1
            return Field(inner, tuple(text[1:].split(".")))
        return inner

    def _unquoted(self, text: str) -> str:
        def meant(match: re.Match[str]) -> str:
            code = match[1]
            if code in _SIMPLE:
                return _SIMPLE[code]
            number = int(code, 8) if code.isdigit() and len(code) == 3 else int(code[1:], 16)
            if 0xD800 <= number <= 0xDFFF:
                self.fail(f"half a character in {text!r}")
            return chr(number)

        if "\\" in _QUOTED.sub("", text):
            self.fail(f"there is no such escape in {text!r}")
        return _QUOTED.sub(meant, text)
