"""The options of whatever attaches to a container."""

from __future__ import annotations

from lamina.argv.declare import Option


def _flag(text: str) -> bool:
    from lamina.cli.attached import flag

    return flag(text)


DETACH_KEYS = Option("detach-keys", "", "KEYS", "What is typed to leave it running: ctrl-p,ctrl-q (default)")
SIG_PROXY = Option(
    "sig-proxy", "", "true|false", "Hand signals on to it (default: true)", convert=_flag, default=True
)
