"""The options of whatever attaches to a container."""

from __future__ import annotations

from lamina.argv.declare import Option
from lamina.cli.options import keys

DETACH_KEYS = Option(
    "detach-keys", "", "KEYS", "What is typed to leave it running: ctrl-p,ctrl-q (default)", convert=keys
)
SIG_PROXY = Option("sig-proxy", help="Hand signals on to it (default; =false: keep them)", default=True)
