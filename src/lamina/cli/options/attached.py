"""The options of whatever attaches to a container."""

from __future__ import annotations

from lamina.argv.declare import Option

DETACH_KEYS = Option("detach-keys", "", "KEYS", "What is typed to leave it running: ctrl-p,ctrl-q (default)")
SIG_PROXY = Option("sig-proxy", help="Hand signals on to it (default; =false: keep them)", default=True)
