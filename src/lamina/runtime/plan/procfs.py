"""Writing to procfs: to a descriptor of ours, past everything that anybody mounted over it (CVE-2025-52881).

The descriptor is the root of a procfs that the caller made or looked at; RESOLVE_NO_XDEV sees to it that what is opened
is procfs and nothing mounted over a file or directory of it. `self` is the new process, wherever its pids are counted.
"""

from __future__ import annotations

from os import O_WRONLY

from lamina.errors import LaminaError
from lamina.linux.constants import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_XDEV
from lamina.linux.program import Reg, Step
from lamina.runtime.bundle import NULL
from lamina.runtime.plan.paths import how

WITHIN = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS


def write_steps(proc: int | Reg, path: bytes, text: bytes, note: str) -> list[Step]:
    """Write *text* at once to the file at *path*, relative to the procfs *proc*."""
    if proc == NULL:
        raise LaminaError(f"write {path.decode()}: no procfs was given to the plan")
    held = Reg(f"proc.{path.decode('utf-8', 'surrogateescape')}")
    return [
        Step("openat2", proc, path, how(O_WRONLY, WITHIN), 24, save=held, note=note),
        Step("write", held, text, len(text), want=len(text)),
        Step("close", held),
    ]
