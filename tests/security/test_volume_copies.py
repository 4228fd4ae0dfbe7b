"""A volume becomes part of a state while others are at work in it, who exchange what a name means."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from lamina.engine.upper_copy import copy_stored
from lamina.linux.constants import AT_FDCWD, RENAME_EXCHANGE
from lamina.linux.files import renameat2
from support.namespaces import in_mount_namespace

pytestmark = pytest.mark.root
NOBODY = 65534


@pytest.mark.parametrize("names", [1, 2])
def test_a_set_user_id_file_lends_its_rights_to_no_other(tmp_path: Path, names: int) -> None:
    """The kind of CVE-2018-15664: a user of the container who may write to the directory exchanges root's program with
    his own between the look and the copy. In the copy it would be root's, or be the program's other name.
    """
    source = tmp_path / "volume"
    directory = source / "of-everybody"
    directory.mkdir(parents=True)
    program, mine = directory / "su", directory / "mine"
    program.write_text("root's")
    program.chmod(0o4755)
    mine.write_text("mine")
    os.chown(mine, NOBODY, NOBODY)
    if names == 2:
        os.link(program, source / "su")

    def exchange(event: str, args: tuple[object, ...]) -> None:
        """Python calls this before it opens anything."""
        if event == "open" and args[0] == b"su" and not done:
            done.append(True)
            renameat2(AT_FDCWD, os.fsencode(program), AT_FDCWD, os.fsencode(mine), RENAME_EXCHANGE)

    done: list[bool] = []

    def inner() -> list[tuple[str, bool]]:
        sys.addaudithook(exchange)
        copy_stored(os.fsencode(source), os.fsencode(tmp_path / "copy"), shared=True)
        assert done
        found = [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]
        return [(path.read_text(), bool(path.stat().st_mode & stat.S_ISUID)) for path in found]

    copied = in_mount_namespace(inner)
    assert {("mine", False)} <= set(copied)
    assert ("mine", True) not in copied and ("root's", False) not in copied
