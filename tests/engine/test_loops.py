"""AsyncEngine: the engine for event loops. What it gives, who is cancelled, and that a loop never waits for it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from errno import EMFILE
from pathlib import Path
from typing import Any

import pytest

from lamina import AsyncContainer, AsyncEngine, Engine
from lamina.engine import nursery
from lamina.engine.asynchronous import threads
from lamina.engine.asynchronous.following import _instances
from lamina.errors import (
    CommandNotFound,
    Conflict,
    ContainerFailed,
    InvalidInput,
    KernelError,
    LaminaError,
    NotFound,
    TimeoutExpired,
)
from lamina.testing.registry import FakeRegistry, Fault
from support.held import held_descriptors
from support.lives import until
from support.loops import in_loop, watched
from support.rootless import Rootless

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox"), pytest.mark.usefixtures("tiny")]
PIPE, DEVNULL, STDOUT = subprocess.PIPE, subprocess.DEVNULL, subprocess.STDOUT
FOR_EVER = ["sleep", "1000"]


@pytest.fixture
def loops(engine: Engine) -> Iterator[AsyncEngine]:
    """An AsyncEngine on the store of `engine`, which cleans up; in a process that has its threads."""
    for name in ("verbs", "transfers", "endings"):
        threads.pool(name)
    yield AsyncEngine(engine.store.path)


def nothing_left(engine: Engine) -> bool:
    store = engine.store
    return not any(os.listdir(place) for place in (store.containers, store.running, store.names))


# -- run


@in_loop
async def test_run_gives_what_run_gives(loops: AsyncEngine) -> None:
    script = "echo out; echo err >&2; exit 3"
    done = await loops.run("tiny", ["sh", "-c", script], capture_output=True, text=True, rm=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    joined = await loops.run("tiny", ["sh", "-c", script], stdout=PIPE, stderr=STDOUT, rm=True)
    assert joined.stdout == b"out\nerr\n"
    with pytest.raises(ContainerFailed) as failed:
        await loops.run("tiny", ["sh", "-c", script], capture_output=True, check=True, rm=True)
    assert failed.value.stdout == b"out\n"


@in_loop
async def test_input_and_output_of_any_size(loops: AsyncEngine) -> None:
    data = os.urandom(1 << 20) * 3
    done = await loops.run("tiny", ["cat"], input=data, capture_output=True, rm=True)
    assert done.stdout == data
    # who reads nothing of it is no failure
    assert (await loops.run("tiny", ["true"], input=data, rm=True)).returncode == 0


@in_loop
async def test_files_are_read_and_written(loops: AsyncEngine, tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * 3
    (tmp_path / "in").write_bytes(data)
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as target:
        done = await loops.run("tiny", ["cat"], stdin=source, stdout=target)
    assert done.returncode == 0
    assert (tmp_path / "out").read_bytes() == data
    # and the log, which a thread writes, has all of it in its order
    box = await loops.container(done.container)
    assert b"".join([entry.data async for entry in box.logs()]) == data


@in_loop
async def test_devices_without_an_end(loops: AsyncEngine) -> None:
    with open("/dev/zero", "rb") as zeros:
        done = await loops.run("tiny", ["head", "-c", "300000"], stdin=zeros, stdout=PIPE, rm=True)
    assert done.stdout == bytes(300000)
    with open("/dev/full", "wb") as full, pytest.raises(LaminaError, match="write the output"):
        await loops.run("tiny", ["echo", "x"], stdout=full, rm=True)


@in_loop
async def test_a_file_that_cannot_be_written_is_an_error(loops: AsyncEngine, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with (tmp_path / "out").open("rb") as target, pytest.raises(LaminaError, match="write the output"):
        await loops.run("tiny", ["echo", "x"], stdout=target, rm=True)


@in_loop
async def test_what_cannot_be_run_says_why_and_leaves_nothing(loops: AsyncEngine, engine: Engine) -> None:
    with pytest.raises(CommandNotFound):
        await loops.run("tiny", ["there-is-no-such-command"])
    with pytest.raises(InvalidInput):
        await loops.run("tiny", ["true"], memory="much")
    with pytest.raises(NotFound):
        await loops.run("nothing-of-that-name", ["true"], pull="never")
    with pytest.raises(TypeError):
        await loops.run("tiny", ["true"], colour="red")  # type: ignore[call-overload]
    assert nothing_left(engine)


@in_loop
async def test_time_runs_out_for_the_command(loops: AsyncEngine, engine: Engine) -> None:
    with pytest.raises(TimeoutExpired) as late:
        await loops.run(
            "tiny",
            ["sh", "-c", "echo begun; exec sleep 1000"],
            capture_output=True,
            text=True,
            timeout=0.3,
            rm=True,
        )
    assert late.value.stdout in ("begun\n", "")
    assert nothing_left(engine)


@in_loop
async def test_callbacks_are_the_loops(loops: AsyncEngine) -> None:
    here, said = threading.get_ident(), []

    def created(identity: str) -> None:
        said.append((threading.get_ident(), identity))

    done = await loops.run("tiny", ["true"], on_created=created, rm=True)
    assert said == [(here, done.container)]


# -- who is cancelled


async def begun(loops: AsyncEngine, seconds: float = 100) -> None:
    """Until some container runs."""
    async with asyncio.timeout(seconds):
        while not await loops.containers():
            await asyncio.sleep(0.02)


@in_loop
async def test_cancelled_run_kills_the_command_and_leaves_nothing(loops: AsyncEngine, engine: Engine) -> None:
    running = asyncio.create_task(loops.run("tiny", FOR_EVER, rm=True))
    await begun(loops)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert nothing_left(engine)


@in_loop
async def test_a_cancelled_run_that_is_to_be_kept_has_ended(loops: AsyncEngine) -> None:
    running = asyncio.create_task(loops.run("tiny", FOR_EVER, name="kept"))
    await begun(loops)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    box = await loops.container("kept")
    assert (await box.status, await box.exit_code) == ("exited", 128 + signal.SIGKILL)


@in_loop
async def test_cancelled_at_any_moment_nothing_is_left(loops: AsyncEngine, engine: Engine) -> None:
    """After so many turns of the loop, and after a part of what a start takes: in whichever step that is."""
    for step in range(40):
        running = asyncio.create_task(loops.run("tiny", FOR_EVER, rm=True))
        for _ in range(step % 20):
            await asyncio.sleep(0 if step < 20 else 0.001)
        running.cancel()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert nothing_left(engine), step


@in_loop
async def test_cancelled_starts_leave_nothing(loops: AsyncEngine, engine: Engine) -> None:
    for step in range(16):
        starting = asyncio.create_task(loops.start("tiny", FOR_EVER))
        await asyncio.sleep(step * 0.004)
        starting.cancel()
        try:
            await (await starting).remove(force=True)  # it was quicker
        except asyncio.CancelledError:
            pass
        assert nothing_left(engine), step


@in_loop
async def test_timeout_of_asyncio(loops: AsyncEngine, engine: Engine) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await loops.run("tiny", FOR_EVER, rm=True)
    assert nothing_left(engine)
    async with loops.start("tiny", FOR_EVER, stop_timeout=0) as box:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await box.exec(FOR_EVER)
        assert len((await box.top())["Processes"]) == 1  # what was executed is killed
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await box.wait()
        assert await box.status == "running"


@in_loop
async def test_fifty_at_once_in_a_task_group(loops: AsyncEngine, engine: Engine) -> None:
    async def one(number: int) -> str:
        done = await loops.run("tiny", ["echo", str(number)], capture_output=True, text=True, rm=True)
        return str(done.stdout)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(number)) for number in range(50)]
    assert [task.result() for task in tasks] == [f"{number}\n" for number in range(50)]
    assert nothing_left(engine)


@in_loop
async def test_one_that_fails_ends_the_others_of_its_group(loops: AsyncEngine, engine: Engine) -> None:
    async def fails() -> None:
        await begun(loops)
        await loops.run("tiny", ["false"], check=True, rm=True)

    with pytest.raises(ExceptionGroup) as failed:
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(loops.run("tiny", FOR_EVER, rm=True))
            group.create_task(fails())
    assert isinstance(failed.value.exceptions[0], ContainerFailed)
    assert nothing_left(engine)


@pytest.mark.parametrize("verb", ["pull", "run"])
@in_loop
async def test_a_cancelled_pull_ends_although_the_registry_says_nothing(
    loops: AsyncEngine, engine: Engine, verb: str
) -> None:
    heard: list[str] = []

    def hear(kind: str, **facts: object) -> None:
        heard.append(kind)

    async def pull(name: str) -> None:
        if verb == "pull":
            await loops.pull(name, on_event=hear)
        else:
            await loops.run(name, ["true"], on_event=hear)

    with FakeRegistry() as registry:
        layers = [{"etc/a": os.urandom(200_000)}, {"etc/b": os.urandom(200_000)}]
        registry.add_image("library/other", "1", *layers)
        registry.faults.append(Fault("stall", path="/blobs/", after=100_000))
        name = f"{registry.host}/library/other:1"
        pulling = asyncio.create_task(pull(name))
        while not registry.stalled.is_set():
            await asyncio.sleep(0.01)
        pulling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pulling
        assert "resolving" in heard
        assert await loops.pull(name) == name
    assert nothing_left(engine)


def test_what_runs_dies_with_a_program_that_is_killed(loops: AsyncEngine, engine: Engine) -> None:
    code = """
