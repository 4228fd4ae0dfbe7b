"""Go's templates, as far as docker users type them into --format: `{{.Names}}`, `{{range .Mounts}}...{{end}}`.

    text {{ pipeline }}                            its value; {{- and -}} take the white space beside them away
    {{if p}} ... {{else if p}} ... {{else}} ... {{end}}
    {{range p}} ... {{else}} ... {{end}}           of a list, or of a mapping by its keys
    {{range $key, $value := p}} ...
    {{with p}} ... {{else}} ... {{end}}    {{$name := p}}    {{$name = p}}    {{/* nothing */}}
    pipeline   command | command ...               the value of one is the last argument of the next
    command    operand ..., or a function with operands: see `template_functions`
    operand    .  .Field.Field  $  $name.Field  "text"  `text`  1  -1.5  true  false  nil  (pipeline)
    {{.Label "key"}}                               one of the labels, of containers and volumes

Values print as Go prints them: `[a b]`, `map[key:value]`, and those of docker's fields that are null as `[]`, `map[]`
or `<nil>`, whichever they are there; what else is not there prints as nothing. A field that a record does not have is
an error, not silence; a key that labels, or other mappings, do not have is nothing. What else Go has (define,
template, block, break, methods) is refused.
Source: the documentation of Go's text/template.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lamina.cli import template_functions as functions
from lamina.cli.labels import Labels
from lamina.cli.template_functions import is_true, show
from lamina.cli.template_parser import (
    Action,
    Assign,
    Call,
    Field,
    Literal,
    Node,
    Pipeline,
    Range,
    Text,
    Variable,
    With,
    parse,
)
from lamina.errors import InvalidInput

_ESCAPES = {"\\t": "\t", "\\n": "\n"}
# docker's pointers: where there is nothing, the field is nil, and `{{if .State.Health}}` is no mistake
_POINTERS = frozenset(("Health", "SizeRw", "SizeRootFs"))
# how those print that may be null
_NULL = {
    **dict.fromkeys(
        ("Binds", "CapAdd", "CapDrop", "Cmd", "DeviceCgroupRules", "DeviceRequests", "Entrypoint", "ExtraHosts",
         "GroupAdd", "OnBuild", "SecurityOpt", "Shell", "VolumesFrom"),
        "[]",
    ),
    **dict.fromkeys(("ExposedPorts", "Options", "Tmpfs", "Volumes"), "map[]"),
    **dict.fromkeys(("Health", "Healthcheck", "MemorySwappiness", "SizeRootFs", "SizeRw", "StopTimeout"), "<nil>"),
}  # fmt: skip
# fields whose keys are the user's, not docker's: Go maps, where the rest are structs
_MAPPINGS = frozenset(
    ("Labels", "Attributes", "Annotations", "Options", "Sysctls", "Networks", "Ports", "PortBindings", "ExposedPorts",
     "Volumes", "Tmpfs")
)  # fmt: skip


def check(text: str) -> str:
    """*text* if it is `table`, `json` or a template; raises ValueError with the reason (a converter of options)."""
    if text in ("table", "json"):
        return text
    if "{{" not in text:
        raise ValueError("neither table, json nor a template such as '{{.Names}}'")
    try:
        Template(text)
    except InvalidInput as error:
        raise ValueError(error.message.removeprefix("--format: ")) from None
    return text


class Template:
    """A parsed template. `render` gives the line of one record; `headings` those of a `table` template.

    Raises InvalidInput for what is not understood.
    """

    def __init__(self, text: str) -> None:
        self.is_table = text.startswith("table ")
        self.nodes = parse(text.removeprefix("table ") if self.is_table else text, _unescaped)

    def render(self, record: Any) -> str:
        """The record as the template says; raises InvalidInput for a field it does not have."""
        return self._run(record, functions.FUNCTIONS)

    def headings(self, known: Mapping[str, str] | None = None) -> str:
        """The template with every field's heading in its place, as docker heads such tables: what is *known* of the
        record's own, else the name.
        """
        return self._run(_Record(known or {}), functions.OF_HEADINGS)

    def _run(self, record: Any, known: Mapping[str, Callable[..., Any]]) -> str:
        run = _Run(record, known)
        try:
            run.all(self.nodes, record)
        except RecursionError:
            raise InvalidInput("--format: too much in one another") from None
        return "".join(run.out)


def _unescaped(text: str) -> str:
    """What a shell leaves of a tabulator in single quotes, as docker takes it."""
    for typed, meant in _ESCAPES.items():
        text = text.replace(typed, meant)
    return text


class _Heading(str):
    """Stands for a record, or a field of one, while the headings of a table are made."""

    __slots__ = ()

    def field(self, name: str) -> _Heading:
        """`.RunningFor` is headed RUNNING FOR."""
        return _Heading(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).upper())


class _Record(_Heading):
    """The record itself, whose fields have headings that are known."""

    def __new__(cls, known: Mapping[str, str]) -> _Record:
        self = super().__new__(cls, "")
        self.known = known
        return self

    known: Mapping[str, str]

    def field(self, name: str) -> _Heading:
        return _Heading(self.known.get(name) or super().field(name))


class _Run:
    """One execution: what was written, and what variables are."""

    def __init__(self, record: Any, known: Mapping[str, Callable[..., Any]]) -> None:
        self.out: list[str] = []
        self._scopes: list[dict[str, Any]] = [{"$": record}]
        self._known = known

    def all(self, nodes: Sequence[Node], dot: Any) -> None:
        for node in nodes:
            if isinstance(node, Text):
                self.out.append(node.text)
            elif isinstance(node, Action):
                self.out.append(_shown(self.value(node.pipeline, dot), node.pipeline))
            elif isinstance(node, Assign):
                self._assign(node, dot)
            elif isinstance(node, Range):
                self._range(node, dot)
            else:
                self._branch(node, dot)

    def _branch(self, node: With, dot: Any) -> None:
        """if and with: they differ in what the dot is inside."""
        with _Scope(self._scopes):
            value = self.value(node.pipeline, dot)
            if node.variable:
                self._scopes[-1][node.variable] = value
            if is_true(value):
                self.all(node.then, value if node.dots else dot)
            else:
                self.all(node.otherwise, dot)

    def _range(self, node: Range, dot: Any) -> None:
        value = self.value(node.pipeline, dot)
        if isinstance(value, _Heading):
            items: list[tuple[Any, Any]] = [("", value)]
        elif isinstance(value, Mapping):
            items = sorted(value.items())
        elif isinstance(value, (list, tuple)):
            items = list(enumerate(value))
        elif value is None:
            items = []
        else:
            raise InvalidInput(f"--format: {{{{range}}}} of {show(value)[:60]!r}, which is no list")
        for key, one in items:
            with _Scope(self._scopes) as scope:
                if node.key:
                    scope[node.key] = key
                if node.variable:
                    scope[node.variable] = one
                self.all(node.then, one)
        if not items:
            self.all(node.otherwise, dot)

    def _assign(self, node: Assign, dot: Any) -> None:
        value = self.value(node.pipeline, dot)
        if node.declares:
            self._scopes[-1][node.name] = value
            return
        for scope in reversed(self._scopes):
            if node.name in scope:
                scope[node.name] = value
                return

    # -- values

    def value(self, pipeline: Pipeline, dot: Any) -> Any:
        """What a pipeline gives."""
        result: Any = None
        for number, call in enumerate(pipeline.calls):
            last = [result] if number else []
            result = self._call(call, dot, last)
        return result

    def _call(self, call: Call, dot: Any, last: list[Any]) -> Any:
        if not call.name and len(call.arguments) == 2:
            return self._label(call.arguments[0], self._operand(call.arguments[1], dot), dot)
        if not call.name:
            return self._operand(call.arguments[0], dot)
        if call.name in ("and", "or"):
            return self._junction(call, dot, last)
        given = [self._operand(one, dot) for one in call.arguments] + last
        try:
            return self._known[call.name](*given)
        except InvalidInput:
            raise
        except (TypeError, ValueError, IndexError, KeyError, AttributeError, OverflowError, MemoryError):
            said = " ".join(show(one)[:40] for one in given)
            raise InvalidInput(f"--format: {call.name} {said}".rstrip() + ": wrong arguments") from None

    def _label(self, method: Any, key: Any, dot: Any) -> Any:
        """`.Label "key"` of what has labels; a table is headed by the key, as in docker."""
        of = dot if method.of is None else self._operand(method.of, dot)
        of = _field(of, method.names[:-1])
        if isinstance(of, _Heading):
            return show(key)
        labels = of.get("Labels") if isinstance(of, Mapping) else None
        if not isinstance(labels, Labels):
            raise InvalidInput("--format: there are no labels for {{.Label}}")
        return labels.get(show(key))

    def _junction(self, call: Call, dot: Any, last: list[Any]) -> Any:
        """and, or: the first that decides; what follows is not looked at."""
        value: Any = None
        for number, one in enumerate((*call.arguments, *last)):
            value = one if number >= len(call.arguments) else self._operand(one, dot)
            if is_true(value) == (call.name == "or"):
                break
        return value

    def _operand(self, operand: Any, dot: Any) -> Any:
        if isinstance(operand, Literal):
            return operand.value
        if isinstance(operand, Pipeline):
            return self.value(operand, dot)
        if isinstance(operand, Variable):
            return next(scope[operand.name] for scope in reversed(self._scopes) if operand.name in scope)
        assert isinstance(operand, Field)
        return _field(dot if operand.of is None else self._operand(operand.of, dot), operand.names)


def _shown(value: Any, pipeline: Pipeline) -> str:
    """*value*, which *pipeline* gave; null as the field that it is of."""
    if value is None and len(pipeline.calls) == 1 and not pipeline.calls[0].name:
        operand = pipeline.calls[0].arguments[0]
        if isinstance(operand, Field) and operand.names:
            return _NULL.get(operand.names[-1], "")
    return show(value)


class _Scope:
    """The variables of a block."""

    def __init__(self, scopes: list[dict[str, Any]]) -> None:
        self._scopes = scopes

    def __enter__(self) -> dict[str, Any]:
        self._scopes.append({})
        return self._scopes[-1]

    def __exit__(self, *_: object) -> None:
        self._scopes.pop()


def _field(value: Any, names: Sequence[str]) -> Any:
    for number, name in enumerate(names):
        if isinstance(value, _Heading):
            value = value.field(name)
            continue
        if not isinstance(value, Mapping) or name not in value:
            if isinstance(value, Mapping) and name in _POINTERS and number == len(names) - 1:
                return None
            if (
                isinstance(value, Mapping)
                and number
                and names[number - 1] in _MAPPINGS
                and number == len(names) - 1
            ):
                return None
            known = ", ".join(f".{key}" for key in value) if isinstance(value, Mapping) else ""
            raise InvalidInput(
                f"--format: there is no field .{'.'.join(names)}", remedy=f"there is {known or 'nothing'}"
            )
        value = value[name]
    return value
