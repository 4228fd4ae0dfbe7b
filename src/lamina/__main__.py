"""`python -m lamina` is the command `lamina`."""

from __future__ import annotations

from lamina.cli.entry import main

main()
