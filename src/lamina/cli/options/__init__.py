"""Options that stand before the verb, and those which several verbs share; beside it those of one subject."""

from __future__ import annotations

from lamina.argv.declare import Option, Verb

GLOBAL = Verb(
    name="",
    options=(
        Option(
            "root", metavar="DIRECTORY", complete="directory", help="Keep containers here (else $LAMINA_ROOT)"
        ),
        Option(
            "store-limit",
            metavar="SIZE",
            help="Let images go that were unused for longest when others come (else $LAMINA_STORE_LIMIT)",
        ),
        Option("debug", help="On an error show where in the program it arose"),
        Option("version", "v", help="Show the version"),
    ),
    interspersed=False,
)

OUTPUT = Option(
    "format", metavar="FORMAT", choices=("table", "json"), default="table", help="table (default) or json"
)

TLS_VERIFY = Option(
    "tls-verify",
    "",
    "true|false",
    "false: neither certificates nor encryption are insisted on",
    choices=("true", "false"),
    default="true",
)


def format_option(example: str, default: str = "table", short: str = "") -> Option:
    """`--format`: a template such as *example*, or json, or (where that is the default) a table."""
    words = "table, json" if default == "table" else "json"
    convert = _template if default == "table" else _document
    return Option("format", short, "FORMAT", f"{words} or '{example}'", convert=convert, default=default)


def _template(text: str) -> str:
    """An empty one is none, as in docker: `--format "$FORMAT"`."""
    from lamina.cli.template import check

    return check(text or "table")


def _document(text: str) -> str:
    from lamina.cli.template import check

    return check(text or "json")


def keys(text: str) -> str:
    """*text* as it was typed: whoever attaches reads it, and whoever does not shall hear of a mistake as well."""
    from lamina.engine.attaching import read_keys

    read_keys(text)
    return text


def stream(text: str) -> str:
    """One of the standard streams, in small letters."""
    found = text.lower()
    if found not in ("stdin", "stdout", "stderr"):
        raise ValueError("not one of stdin, stdout, stderr")
    return found
