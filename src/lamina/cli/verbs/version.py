"""`lamina version`"""

from __future__ import annotations

import sys

from lamina.argv.declare import Arguments, Verb
from lamina.cli.options import OUTPUT

VERB = Verb(name="version", options=(OUTPUT,))


def do(args: Arguments) -> int:
    """Print the version of Lamina, of Python and of the kernel."""
    from lamina.cli import output

    known = versions()
    if getattr(args, "format", "table") == "json":  # `lamina --version` has no --format
        output.json_document(known)
    else:
        output.line(f"lamina {known['lamina']} (Python {known['python']}, Linux {known['kernel']})")
    return 0


def versions() -> dict[str, str]:
    """Of Lamina, of Python, of the kernel."""
    import os

    from lamina import __version__

    return {"lamina": __version__, "python": sys.version.split()[0], "kernel": os.uname().release}
