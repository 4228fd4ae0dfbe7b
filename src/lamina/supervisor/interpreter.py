"""Which Python executes what Lamina needs a process of its own for: that of this program, where that is one."""

from __future__ import annotations

import os
import sys

from lamina.errors import Unsupported


def interpreter() -> str:
    """Its path: `sys.executable`, which programs that embed Python may leave empty (PyConfig.executable), or else the
    one whose standard library this is. Raises Unsupported where there is none.
    """
    if sys.executable:
        return sys.executable
    names = ("python{}.{}".format(*sys.version_info), "python3")
    for place in (os.path.join(sys.exec_prefix, "bin", name) for name in names):
        if os.access(place, os.X_OK):
            return place
    raise Unsupported(
        "start a process: this program has Python within it, and does not say where there is one to execute",
        remedy="set sys.executable to the path of a Python of the same version",
    )