import asyncio, sys, lamina

async def main():
    engine = lamina.AsyncEngine()
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(engine.run("tiny", ["sleep", "1000"], rm=True))
        while len(await engine.containers()) < 5:
            await asyncio.sleep(0.01)
        print("all run", flush=True)

asyncio.run(main())
"""
    program = subprocess.Popen([sys.executable, "-c", code], stdout=PIPE)
    with program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"all run\n"
        pids = [int(box.inspect()["State"]["Pid"]) for box in engine.containers()]
        program.kill()
    assert len(pids) == 5
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        time.sleep(0.01)
    assert engine.containers(all=True) == []  # who looks removes what is left of them
    assert nothing_left(engine)


@pytest.mark.parametrize("seed", range(3))
@in_loop
async def test_many_whose_time_is_up_at_any_moment(loops: AsyncEngine, engine: Engine, seed: int) -> None:
    """Forty tasks of every kind at once, cancelled whenever that is; what they had begun is ended, all of it."""
    dice = random.Random(seed)
    box = await loops.start("tiny", FOR_EVER, stop_timeout=0)

    async def run() -> None:
        await loops.run("tiny", ["cat"], input=bytes(100_000), capture_output=True, rm=True)

    async def kept() -> None:
        await loops.run("tiny", ["sleep", "0.05"])

    async def execute() -> None:
        await box.exec(["sleep", "0.05"])

    async def apart() -> None:
        async with loops.popen("tiny", ["cat"], stdin=PIPE, stdout=PIPE, rm=True) as process:
            await process.communicate(bytes(70_000))

    async def beside() -> None:
        async with box.popen(["cat"], stdin=PIPE, stdout=PIPE) as process:
            await process.communicate(bytes(70_000))

    async def live() -> None:
        async with loops.start("tiny", FOR_EVER, stop_timeout=0) as other:
            await other.exec(["true"])

    async def follow() -> None:
        async for _ in box.logs(follow=True):
            pass

    async def at_most(work: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await work()
        except TimeoutError:
            pass

    kinds = [run, kept, execute, apart, beside, live, follow]
    await asyncio.gather(
        *(at_most(dice.choice(kinds), dice.random() * dice.choice([0.02, 0.2, 1])) for _ in range(40))
    )
    assert len((await box.top())["Processes"]) == 1
    await box.remove(force=True)
    for one in await loops.containers(all=True):
        assert await one.status == "exited"
        await one.remove()
    assert nothing_left(engine)
    assert not os.listdir(engine.store.tmp)


# -- containers that live


@in_loop
async def test_a_container_lives_and_is_removed_at_the_end_of_the_block(
    loops: AsyncEngine, engine: Engine
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with loops.start("tiny", ["sh", "-c", "echo begun; exec sleep 1000"], name="box") as box:
            assert (box.name, box.image, await box.status, await box.is_alive) == (
                "box",
                "tiny",
                "running",
                True,
            )
            assert await loops.containers() == [box]
            assert await loops.container("box") == box
            await box.rename("other")
            assert box.name == "other"
            done = await box.exec(["cat"], input="text", text=True, capture_output=True)
            assert done.stdout == "text"
            await box.pause()
            with pytest.raises(Conflict):
                await box.exec(["true"])
            await box.unpause()
            await box.stop(timeout=0)
            assert await box.wait() == await box.exit_code
            await box.restart()
            await box.kill()
            assert await box.exit_code == 128 + signal.SIGKILL
            raise ZeroDivisionError
    assert nothing_left(engine)


@in_loop
async def test_a_container_that_was_looked_up_stays(loops: AsyncEngine) -> None:
    made = await loops.create("tiny", ["true"], name="box")
    async with await loops.container("box") as found:
        assert found == made
    assert await made.status == "created"
    async with made:
        pass
    with pytest.raises(NotFound):
        await loops.container("box")
    assert made.name == "box"  # what it was called is known all the same
    with pytest.raises(NotFound):
        await made.status


@in_loop
async def test_a_start_that_fails_leaves_nothing(loops: AsyncEngine, engine: Engine) -> None:
    with pytest.raises(CommandNotFound):
        await loops.start("tiny", ["there-is-no-such-command"])
    assert nothing_left(engine)


@in_loop
async def test_fifty_wait_at_once_and_nobody_is_in_anybodys_way(loops: AsyncEngine) -> None:
    """More than there are threads: each waits for a container that another task ends."""
    async with loops.start("tiny", FOR_EVER, stop_timeout=0) as box:
        waiting = [asyncio.create_task(box.wait()) for _ in range(50)]
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in waiting)
        await box.stop()
        assert set(await asyncio.gather(*waiting)) == {128 + signal.SIGTERM}


@in_loop
async def test_stops_with_grace_do_not_wait_for_each_other(loops: AsyncEngine) -> None:
    deaf = ["sh", "-c", "trap '' TERM; echo deaf; while true; do sleep 1000; done"]
    boxes = [await loops.start("tiny", deaf) for _ in range(6)]
    for box in boxes:
        async for _ in box.logs(follow=True):
            break
    stopping = [asyncio.create_task(box.stop(timeout=200)) for box in boxes]
    await asyncio.sleep(0.2)
    assert not any(task.done() for task in stopping)
    for box in boxes:  # more of them than threads, and all of these verbs are done
        await box.kill()
    await asyncio.gather(*stopping)
    assert [await box.exit_code for box in boxes] == [128 + signal.SIGKILL] * 6


# -- files


@in_loop
async def test_files_in_the_words_of_pathlib(loops: AsyncEngine, tmp_path: Path) -> None:
    async with loops.start("tiny", FOR_EVER, stop_timeout=0) as box:
        place = box.files / "tmp/place"
        assert (str(place), place.name, place.container) == ("/tmp/place", "place", box)
        with watched() as waited:
            await place.mkdir()
            await (place / "a.txt").write_text("eins\nzwei\n")
            assert await (place / "a.txt").read_bytes() == b"eins\nzwei\n"
            async with (place / "b.txt").open("w") as file:
                await file.write("drei\n")
                await file.writelines(["vier\n"])
            assert file.closed
            async with (place / "b.txt").open() as file:
                assert [line async for line in file] == ["drei\n", "vier\n"]
            assert {path.name async for path in place.iterdir()} == {"a.txt", "b.txt"}
            assert [str(path) async for path in place.glob("a*")] == ["/tmp/place/a.txt"]
            moved = await (place / "a.txt").rename("c.txt")
            assert (await moved.exists(), await (place / "a.txt").exists()) == (True, False)
            assert [(str(path), sorted(names)) async for path, _, names in place.walk()] == [
                ("/tmp/place", ["b.txt", "c.txt"])
            ]
            assert (await moved.stat()).st_size == 10
        assert waited == []
        with pytest.raises(FileNotFoundError):
            await (place / "nothing").read_text()
        errors: list[OSError] = []
        assert [path async for path in (place / "nothing").walk(on_error=errors.append)] == []
        assert [type(error) for error in errors] == [FileNotFoundError]
        await box.copy_out("/tmp/place/c.txt", str(tmp_path / "out"))
        assert (tmp_path / "out").read_text() == "eins\nzwei\n"
        await box.copy_in(str(tmp_path / "out"), "/tmp/in")
        assert await box.files.joinpath("tmp", "in").read_text() == "eins\nzwei\n"


# -- processes


@in_loop
async def test_popen_takes_a_descriptor_for_its_end_when_it_is_asked_for_one(
    loops: AsyncEngine, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_is_left(*_: int) -> int:
        raise OSError(EMFILE, os.strerror(EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(os, "eventfd", none_is_left)
        process = await loops.popen("tiny", FOR_EVER, rm=True)
        with pytest.raises(OSError, match="Too many open files"):
            process.fileno()
    process.kill()
    assert await process.wait() == 137
    assert engine.containers(all=True) == []


@in_loop
async def test_popen_is_a_process_with_asyncios_streams(loops: AsyncEngine) -> None:
    async with loops.start("tiny", FOR_EVER, stop_timeout=0) as box:
        echo = ["sh", "-c", "while read line; do echo got $line; done; echo end >&2; exit 4"]
        async with box.popen(echo, stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
            for number in range(3):
                process.stdin.write(b"%d\n" % number)
                await process.stdin.drain()
                assert await process.stdout.readline() == b"got %d\n" % number
            assert (process.poll(), process.returncode, process.container) == (None, None, box.id)
            assert os.path.exists(f"/proc/{process.pid}")
            process.stdin.close()
            assert await process.stderr.read() == b"end\n"
            assert await process.wait() == process.returncode == process.poll() == 4
        text = await box.popen(["cat"], stdin=PIPE, stdout=PIPE, encoding="utf-8")
        assert await text.communicate("zwei\r\nZeilen: ä\n") == ("zwei\nZeilen: ä\n", None)


@in_loop
async def test_text_lines_of_a_process(loops: AsyncEngine) -> None:
    lines = ["sh", "-c", "printf 'a\\r\\nb\\n\\303'; sleep 0.1; printf '\\244\\nrest'"]
    async with loops.popen("tiny", lines, stdout=PIPE, text=True, rm=True) as process:
        assert [line async for line in process.stdout] == ["a\n", "b\n", "ä\n", "rest"]
        assert process.stdout.at_eof()


@in_loop
async def test_a_process_is_signalled_and_waited_for_with_a_limit(loops: AsyncEngine) -> None:
    process = await loops.popen("tiny", FOR_EVER, rm=True)
    with pytest.raises(TimeoutExpired):
        await process.wait(timeout=0.1)
    with pytest.raises(TimeoutExpired):
        await process.communicate(timeout=0.1)
    process.terminate()  # the kernel spares the first process of a container
    assert await process.wait() == 128 + signal.SIGTERM
    process.kill()
    with pytest.raises(InvalidInput):
        process.send_signal("NOTHING")
    shell = await loops.popen(
        "tiny", ["sh", "-c", "trap 'exit 9' USR1; echo set; while true; do sleep 0.1; done"], stdout=PIPE
    )
    assert await shell.stdout.readline() == b"set\n"
    shell.send_signal("USR1")
    assert await shell.communicate() == (b"", None)
    assert shell.returncode == 9


@in_loop
async def test_communicate_that_is_late_says_what_came_and_goes_on(loops: AsyncEngine) -> None:
    script = ["sh", "-c", "echo part; until [ -e /tmp/go ]; do sleep 0.01; done; echo rest"]
    async with loops.start("tiny", FOR_EVER, stop_timeout=0) as box:
        process = await box.popen(script, stdout=PIPE, text=True)
        said: object = ""
        while not said:
            with pytest.raises(TimeoutExpired) as late:
                await process.communicate(timeout=0.05)
            said = late.value.stdout
        assert said == "part\n"
        await (box.files / "tmp/go").touch()
        assert await process.communicate() == ("part\nrest\n", None)
        with pytest.raises(ValueError, match="no pipe"):
            await process.communicate("more")


def test_where_no_thread_can_be_begun(loops: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as no_threads:
        no_threads.setattr(threads, "_pools", {})
        no_threads.setattr(threading.Thread, "start", refuse)
        with pytest.raises(KernelError, match="begin a thread"):
            asyncio.run(loops.run("tiny", ["true"], rm=True))
    asyncio.run(_true(loops))


@in_loop
async def test_a_block_around_a_process_that_is_cancelled_ends_it(loops: AsyncEngine, engine: Engine) -> None:
    async def block() -> None:
        async with loops.popen("tiny", FOR_EVER, stdout=PIPE, rm=True) as process:
            await process.stdout.read()

    task = asyncio.create_task(block())
    await begun(loops)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert nothing_left(engine)


def test_the_end_of_a_loop_ends_what_it_began(loops: AsyncEngine, engine: Engine) -> None:
    async def forget() -> None:
        await loops.popen("tiny", FOR_EVER, rm=True)

    asyncio.run(forget())
    assert nothing_left(engine)


# -- what is followed


async def followed(times: int) -> None:
    """Until so many have begun to follow something."""
    loop = asyncio.get_running_loop()
    while loop not in _instances or _instances[loop].users < times or _instances[loop].coming:
        await asyncio.sleep(0.01)


@in_loop
async def test_events_come_as_they_happen(loops: AsyncEngine) -> None:
    began, seen = asyncio.Event(), []

    async def look() -> None:
        events = loops.events(filters={"type": ["container"]})
        looking = asyncio.ensure_future(anext(events))
        await followed(1)
        began.set()
        seen.append((await looking).action)
        async for event in events:
            seen.append(event.action)
            if event.action == "destroy":
                break

    task = asyncio.create_task(look())
    await began.wait()
    await loops.run("tiny", ["true"], rm=True)
    await task
    assert seen == ["create", "start", "die", "destroy"]
    with pytest.raises(InvalidInput):
        await anext(loops.events(filters={"weather": ["fine"]}))


@in_loop
async def test_events_that_were_are_replayed_until_then(loops: AsyncEngine) -> None:
    await loops.run("tiny", ["true"], rm=True)
    actions = [event.action async for event in loops.events(since=0, until=time.time())]
    assert actions[-4:] == ["create", "start", "die", "destroy"]


@in_loop
async def test_logs_are_followed_to_the_end(loops: AsyncEngine) -> None:
    script = "for i in 1 2 3; do echo $i; sleep 0.1; done"
    async with loops.start("tiny", ["sh", "-c", script]) as box:
        assert b"".join([entry.data async for entry in box.logs(follow=True)]) == b"1\n2\n3\n"
        assert b"".join([entry.data async for entry in box.logs(tail=1)]) == b"3\n"


@in_loop
async def test_many_follow_with_one_descriptor_between_them(loops: AsyncEngine) -> None:
    before = {number for number, link in held_descriptors().items() if "inotify" in link}
    async with loops.start("tiny", ["sh", "-c", "read x; echo $x"], interactive=True, stop_timeout=0) as box:

        async def first() -> None:
            async for _ in box.logs(follow=True):
                pass

        def watches() -> set[int]:
            return {number for number, link in held_descriptors().items() if "inotify" in link} - before

        followers = [asyncio.create_task(first()) for _ in range(30)]
        await followed(30)
        assert len(watches()) == 1
        await box.kill()
        await asyncio.gather(*followers)
    assert not watches()


# -- the loop


@in_loop
async def test_the_loops_thread_never_waits(loops: AsyncEngine, tmp_path: Path) -> None:
    """Every C function that our code calls in the loop's thread is one that does not wait, and nothing is imported."""
    (tmp_path / "in").write_bytes(bytes(1 << 20))

    async def a_day() -> None:
        with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as target:
            await loops.run("tiny", ["cat"], stdin=source, stdout=target, env={"A": "b"}, memory="64m")
        await loops.run("tiny", ["cat"], input=bytes(1 << 20), capture_output=True, rm=True)
        async with loops.start("tiny", ["sh", "-c", "echo begun; exec sleep 1000"], stop_timeout=0) as box:
            await box.exec(["true"], input="x", capture_output=True, text=True)
            async with box.popen(["cat"], stdin=PIPE, stdout=PIPE) as process:
                await process.communicate(bytes(1 << 20))
            async for _ in box.logs(follow=True):
                break
            [await box.status, await box.stats(), await box.top(), await box.changes(), box.labels, box.name]
            await box.stop()
            await box.restart()
            await box.kill()
            await box.wait()
        async with loops.popen("tiny", ["cat"], stdin=PIPE, stdout=PIPE, text=True, rm=True) as process:
            process.stdin.write("x\n")
            await process.stdout.readline()
            process.terminate()
        cancelled = asyncio.create_task(loops.run("tiny", FOR_EVER, rm=True))
        await begun(loops)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        [event async for event in loops.events(since=0, until=1)]
        [image.tags for image in await loops.images()]
        [await loops.storage.usage(walk=False), await loops.volumes()]

    with watched() as waited:
        await a_day()
    assert waited == []


