"""From what was asked of a container to its checked options.

On the path of every start, so what takes more than a look is read by `notation`, which is loaded for who uses it.
"""

from __future__ import annotations

import os

from lamina.engine.options import Options
from lamina.errors import Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

FLAGS = frozenset(("rm", "tty", "interactive", "read_only", "init"))
NETWORKS = ("none", "host")


def check_options(asked: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Options:
    """The checked form of RunOptions. `environ` is the caller's environment (for `-e NAME`).

    Raises InvalidInput or Unsupported, naming the option; TypeError for one that does not exist.
    """
    checked: dict[str, Any] = {}
    for key, given in asked.items():
        if key in FLAGS:
            checked[key] = bool(given)
        elif key == "network":
            checked[key] = _network(given)
        else:
            from lamina.engine.notation import READERS, read_cpus, read_env

            if key == "env":
                checked["env"] = read_env(given, os.environ if environ is None else environ)
            elif key == "cpus":
                checked["cpu_quota"] = read_cpus(given)
            elif key in READERS:
                checked[key] = READERS[key](given)
            else:
                raise TypeError(f"run() got an unexpected keyword argument {key!r}")
    return Options(**checked)


def _network(given: Any) -> str:
    if given not in NETWORKS:
        raise Unsupported(f"run: network {given}: not supported so far", remedy="none or host")
    return str(given)
