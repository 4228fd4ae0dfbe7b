"""The engine for event loops has the engine's names, parameters and types, up to what is to be awaited there."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import pytest

from lamina.engine.asynchronous.container import AsyncContainer
from lamina.engine.asynchronous.engine import AsyncEngine
from lamina.engine.asynchronous.image import AsyncImage
from lamina.engine.asynchronous.network import AsyncNetwork
from lamina.engine.asynchronous.networks import AsyncNetworks
from lamina.engine.asynchronous.path import AsyncContainerPath
from lamina.engine.asynchronous.process import AsyncProcess
from lamina.engine.asynchronous.snapshot import AsyncSnapshot
from lamina.engine.asynchronous.storage import AsyncStorage
from lamina.engine.asynchronous.volume import AsyncVolume
from lamina.engine.container import Container
from lamina.engine.engine import Engine
from lamina.engine.files import ContainerPath
from lamina.engine.images import Image
from lamina.engine.network import Network
from lamina.engine.network_verbs import Networks
from lamina.engine.process import Process
from lamina.engine.pure_paths import PureContainerPath
from lamina.engine.snapshots import Snapshot
from lamina.engine.storage import Storage
from lamina.engine.volumes import Volume
from support.sources import REPOSITORY

PAIRS: list[tuple[type, type]] = [
    (Engine, AsyncEngine),
    (Container, AsyncContainer),
    (Process, AsyncProcess),
    (Image, AsyncImage),
    (Snapshot, AsyncSnapshot),
    (Volume, AsyncVolume),
    (Storage, AsyncStorage),
    (Network, AsyncNetwork),
    (Networks, AsyncNetworks),
    (ContainerPath, AsyncContainerPath),
]
# what a loop has not, and why
LEFT_OUT = {
    ("Container", "attach"): "a terminal and its signals are a program's, not a task's",
    ("Container", "start_attached"): "the same",
    ("Engine.run", "forward_signals"): "signals are the program's own: loop.add_signal_handler",
    ("Container.exec", "forward_signals"): "the same",
    ("Engine.popen", "bufsize"): "a StreamReader has a buffer of its own",
    ("Container.popen", "bufsize"): "the same",
}
BLOCKS = {"__enter__": "__aenter__", "__exit__": "__aexit__"}


def members(kind: type) -> dict[str, object]:
    return {
        name: inspect.getattr_static(kind, name)
        for name in dir(kind)
        if not name.startswith("_") or name in BLOCKS
    }


@pytest.mark.parametrize(("here", "there"), PAIRS, ids=lambda kind: kind.__name__)
def test_every_name_is_there_and_no_other(here: type, there: type) -> None:
    expected = {BLOCKS.get(name, name) for name in members(here)}
    expected -= {name for owner, name in LEFT_OUT if owner == here.__name__}
    found = {name for name in dir(there) if not name.startswith("_") or name in BLOCKS.values()}
    assert found == expected


@pytest.mark.parametrize(("here", "there"), PAIRS, ids=lambda kind: kind.__name__)
def test_parameters_and_types_are_the_same_up_to_what_is_awaited(here: type, there: type) -> None:
    wrong = []
    for name, member in members(here).items():
        mirrored = inspect.getattr_static(there, BLOCKS.get(name, name), None)
        if mirrored is None or (here.__name__, name) in LEFT_OUT:
            continue
        assert isinstance(member, property) == isinstance(mirrored, property), name
        if isinstance(member, property):
            wanted, given = returned(member.fget), returned(mirrored.fget)
            if given not in (wanted, f"Awaitable[{wanted}]"):
                wrong.append((name, wanted, given))
        else:
            out = {parameter for owner, parameter in LEFT_OUT if owner == f"{here.__name__}.{name}"}
            taken = [one for one in parameters(member) if one.partition(":")[0] not in out]
            if taken != parameters(mirrored) or not awaitable(returned(member), mirrored):
                wrong.append((name, str(member), str(mirrored)))
    assert wrong == []


def parameters(function: object) -> list[str]:
    """Names, kinds, types as they are written, and defaults."""
    assert callable(function)
    return [
        f"{one.name}: {plain(str(one.annotation))} {one.kind.name} {one.default!r}"
        for one in inspect.signature(function).parameters.values()
    ]


def plain(annotation: str) -> str:
    """A type of the mirrored half as the engine calls it."""
    return re.sub(
        r"\bAsync(ContainerPath|Container|Image|Snapshot|Attempt|Merge|StateLog|Volume|Networks?|Process|Storage|Engine)\b",
        r"\1",
        annotation.replace("MirroredViewVerbs", "ViewVerbs").replace(
            "AsyncProcess[Any, Any]", "Process[Any]"
        ),
    )


def returned(function: object) -> str:
    assert callable(function)
    return plain(str(inspect.signature(function).return_annotation))


def awaitable(wanted: str, mirrored: object) -> bool:
    """Whether *mirrored* gives what is *wanted*: at once, awaited, as something to be iterated, or to be entered."""
    given = returned(mirrored)
    iterated = f"Async{wanted}" if wanted.startswith("Iterator[") else wanted
    entered = wanted.replace("IO[Any]", "AsyncFile")  # whose own names are a file's
    return given in (wanted, iterated, f"Begun[{entered}]")


def test_what_does_not_wait_is_a_coroutine_only_where_somebody_waits() -> None:
    """Whatever may touch the disk or wait is `async def`, an asynchronous iterator, or begins when it is awaited."""
    at_once = {"poll", "fileno", "send_signal", "terminate", "kill"}
    for here, there in PAIRS:
        for name, member in members(there).items():
            if isinstance(member, property) or not callable(member) or name in BLOCKS:
                continue
            waits = inspect.iscoroutinefunction(member) or returned(member).startswith(
                ("Begun[", "AsyncIterator[", "Attempt")
            )
            is_name = here is ContainerPath and hasattr(PureContainerPath, name)
            assert waits or is_name or (here is Process and name in at_once), f"{there.__name__}.{name}"


def test_the_half_that_is_written_by_a_script_is_what_it_writes() -> None:
    done = subprocess.run(
        [sys.executable, REPOSITORY / "scripts/mirror", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, f"run scripts/mirror: {done.stdout}{done.stderr}"


def test_what_is_left_out_is_there_to_be_left_out() -> None:
    names = {kind.__name__: kind for kind, _ in PAIRS}
    for owner, name in LEFT_OUT:
        kind, _, method = owner.partition(".")
        if method:
            assert name in inspect.signature(getattr(names[kind], method)).parameters
        else:
            assert hasattr(names[kind], name)
