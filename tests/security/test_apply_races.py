"""Users of the host who rearrange their directories while root applies a container's changes there, or takes them back.

What they can get is a refusal. Nothing outside the directories that were meant is ever read, written or removed.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.engine.apply.hands import Hands
from lamina.engine.apply.operations import apply, history, recover, undo
from lamina.errors import HostChanged, LaminaError
from lamina.linux.files import renameat2
from support.hosts import Machine, Picture, differences, hidden, picture

pytestmark = pytest.mark.root

RENAME_EXCHANGE = 2
AT_FDCWD = -100


class At(Hands):
    """Does something the n-th time that a write, or a named point, of that name comes."""

    def __init__(self, call: str, doing: Callable[[], object], turn: int = 1) -> None:
        self.call, self.doing, self.turn = call, doing, turn

    def before(self, call: str, subject: bytes) -> None:
        if call == self.call:
            self.turn -= 1
            if self.turn == 0:
                self.doing()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A world-writable directory with a user's directory in it, and a victim elsewhere."""
    machine = Machine(tmp_path)
    for path in (
        "tmp/mine/f",
        "tmp/mine/g",
        "tmp/mine/tree/x",
        "victim/f",
        "victim/g",
        "victim/tree/x",
        "victim/secret",
    ):
        machine.write(path, f"original {path}\n")
    (machine.root / "tmp").chmod(0o1777)
    os.chown(machine.root / "tmp/mine", 65534, 65534)
    (machine.root / "tmp/link").symlink_to(machine.root / "victim")
    os.lchown(machine.root / "tmp/link", 65534, 65534)
    return machine


def rearrange(machine: Machine) -> None:
    """The user's directory becomes a link to the victim, and back the next time."""
    mine, link = machine.root / "tmp/mine", machine.root / "tmp/link"
    renameat2(AT_FDCWD, mine, AT_FDCWD, link, RENAME_EXCHANGE)


def changes() -> None:
    Path("tmp/mine/f").write_text("from the container\n")
    Path("tmp/mine/g").unlink()
    os.system("rm -r tmp/mine/tree")
    Path("tmp/mine/new").write_text("new\n")
    os.chmod("tmp/mine", 0o700)


def victim(machine: Machine) -> Picture:
    return picture(machine.root / "victim")


POINTS = ["apply:begun", "apply:before-stage", "apply:staged", "apply:before-rename", "apply:after-rename", "rename",
          "apply:renamed", "chmod", "utime", "apply:before-sync"]  # fmt: skip


@pytest.mark.parametrize("turn", [1, 2, 3, 4])
@pytest.mark.parametrize("point", POINTS)
def test_a_directory_that_becomes_a_link_while_it_is_applied(machine: Machine, point: str, turn: int) -> None:
    machine.run(changes)
    before = victim(machine)
    with contextlib.suppress(LaminaError):
        machine.apply(hands=At(point, lambda: rearrange(machine), turn))
    assert differences(victim(machine), before) == {}
    if (machine.root / "tmp/mine").is_symlink():
        rearrange(machine)
    recover(machine.journal)
    assert differences(victim(machine), before) == {}


@pytest.mark.parametrize("turn", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "point", ["undo:begun", "undo:before-rename", "undo:after-rename", "rename", "chmod", "utime"]
)
def test_a_directory_that_becomes_a_link_while_it_is_taken_back(
    machine: Machine, point: str, turn: int
) -> None:
    machine.run(changes)
    before = victim(machine)
    machine.apply()
    with contextlib.suppress(LaminaError):
        machine.undo(hands=At(point, lambda: rearrange(machine), turn))
    assert differences(victim(machine), before) == {}


def applied_or_not(machine: Machine, before: Picture, after: Picture) -> None:
    now = picture(machine.root)
    assert differences(now, before) == {} or differences(now, after) == {}


def test_a_file_exchanged_between_the_look_and_the_rename_goes_back(machine: Machine) -> None:
    machine.run(lambda: Path("tmp/mine/f").write_text("from the container\n"))
    theirs = machine.write("tmp/theirs", "theirs\n")
    inode = theirs.stat().st_ino

    def exchange() -> None:
        os.rename(theirs, machine.root / "tmp/mine/f")

    with pytest.raises(HostChanged, match="/tmp/mine/f: changed on the host meanwhile"):
        machine.apply(hands=At("rename", exchange))
    now = machine.root / "tmp/mine/f"
    assert (now.read_text(), now.stat().st_ino) == ("theirs\n", inode)
    assert [past.state for past in history(machine.journal)] == ["undone"]


