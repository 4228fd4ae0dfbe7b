"""Options that choose among a container's changes, and how they are shown."""

from __future__ import annotations

from lamina.argv.declare import Argument, Option


def _form(text: str) -> str:
    from lamina.cli.template import check

    return text if text == "docker" else check(text)


NAME = Argument("name", "NAME", complete="container")
PATHS = Argument("paths", "PATH", "*", complete="file")

EXCLUDE = Option(
    "exclude",
    metavar="GLOB",
    multiple=True,
    help="Leave these out: /etc/shadow, '/var/cache/**'",
    group="What",
)

SHOW = (
    Option("stat", help="Deletions first, with sizes, and the sum"),
    Option("patch", "p", help="A unified diff of text files"),
    Option("all", "a", help="A line also for each entry of a deleted directory"),
    Option(
        "format",
        "",
        "FORMAT",
        "table (default), json, docker (lines as docker's diff has them), or '{{.Kind}} {{.Path}}'",
        convert=_form,
        default="table",
    ),
)

STATE = Argument("name", "STATE", complete="state")

PATHS_EXPLAINED = """
A PATH means what is there and below; one that does not begin with / is taken from the directory you are in. In it
* ? and [...] match within a name and ** across names; quote it, or the shell will match it against this system instead.
"""
