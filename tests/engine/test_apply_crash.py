"""Killed, or failing, at every single write: the host is as before or as after, never in between."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lamina.engine.apply.hands import Hands
from lamina.engine.apply.operations import history, recover, undo
from lamina.errors import KernelError
from support.hosts import Machine, Picture, differences, hidden, picture
from support.namespaces import in_mount_namespace

pytestmark = [pytest.mark.root, pytest.mark.slow]


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


class Trial:
    """The same host and container again and again. `before` and `after` are pictures of the host."""

    def __init__(self, place: Path) -> None:
        self.machine = Machine(place)
        self.before, self.after = small(self.machine)
        self._saved = place / "saved"
        os.system(f"cp -a {self.machine.root} {self._saved}")

    def fresh(self) -> Machine:
        """The host and the journal as they were."""
        shutil.rmtree(self.machine.journal, ignore_errors=True)
        os.system(
            f"rm -rf {self.machine.root}/* {self.machine.root}/.lamina*; cp -aT {self._saved} {self.machine.root}"
        )
        self.machine.start()
        return self.machine

    def states(self) -> list[str]:
        return [past.state for past in history(self.machine.journal)]

    def check(self, wanted: Picture, *about: object) -> None:
        found = {path: entry for path, entry in picture(self.machine.root).items() if ".lamina-" not in path}
        assert differences(found, wanted) == {}, about


@pytest.fixture(params=["in the store", "beside"])
def trial(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Callable[[Trial], None]], None]:
    """Runs a test on a host whose file system is the store's, or is not. A sync costs nothing on either: there are
    thousands of them.
    """

    def here(test: Callable[[Trial], None]) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
        if request.param == "beside":
            (tmp_path / "host").mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "host"], check=True)
        test(Trial(tmp_path))

    return partial(in_mount_namespace, here)


def count(work: Callable[..., object]) -> int:
    counting = Counting()
    work(hands=counting)
    return len(counting.calls)


Run = Callable[[Callable[[Trial], None]], None]


def test_killed_at_every_write_of_an_apply(trial: Run) -> None:
    def test(trial: Trial) -> None:
        total = count(trial.fresh().apply)
        trial.check(trial.after)
        seen = set()
        for number in range(total):
            machine = trial.fresh()
            assert os.WIFSIGNALED(in_child(partial(machine.apply, hands=Dying(number)))), number
            ended = recover(machine.journal)
            seen.add(ended.was if ended else None)
            applied = trial.states() == ["applied"]
            trial.check(trial.after if applied else trial.before, number)
            assert applied or hidden(machine.root) == []
            assert recover(machine.journal) is None
            machine.apply() if not applied else machine.undo()  # the container and its journal are usable
            trial.check(trial.before if applied else trial.after, number)
        assert seen == {None, "planning", "applying"}

    trial(test)


def test_killed_at_every_write_of_an_undo(trial: Run) -> None:
    def test(trial: Trial) -> None:
        trial.fresh().apply()
        total = count(trial.machine.undo)
        trial.check(trial.before)
        for number in range(total):
            machine = trial.fresh()
            machine.apply()
            status = in_child(partial(undo, machine.journal, hands=Dying(number)))
            assert os.WIFSIGNALED(status), number
            recover(machine.journal)
            assert trial.states() in (["applied"], ["undone"])
            trial.check(trial.before if trial.states() == ["undone"] else trial.after, number)
            if trial.states() == ["applied"]:
                machine.undo()
                trial.check(trial.before, number)
            assert hidden(machine.root) == []

    trial(test)


def test_killed_at_every_write_of_a_recovery(trial: Run) -> None:
    """A recovery that is itself killed, again and again, each time some writes later."""

    def test(trial: Trial) -> None:
        total = count(trial.fresh().apply)
        for first in range(total - 40, total, 5):
            machine = trial.fresh()
            in_child(partial(machine.apply, hands=Dying(first)))
            for number in range(0, 300, 3):
                if os.WIFEXITED(in_child(partial(recover, machine.journal, hands=Dying(number)))):
                    break
            recover(machine.journal)
            trial.check(trial.after if trial.states() == ["applied"] else trial.before, first)

    trial(test)


def test_a_failure_of_every_write_of_an_apply(trial: Run) -> None:
    def test(trial: Trial) -> None:
        total = count(trial.fresh().apply)
        for number in range(total):
            code = (errno.ENOSPC, errno.EIO)[number % 2]
            machine = trial.fresh()
            failing = Failing(number, code)
            try:
                machine.apply(hands=failing)
            except KernelError as error:
                assert error.errno == code, number
                assert "everything is as it was before" in str(error), number
                trial.check(trial.before, number, failing.calls[number])
            else:
                # a write that nothing depends on, or one that another way was found around
                trial.check(trial.after, number, failing.calls[number])
                machine.undo()
            recover(machine.journal)  # an area that could not be removed at first
            assert hidden(machine.root) == [], (number, failing.calls[number])
            machine.apply()
            trial.check(trial.after, number)

    trial(test)


def test_a_failure_of_every_write_of_an_undo(trial: Run) -> None:
    def test(trial: Trial) -> None:
        trial.fresh().apply()
        total = count(trial.machine.undo)
        for number in range(total):
            machine = trial.fresh()
            machine.apply()
            try:
                machine.undo(hands=Failing(number, errno.EIO))
            except KernelError as error:
                assert error.errno == errno.EIO, number
                assert "by the next call" in str(error), number
                recover(machine.journal)
                if trial.states() == ["applied"]:
                    trial.check(trial.after, number)
                    machine.undo()
            trial.check(trial.before, number)

    trial(test)
