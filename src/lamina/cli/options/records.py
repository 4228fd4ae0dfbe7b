"""Options of the verbs that show records, `--format` and `--filter`, and which records the latter let pass."""

from __future__ import annotations

from lamina.argv.declare import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


def format_option(example: str, default: str = "table", short: str = "") -> Option:
    """`--format`: a template such as *example*, or json, or (where that is the default) a table."""
    words = "table, json" if default == "table" else "json"
    return Option("format", short, "FORMAT", f"{words} or '{example}'", convert=_template, default=default)


def filter_option(*keys: str) -> Option:
    """`--filter KEY=VALUE`, as (key, value), any number of them."""

    def read(text: str) -> tuple[str, str]:
        key, equals, value = text.partition("=")
        if not equals or key not in keys:
            raise ValueError(f"not KEY=VALUE with a key of {', '.join(keys)}")
        if key == "dangling" and value not in ("true", "false", "1", "0"):
            raise ValueError("dangling is true or false")
        if key == "until":
            from lamina.cli.when import moment

            moment(value)  # raises ValueError if it is none
        return key, value

    said = f"Only those; keys: {', '.join(keys)}"
    return Option("filter", "f", "KEY=VALUE", said, multiple=True, convert=read)


def matches(filters: Iterable[tuple[str, str]], passes: Callable[[str, str], bool]) -> bool:
    """Whether a record passes, as in docker: keys must all hold, values of one key are alternatives; but labels must
    all be there. *passes* answers for one key and value.
    """
    answers: dict[str, list[bool]] = {}
    for key, value in filters:
        answers.setdefault(key, []).append(passes(key, value))
    return all(all(found) if key == "label" else any(found) for key, found in answers.items())


def labelled(labels: Mapping[str, str], wanted: str) -> bool:
    """Whether *labels* have the one *wanted*: `KEY`, or `KEY=VALUE`."""
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def is_true(value: str) -> bool:
    """What `dangling=` says."""
    return value in ("true", "1")


def _template(text: str) -> str:
    from lamina.cli.template import check

    return check(text)