@in_loop
async def test_the_watchman_sees_what_waits(loops: AsyncEngine) -> None:
    """The test above can fail."""
    with watched() as waited:
        loops._sync.containers(all=True)
    assert any(line.startswith("posix.") for line in waited), waited


@in_loop
async def test_a_heart_beats_while_the_engine_works(loops: AsyncEngine) -> None:
    """Nothing of time is asserted: no verb is done from its beginning to its end between two beats of the heart."""
    beats = 0

    async def heart() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0)
            beats += 1

    beating = asyncio.create_task(heart())
    between = []
    for verb in (lambda: loops.run("tiny", ["true"], rm=True), loops.images, loops.containers):
        before = beats
        await verb()
        between.append(beats - before)
    beating.cancel()
    assert all(between), between


def test_several_loops_in_several_threads(loops: AsyncEngine, engine: Engine) -> None:
    def loop() -> None:
        async def main() -> None:
            for _ in range(3):
                done = await loops.run("tiny", ["cat"], input=b"x", capture_output=True, rm=True)
                said.append(done.stdout)

        asyncio.run(main())

    said: list[bytes] = []
    threads = [threading.Thread(target=loop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == [b"x"] * 12
    assert nothing_left(engine)


@in_loop
async def test_signals_and_children_of_the_program_stay_its_own(loops: AsyncEngine) -> None:
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    other = await asyncio.create_subprocess_exec("sh", "-c", "exit 7")
    await loops.run("tiny", ["true"], rm=True)
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == handlers
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
    assert await other.wait() == 7


def test_a_child_that_was_forked_goes_on(loops: AsyncEngine) -> None:
    """With threads of its own: those of its parent are not there."""
    asyncio.run(_true(loops))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            asyncio.run(_true(loops))
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


async def _true(loops: AsyncEngine) -> None:
    async with asyncio.timeout(200):
        assert (await loops.run("tiny", ["true"], rm=True)).returncode == 0


def test_no_descriptor_is_left_open(loops: AsyncEngine) -> None:
    async def some() -> None:
        await loops.run("tiny", ["cat"], input=b"x", capture_output=True, rm=True)
        async with loops.popen("tiny", ["cat"], stdin=PIPE, stdout=PIPE, rm=True) as process:
            await process.communicate(b"x")
        async with loops.start("tiny", FOR_EVER, stop_timeout=0) as box:
            await box.exec(["true"])
            async with box.popen(["cat"], stdin=PIPE, stdout=PIPE) as process:
                await process.communicate(b"x")
        [event async for event in loops.events(since=0, until=1)]

    for _ in range(2):  # from the second start on there is a nursery, and its socket
        asyncio.run(some())

    def held() -> set[tuple[int, str]]:
        """But for that socket: another nursery has another one, where nobody has asked the first for a while."""
        own = nursery._current
        return {one for one in held_descriptors().items() if own is None or one[0] != int(own[0])}

    before = held()
    asyncio.run(some())
    until(lambda: held() <= before)  # what a thread of an earlier test had open may go meanwhile


@in_loop
async def test_a_container_with_a_health_check(loops: AsyncEngine, engine: Engine) -> None:
    running = asyncio.create_task(
        loops.run("tiny", FOR_EVER, rm=True, health_cmd="true", health_interval="100ms")
    )
    await begun(loops)
    [box] = await loops.containers()
    while await box.health != "healthy":
        await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert nothing_left(engine)


@pytest.mark.userns
@pytest.mark.peer("newuidmap")
def test_without_root(rootless: Rootless) -> None:
    code = """
import asyncio, lamina

async def main():
    engine = lamina.AsyncEngine()
    done = await engine.run("host", ["id", "-u"], capture_output=True, text=True, rm=True)
    async with engine.start("host", ["sleep", "1000"], stop_timeout=0) as box:
        text = (await box.exec(["cat"], input=b"x", capture_output=True)).stdout
    running = asyncio.create_task(engine.run("host", ["sleep", "1000"], rm=True))
    while not await engine.containers():
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    print(done.stdout.strip(), text, await engine.containers(all=True))

asyncio.run(main())
"""
    done = rootless.python(code)
    assert (done.returncode, done.stdout) == (0, "0 b'x' []\n"), done.stderr


def test_importing_lamina_imports_no_asyncio() -> None:
    code = "import sys, lamina; lamina.Engine; assert 'asyncio' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_types_are_the_mirrored_ones(loops: AsyncEngine) -> None:
    async def main() -> None:
        made = await loops.create("tiny", ["true"])
        assert isinstance(made, AsyncContainer)
        await made.remove()

    asyncio.run(main())
