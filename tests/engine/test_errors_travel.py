"""Errors are what other processes are told: each arrives as it was, whatever it is made of."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina import errors
from lamina.errors import (
    CommandNotFound,
    ContainerFailed,
    HostChanged,
    KernelError,
    LaminaError,
    MountError,
    RegistryError,
    StepFailed,
    TimeoutExpired,
)
from support.small_images import small_image

# those whose constructors take more than a message; the others are made with one below
MADE: dict[type[LaminaError], Callable[[], LaminaError]] = {
    HostChanged: lambda: HostChanged("said", clashes=("one", "two"), remedy="do"),
    KernelError: lambda: KernelError("mount", 22, "/place", hint="why", remedy="do"),
    MountError: lambda: MountError("mount", 28, remedy="do"),
    StepFailed: lambda: StepFailed("openat2 /x", 2, index=7, place=b"/x", message="said"),
    CommandNotFound: lambda: CommandNotFound("execve sh", 2, index=7),
    errors.CommandNotExecutable: lambda: errors.CommandNotExecutable("execve sh", 13),
    RegistryError: lambda: RegistryError("said", status=429, code="TOOMANYREQUESTS"),
    TimeoutExpired: lambda: TimeoutExpired("said", cmd=["sleep"], timeout=0.5, stdout=b"out", stderr="err"),
    ContainerFailed: lambda: ContainerFailed(["a", "b"], 3, stdout=b"out", stderr="err", remedy="do"),
}
WAYS: dict[str, Callable[[LaminaError], LaminaError]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle {n}": lambda error, n=n: pickle.loads(pickle.dumps(error, n)) for n in (2, 3, 4, 5)},  # type: ignore[misc]
}
FIELDS = ("errno", "strerror", "filename", "args", "__notes__", "exit_code")


def kinds(root: type[LaminaError] = LaminaError) -> Iterator[type[LaminaError]]:
    yield root
    for below in root.__subclasses__():
        yield from kinds(below)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [*dict.fromkeys(kinds())])
def test_all_of_it_arrives(kind: type[LaminaError], way: str) -> None:
    error = MADE[kind]() if kind in MADE else kind("said", remedy="do")
    error.add_note("and this")
    arrived = WAYS[way](error)
    assert type(arrived) is kind
    assert (str(arrived), repr(arrived), vars(arrived)) == (str(error), repr(error), vars(error))
    for field in FIELDS:
        assert getattr(arrived, field, None) == getattr(error, field, None), field


def test_words_are_those_of_subprocess() -> None:
    for ours, theirs in (
        (
            TimeoutExpired("late", cmd=["x"], timeout=2, stdout=b"o"),
            subprocess.TimeoutExpired(["x"], 2, b"o"),
        ),
        (ContainerFailed(["x"], 3, stdout="o"), subprocess.CalledProcessError(3, ["x"], "o")),
    ):
        for field in set(vars(theirs)) | {"output", "stdout", "stderr"}:
            assert getattr(ours, field) == getattr(theirs, field), field


WORKERS = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from lamina import Engine
from lamina.errors import CommandNotFound, ContainerFailed, LaminaError, TimeoutExpired

def work(engine, command, options):
    engine.run("tiny", command, rm=True, capture_output=True, **options)

if __name__ == "__main__":
    engine = Engine(sys.argv[1])
    for method in ("fork", "spawn"):
        with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:
            jobs = (
                (["no-such"], {}),
                (["sh", "-c", "echo out; exit 3"], {"check": True}),
                (["sleep", "60"], {"timeout": 0.1}),
            )
            missing, failed, late = [pool.submit(work, engine, *job).exception(200) for job in jobs]
        assert isinstance(missing, CommandNotFound) and missing.exit_code == 127, missing
        assert isinstance(failed, ContainerFailed) and (failed.returncode, failed.output) == (3, b"out\\n"), failed
        assert isinstance(late, TimeoutExpired) and (late.cmd, late.timeout) == (["sleep", "60"], 0.1), late
"""


@pytest.mark.root
@pytest.mark.peer("busybox")
def test_a_pool_of_processes_is_told(store_root: Path, tmp_path: Path) -> None:
    """An exception that cannot be made again breaks a ProcessPoolExecutor, and has a multiprocessing.Pool wait."""
    small_image(store_root)
    (tmp_path / "workers.py").write_text(WORKERS)
    argv = [sys.executable, str(tmp_path / "workers.py"), str(store_root)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
