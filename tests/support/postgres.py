"""PostgreSQL of this machine's packages as a layer of an image: its programs, and what they load."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

PORT = 5432
PROGRAMS = ("postgres", "initdb", "psql")
# modules that initdb(1) has the server load
MODULES = ("plpgsql.so", "dict_snowball.so")


def installed() -> Path | None:
    """Where Debian has the newest one of this machine, None where it has none."""
    found = [path.parents[1] for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    return max(found, key=lambda path: int(path.name), default=None)


def fill(place: Path) -> None:
    """Fill the layer in the directory *place*; the programs are in /usr/lib/postgresql/bin, whatever their version."""
    root = installed()
    assert root is not None
    programs = [root / "bin" / name for name in PROGRAMS]
    modules = [root / "lib" / name for name in MODULES]
    for path in (*programs, *modules):
        _copy(path, place)
    for path in needed((*programs, *modules)):
        _copy(path, place)
    shutil.copytree(
        f"/usr/share/postgresql/{root.name}", place / f"usr/share/postgresql/{root.name}", symlinks=True
    )
    (place / "usr/lib/postgresql/bin").symlink_to(f"{root.name}/bin")


def needed(files: tuple[Path, ...]) -> set[Path]:
    """The libraries that they are linked with, as ldd(1) finds them, by the names by which they are looked for."""
    found = set()
    for line in subprocess.run(
        ["ldd", *files], check=True, capture_output=True, text=True
    ).stdout.splitlines():
        words = line.split()
        path = words[2] if words[1:2] == ["=>"] else words[0]
        if path.startswith("/") and not path.endswith(":"):
            found.add(Path(path))
    return found


def _copy(path: Path, place: Path) -> None:
    target = place / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, target)
