"""Where and with what `lamina` is called: a directory of somebody else's, a PATH with strange programs in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lamina.errors import InvalidInput
from lamina.runtime.id_maps import MOST_MAPPINGS, write_id_maps
from support.attacker import Attacker

COMMAND = Path(sys.executable).parent / "lamina"
# of the standard library, of what Lamina needs, and its own
MODULES = (
    "os re json subprocess typing click rich termios pwd _native lamina sitecustomize usercustomize encodings"
)
PROGRAMS = "newuidmap newgidmap sh python3 python mount umount unshare less tar cp"


@pytest.fixture
def called(attacker: Attacker) -> Attacker:
    """The installed command, called where each name that it might look for is a trap."""
    if not COMMAND.exists():
        pytest.skip("the command is not installed beside this interpreter")
    attacker.command = [str(COMMAND)]
    trap = attacker.place / "trap"
    trap.mkdir()
    for name in MODULES.split():
        (trap / f"{name}.py").write_text(f"open({str(attacker.place / 'sprung')!r}, 'a').write({name!r})\n")
    for name in PROGRAMS.split():
        (trap / name).write_text(f"#!/bin/sh\necho {name} >>{attacker.place}/sprung\nexit 1\n")
        (trap / name).chmod(0o755)
    if attacker.user is not None:
        attacker.user.give(trap)
    return attacker


def test_cve_2019_14271_nothing_is_loaded_from_where_it_is_called(called: Attacker) -> None:
    """Neither a module of the current directory (as with `python -m`) nor a program of a PATH that begins there."""
    trap = called.place / "trap"
    path = f"{trap}:.:{os.environ['PATH']}"
    environment = {**(called.user.env if called.user else os.environ), "PATH": path, "TERM": "xterm"}
    made = called.place / "made"
    for words in (
        (
            "run",
            "--name",
            "here",
            "host",
            "--",
            "/bin/sh",
            "-c",
            f"/bin/mkdir -p {made}/x; echo y >{made}/x/y",
        ),
        ("diff", "-p", "here"),
        ("apply", "--dry-run", "here"),
        ("--help",),
        ("rm", "here"),
    ):
        done = called.lamina(*words, cwd=trap, env=environment)
        assert done.returncode in (0, 1, 2, 125), (words, done.stdout)
        assert not (called.place / "sprung").exists(), (words, (called.place / "sprung").read_text())


def test_the_trap_works(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("print('sprung')\n")
    done = subprocess.run(
        [sys.executable, "-c", "import json"], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert done.stdout == "sprung\n"


@pytest.mark.parametrize(
    "mappings",
    [
        [],
        [{"containerID": n, "hostID": n, "size": 1} for n in range(MOST_MAPPINGS + 1)],
        [{"containerID": n, "hostID": n, "size": 1} for n in range(1 << 16)],
        [{"containerID": 0, "hostID": 1 << 32, "size": 1}],
        [{"containerID": 0, "hostID": 0, "size": 1 << 64}],
        [{"containerID": -1, "hostID": 0, "size": 1}],
        [{"containerID": 0, "hostID": 0, "size": 0}],
    ],
)
def test_cve_2021_43784_id_maps_that_overflow_are_refused(mappings: list[dict[str, int]]) -> None:
    """Before anything is written: a length or a number that wraps around would map other ids."""
    good = [{"containerID": 0, "hostID": 0, "size": 1}]
    for uids, gids in ((mappings, good), (good, mappings)):
        with pytest.raises(InvalidInput):
            write_id_maps(-1, {"uidMappings": uids, "gidMappings": gids})
