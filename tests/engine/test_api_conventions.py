"""What a Python programmer expects without having read anything: names, what is shown of things, words of others."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import pytest

import lamina
from lamina import AsyncEngine, Container, Engine
from lamina.errors import CommandNotFound
from support.leaks import Leaks
from support.small_images import small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks) -> Engine:
    small_image(store_root)
    return Engine(store_root)


@pytest.fixture
def box(engine: Engine) -> Iterator[Container]:
    with engine.start("tiny", ["sleep", "600"], name="box") as found:
        yield found


def test_there_is_nothing_in_the_package_but_what_is_meant() -> None:
    shown = {name for name in dir(lamina) if not name.startswith("__")}
    assert shown == {name for name in lamina.__all__ if not name.startswith("__")} | {"errors"}


def test_errors_are_there_without_a_further_import() -> None:
    program = "import lamina; print(lamina.errors.NotFound.__name__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert (done.stdout, done.stderr) == ("NotFound\n", "")


def test_what_is_shown_of_things_says_which_they_are(
    engine: Engine, box: Container, store_root: Path
) -> None:
    other = engine.container("box")
    assert repr(Engine()) == "<Engine>"
    assert repr(engine) == repr(pickle.loads(pickle.dumps(engine))) == f"<Engine {store_root}>"
    assert repr(AsyncEngine(store_root)) == f"<AsyncEngine {store_root}>"
    assert repr(engine.storage) == f"<Storage {store_root}>"
    assert repr(engine.networks) == f"<Networks {store_root}>"
    assert repr(box) == repr(other) == f"<Container box {box.short_id}>"
    assert repr(box.files / "etc") == "<ContainerPath box:/etc>"
    unseen = pickle.loads(pickle.dumps(box))
    box.remove(force=True)
    # a debugger shows what is gone as well
    assert repr(unseen) == f"<Container {box.short_id}>"
    assert repr(unseen.files / "etc") == f"<ContainerPath {box.short_id}:/etc>"


WORDS = {
    "cwd": "'workdir'", "universal_newlines": "'text'", "environment": "'env'", "mem_limit": "'memory'",
    "ports": "'publish'", "network_mode": "'network'", "auto_remove": "'rm'", "remove": "'rm'", "shell": "'sh', '-c'",
    "detach": r"Engine\.start", "stream": "popen", "args": "second argument", "memry": "'memory'",
}  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_words_of_others_are_answered_with_ours(engine: Engine, word: str) -> None:
    with pytest.raises(TypeError, match=f"run.. got an unexpected keyword argument {word!r}.*{WORDS[word]}"):
        engine.run("tiny", ["true"], **{word: "x"})  # type: ignore[call-overload]


def test_words_of_others_for_a_further_process(box: Container) -> None:
    for word, ours in (
        ("cwd", "'workdir'"),
        ("environment", "'env'"),
        ("usr", "'user'"),
        ("detach", "exec_detached"),
    ):
        with pytest.raises(TypeError, match=f"exec.. got an unexpected keyword argument {word!r}.*{ours}"):
            box.exec(["true"], **{word: "x"})  # type: ignore[call-overload]


def test_a_command_line_is_not_taken_apart(engine: Engine, box: Container) -> None:
    for act in (lambda: engine.run("tiny", "echo hello", rm=True), lambda: box.exec("echo hello")):
        with pytest.raises(CommandNotFound, match="it is one word here"):
            act()


@pytest.mark.parametrize("seconds", [float("inf"), 1e12])
def test_a_time_without_end_is_a_time(engine: Engine, box: Container, seconds: float) -> None:
    assert engine.run("tiny", ["true"], rm=True, timeout=seconds).returncode == 0
    assert box.exec(["true"], timeout=seconds).returncode == 0
    with box.popen(["true"], stdout=PIPE, stderr=PIPE) as process:
        assert process.communicate(timeout=seconds) == (b"", b"")
    with engine.popen("tiny", ["true"], rm=True) as process:
        assert process.wait(seconds) == 0
    with engine.start("tiny", ["true"]) as other:
        assert other.wait(seconds) == 0


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, asyncio.CancelledError])
def test_a_process_whose_block_fails_is_killed_by_a_loop_as_well(
    engine: Engine, box: Container, store_root: Path, failure: type[BaseException]
) -> None:
    async def works() -> int | None:
        own = await AsyncEngine(store_root).container("box")
        process = None
        try:
            async with own.popen(["sleep", "600"], stdout=PIPE) as process:
                raise failure
        except failure:
            pass
        assert process is not None
        return process.returncode

    assert asyncio.run(asyncio.wait_for(works(), 100)) == 137


def test_a_loop_can_be_told_of_an_end_before_and_after(box: Container, store_root: Path) -> None:
    async def works() -> None:
        loop = asyncio.get_running_loop()
        own = await AsyncEngine(store_root).container("box")
        async with own.popen(["cat"], stdin=PIPE, stdout=PIPE) as process:
            ended = asyncio.Event()
            loop.add_reader(process.fileno(), ended.set)
            assert not ended.is_set()
            process.stdin.close()
            await ended.wait()
            loop.remove_reader(process.fileno())
        async with own.popen(["true"], stdout=PIPE) as process:
            await process.wait()
            ended.clear()
            loop.add_reader(process.fileno(), ended.set)
            await ended.wait()
            loop.remove_reader(process.fileno())

    asyncio.run(asyncio.wait_for(works(), 100))