def test_a_file_put_into_a_directory_while_it_is_deleted_is_not_lost(machine: Machine) -> None:
    machine.run(lambda: os.system("rm -r tmp/mine/tree"))
    with pytest.raises(HostChanged):
        machine.apply(hands=At("rename", lambda: machine.write("tmp/mine/tree/late", "late\n")))
    assert (machine.root / "tmp/mine/tree/late").read_text() == "late\n"
    assert (machine.root / "tmp/mine/tree/x").exists()


def test_a_file_changed_in_a_directory_while_it_is_deleted_is_not_lost(machine: Machine) -> None:
    machine.run(lambda: os.system("rm -r tmp/mine/tree"))
    with pytest.raises(HostChanged):
        machine.apply(hands=At("rename", lambda: machine.write("tmp/mine/tree/x", "changed\n")))
    assert (machine.root / "tmp/mine/tree/x").read_text() == "changed\n"


def test_a_file_made_where_one_is_added_stays(machine: Machine) -> None:
    machine.run(lambda: Path("tmp/mine/new").write_text("new\n"))
    with pytest.raises(HostChanged):
        machine.apply(hands=At("rename", lambda: machine.write("tmp/mine/new", "theirs\n")))
    assert (machine.root / "tmp/mine/new").read_text() == "theirs\n"


def test_staged_files_are_nobody_elses_business(machine: Machine) -> None:
    """Neither a program with set-uid nor a secret is in reach before it has its place and permissions."""
    seen = []

    def look() -> None:
        for directory, _, files in os.walk(machine.journal):
            seen.append(stat.S_IMODE(os.stat(directory).st_mode) & 0o077 if directory.endswith("area") else 0)
            seen.extend(0 for _ in files)

    def work() -> None:
        Path("tmp/mine/f").write_text("secret\n")
        os.chmod("tmp/mine/f", 0o4755)

    machine.run(work)
    machine.apply(hands=At("apply:staged", look))
    assert seen
    assert not any(seen)


def test_contents_of_a_directory_that_becomes_private_are_never_open(machine: Machine) -> None:
    """It is closed before secrets come into it, not after; and opened after the old ones are gone."""
    (machine.root / "tmp/mine").chmod(0o755)
    (machine.root / "victim").chmod(0o700)

    def work() -> None:
        os.chmod("tmp/mine", 0o700)
        Path("tmp/mine/secret").write_text("s")
        os.unlink("victim/secret")
        os.chmod("victim", 0o755)

    machine.run(work)
    seen = []

    class Looking(Hands):
        def before(self, call: str, subject: bytes) -> None:
            for directory, secret in (("tmp/mine", "secret"), ("victim", "secret")):
                if (machine.root / directory / secret).exists():
                    seen.append(stat.S_IMODE((machine.root / directory).stat().st_mode) & 0o077)

    before = picture(machine.root)
    machine.apply(hands=Looking())
    machine.undo(hands=Looking())
    assert seen
    assert not any(seen)
    assert differences(picture(machine.root), before) == {}


@pytest.mark.slow
def test_a_user_who_exchanges_directory_and_link_all_the_time(machine: Machine) -> None:
    machine.run(changes)
    listed, safe = machine.changes(), victim(machine)
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(machine.root / "tmp")  # above it are directories of root's alone
            os.setgid(65534)
            os.setuid(65534)
            while True:
                renameat2(AT_FDCWD, b"mine", AT_FDCWD, b"link", RENAME_EXCHANGE)
                time.sleep(random.random() / 1000)
                renameat2(AT_FDCWD, b"mine", AT_FDCWD, b"link", RENAME_EXCHANGE)
                time.sleep(random.random() / 50)  # so that some get further than the first look
        finally:
            os._exit(1)
    outcomes = {"applied": 0, "undone": 0, "refused": 0}
    try:
        for _ in range(60):
            try:
                # by force, or everything would be refused because of the first exchange
                apply(listed, machine.journal, started_ns=machine.started_ns, root=machine.root, force=True)
                outcomes["applied"] += 1
                undo(machine.journal, force=True)
                outcomes["undone"] += 1
            except LaminaError:
                outcomes["refused"] += 1
            assert differences(victim(machine), safe) == {}
    finally:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), "the user was not allowed to play"
    if (machine.root / "tmp/mine").is_symlink():
        rearrange(machine)
    with contextlib.suppress(LaminaError):
        recover(machine.journal)
    with contextlib.suppress(LookupError):
        while True:
            machine.undo(force=True)
    assert hidden(machine.root) == []
    assert differences(victim(machine), safe) == {}
    assert sum(outcomes.values()) >= 60
