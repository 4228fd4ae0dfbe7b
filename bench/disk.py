"""File systems of the benchmarks' own: what somebody else writes or removed on the machine's is not measured with them.

Each is an ext4 as `mkfs.ext4` makes it, journal and all, in a file. ext4 without a journal, which some build machines
have, looks for every new file through the inodes that were removed in the last minutes; whoever follows a case that
made many would pay for these.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from measure import Missing

SIZE = 12 << 30  # of a file with holes


def on_disk(place: Path) -> Path:
    """A new file system, mounted on the new directory *place*; its file lies beside that. Raises Missing."""
    return _mounted(place, place.with_suffix(".ext4"))


def in_memory(place: Path) -> Path:
    """As `on_disk`, in a file in memory: no disk is slow there, and nobody else's writes are waited for."""
    above = place.with_suffix(".memory")
    above.mkdir()
    _run("mount", "-t", "tmpfs", "-o", "size=75%,mode=700", "lamina-bench", str(above))
    return _mounted(place, above / "ext4")


def _mounted(place: Path, file: Path) -> Path:
    with open(file, "xb") as new:
        new.truncate(SIZE)
    # everything is made now: what is left for later is done by a thread of the kernel, while we measure
    _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(file))
    place.mkdir()
    _run("mount", "-o", "loop", str(file), str(place))
    (place / "lost+found").rmdir()
    return place


def _run(*words: str) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Missing(f"{words[0]} is not installed") from None
    if done.returncode:
        raise Missing(f"{' '.join(words)}: {done.stderr.strip()}")
