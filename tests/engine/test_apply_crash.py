"""Killed, or failing, at every single write: the host is as before or as after, never in between."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.engine.apply import history, recover, undo
from lamina.engine.apply.hands import Hands
from lamina.errors import KernelError
from support.hosts import Machine, Picture, differences, hidden, picture

pytestmark = pytest.mark.root


class Counting(Hands):
    """Notes every write and every named point."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bytes]] = []

    def before(self, call: str, subject: bytes) -> None:
        self.calls.append((call, subject))
        self.met(len(self.calls) - 1, call)

    def met(self, number: int, call: str) -> None:
        pass


class Dying(Counting):
    """Is killed before its n-th write."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def met(self, number: int, call: str) -> None:
        if number == self.number:
            os.kill(os.getpid(), signal.SIGKILL)


class Failing(Counting):
    """Fails at its n-th write, once."""

    def __init__(self, number: int, code: int) -> None:
        super().__init__()
        self.number, self.code = number, code

    def met(self, number: int, call: str) -> None:
        if number == self.number and ":" not in call:
            raise OSError(self.code, os.strerror(self.code))


def in_child(work: Callable[[], object]) -> int:
    """Run in a forked child; its wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    return os.waitpid(pid, 0)[1]


def small(machine: Machine) -> tuple[Picture, Picture]:
    """One of each kind of unit and of directory; before and after."""
    machine.write("d/conf", "old\n")
    machine.write("d/gone", "x\n")
    machine.write("d/tree/a/b", "x\n")
    machine.write("d/kind", "x\n")
    machine.write("e/kind2/x", "x\n")
    (machine.root / "d").chmod(0o750)

    def work() -> None:
        Path("d/conf").write_text("new\n")
        Path("d/gone").unlink()
        os.system(
            "rm -r d/tree d/kind e/kind2; mkdir -p d/kind/in n/m; echo y > e/kind2; echo z > n/m/f; ln n/m/f e/f"
        )
        os.chmod("d", 0o711)
        os.setxattr("d", "user.x", b"y")

    machine.run(work)
    return picture(machine.root), machine.merged_picture()


def fresh(machine: Machine, saved: Path) -> None:
    """The host and the journal as they were (inodes included: the host is moved, not copied)."""
    for place in (machine.root, machine.journal):
        shutil.rmtree(place, ignore_errors=True)
    os.system(f"cp -a --reflink=auto {saved} {machine.root}")


@pytest.fixture
def saved(machine: Machine, tmp_path: Path) -> tuple[Path, Picture, Picture]:
    before, after = small(machine)
    os.system(f"cp -a {machine.root} {tmp_path}/saved")
    return tmp_path / "saved", before, after


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def count(machine: Machine, saved: Path, work: Callable[[Hands], object]) -> int:
    counting = Counting()
    work(counting)
    return len(counting.calls)


def test_killed_at_every_write_of_an_apply(machine: Machine, saved: tuple[Path, Picture, Picture]) -> None:
    copy, before, after = saved
    fresh(machine, copy)
    machine.start()
    total = count(machine, copy, lambda hands: machine.apply(hands=hands))
    assert differences(picture(machine.root), after) == {}
    seen = set()
    for number in range(total):
        fresh(machine, copy)
        machine.start()
        status = in_child(lambda number=number: machine.apply(hands=Dying(number)))
        assert os.WIFSIGNALED(status), number
        ended = recover(machine.journal)
        seen.add(ended.was if ended else None)
        applied = [past.state for past in history(machine.journal)] == ["applied"]
        assert differences(picture(machine.root), after if applied else before) == {}, number
        assert recover(machine.journal) is None
        machine.apply() if not applied else machine.undo()  # the container and its journal are usable
        assert differences(picture(machine.root), before if applied else after) == {}, number
    assert seen == {None, "planning", "applying"}


def test_killed_at_every_write_of_an_undo(machine: Machine, saved: tuple[Path, Picture, Picture]) -> None:
    copy, before, after = saved
    fresh(machine, copy)
    machine.start()
    machine.apply()
    total = count(machine, copy, lambda hands: machine.undo(hands=hands))
    assert differences(picture(machine.root), before) == {}
    for number in range(total):
        fresh(machine, copy)
        machine.start()
        machine.apply()
        assert os.WIFSIGNALED(in_child(lambda number=number: undo(machine.journal, hands=Dying(number)))), (
            number
        )
        recover(machine.journal)
        states = [past.state for past in history(machine.journal)]
        assert states in (["applied"], ["undone"])
        assert differences(picture(machine.root), before if states == ["undone"] else after) == {}, number
        if states == ["applied"]:
            machine.undo()
            assert differences(picture(machine.root), before) == {}, number


def test_killed_at_every_write_of_a_recovery(machine: Machine, saved: tuple[Path, Picture, Picture]) -> None:
    """A recovery that is itself killed, again and again, each time one write later."""
    copy, before, after = saved
    fresh(machine, copy)
    machine.start()
    total = count(machine, copy, lambda hands: machine.apply(hands=hands))
    for first in range(total - 30, total):
        fresh(machine, copy)
        machine.start()
        in_child(lambda first=first: machine.apply(hands=Dying(first)))
        number = 0
        while os.WIFSIGNALED(in_child(lambda number=number: recover(machine.journal, hands=Dying(number)))):
            number += 1
        applied = [past.state for past in history(machine.journal)] == ["applied"]
        assert differences(picture(machine.root), after if applied else before) == {}, first


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failure_of_every_write_of_an_apply(
    machine: Machine, saved: tuple[Path, Picture, Picture], code: int
) -> None:
    copy, before, after = saved
    fresh(machine, copy)
    machine.start()
    total = count(machine, copy, lambda hands: machine.apply(hands=hands))
    for number in range(total):
        fresh(machine, copy)
        machine.start()
        failing = Failing(number, code)
        try:
            machine.apply(hands=failing)
        except KernelError as error:
            assert error.errno == code, number
            assert "everything is as it was before" in str(error), number
            assert differences(picture(machine.root), before) == {}, (number, failing.calls[number])
        else:
            # a write that nothing depends on, or one that another way was found around
            assert differences(picture(machine.root), after) == {}, (number, failing.calls[number])
            machine.undo()
        assert hidden(machine.root) == []
        machine.apply()
        assert differences(picture(machine.root), after) == {}, number


def test_a_failure_of_every_write_of_an_undo(machine: Machine, saved: tuple[Path, Picture, Picture]) -> None:
    copy, before, after = saved
    fresh(machine, copy)
    machine.start()
    machine.apply()
    total = count(machine, copy, lambda hands: machine.undo(hands=hands))
    for number in range(total):
        fresh(machine, copy)
        machine.start()
        machine.apply()
        try:
            machine.undo(hands=Failing(number, errno.EIO))
        except OSError as error:
            assert error.errno == errno.EIO, number
            recover(machine.journal)
            if differences(picture(machine.root), after) == {}:
                machine.undo()
        assert differences(picture(machine.root), before) == {}, number
