"""`lamina version`"""

from __future__ import annotations

import sys

from lamina.argv.declare import Arguments, Verb
from lamina.cli.options import format_option

VERB = Verb(name="version", options=(format_option("{{.Server.Version}}", short="f"),))


def do(args: Arguments) -> int:
    """Print the version of Lamina, of Python and of the kernel."""
    from lamina.cli import output

    known, form = versions(), getattr(args, "format", "table")  # `lamina --version` has no --format
    if form == "json":
        output.json_document(known)
    elif form != "table":
        output.templated(form, [{**known, **sides(known)}])
    else:
        output.line(f"lamina {known['lamina']} (Python {known['python']}, Linux {known['kernel']})")
    return 0


def sides(known: dict[str, str]) -> dict[str, dict[str, str]]:
    """The two that docker tells of: here both are this program."""
    import os

    from lamina.engine.info import architecture

    one = {
        "Version": known["lamina"],
        "Os": "linux",
        "Arch": architecture(),
        "KernelVersion": os.uname().release,
    }
    return {"Client": one, "Server": one}


def versions() -> dict[str, str]:
    """Of Lamina, of Python, of the kernel."""
    import os

    from lamina import __version__

    return {"lamina": __version__, "python": sys.version.split()[0], "kernel": os.uname().release}
