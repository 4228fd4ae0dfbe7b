"""`lamina version`"""

from __future__ import annotations

import sys

from lamina.cli.declare import Arguments, Verb
from lamina.cli.options.general import OUTPUT

VERB = Verb(name="version", options=(OUTPUT,))


def do(args: Arguments) -> int:
    """Print the version of Lamina, of Python and of the kernel."""
    import os

    from lamina.cli import output

    known = {"lamina": number(), "python": sys.version.split()[0], "kernel": os.uname().release}
    if getattr(args, "format", "table") == "json":
        output.json_document(known)
    else:
        output.line(f"lamina {known['lamina']} (Python {known['python']}, Linux {known['kernel']})")
    return 0


def number() -> str:
    """The version of the installed distribution."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("lamina")
    except PackageNotFoundError:
        return "0 (not installed)"
