"""Programs of all kinds start containers: what they do with descriptors, children, threads, Python and their end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import lamina
from lamina import Engine
from support.namespaces import in_mount_namespace

pytestmark = pytest.mark.root

BEGIN = """if True:
    import os, resource, sys, threading, time
    from lamina import Engine
    from lamina.engine import detaching, nursery

    engine = Engine(sys.argv[1])
    def start():
        box = engine.start("host", ["sleep", "1000"], stop_timeout=0)
        assert box.state == "running"
        return box

    def parent(box):
        with open(f"/proc/{box._home.read('state')['supervisor']['pid']}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])

    def all_of_it():
        "Twice by an interpreter of its own, and by the nursery; and what else there is."
        boxes = [start() for _ in range(3)]
        assert engine.run("host", ["echo", "x"], capture_output=True, rm=True).stdout == b"x\\n"
        assert boxes[2].exec(["sh", "-c", "echo y; exit 7"], capture_output=True).returncode == 7
        process = boxes[2].popen(["cat"], stdin=-1, stdout=-1)
        assert process.communicate(b"z", timeout=200)[0] == b"z"
        assert (boxes[2].files / "etc/hostname").read_text()
        boxes[0].stop()
        assert boxes[0].wait(timeout=200) == 143
        for box in boxes:
            box.remove(force=True)
"""
SOURCES = os.path.dirname(os.path.dirname(lamina.__file__))


def program(engine: Engine, text: str, *options: str, before: str = "") -> str:
    argv = [sys.executable, *options, "-c", before + BEGIN + text, os.fsdecode(engine.store.path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=270, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert engine.storage.check().findings == ()
    return done.stdout


def test_one_that_has_more_open_than_select_knows(engine: Engine) -> None:
    program(
        engine,
        """
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    held = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(1500)]
    all_of_it()
    import asyncio
    from lamina import AsyncEngine
    async def waits():
        box = await AsyncEngine(sys.argv[1]).start("host", ["sleep", "1000"], stop_timeout=0)
        assert (await box.exec(["echo", "x"], capture_output=True)).stdout == b"x\\n"
        await box.remove(force=True)
    asyncio.run(waits())
    """,
    )


def test_one_that_may_have_few_open(engine: Engine) -> None:
    program(
        engine,
        """
    import errno
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    all_of_it()
    resource.setrlimit(resource.RLIMIT_NOFILE, (48, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    boxes = [start() for _ in range(3)]
    boxes[0].stop()
    try:
        boxes[1].exec(["true"])
    except OSError as error:
        assert error.errno == errno.EMFILE, error
    """,
    )


def test_one_that_has_all_open_that_it_may(engine: Engine) -> None:
    """Wherever in a start there is none left, it is said, and nothing of the container is there."""
    program(
        engine,
        """
    import errno, gc
    all_of_it(), start(), start()
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    held, came_to = [], []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        pass
    for _ in range(9):
        try:
            came_to.append(start())
        except OSError as error:
            assert error.errno == errno.EMFILE, error
            came_to.append(None)
        os.close(held.pop())
    assert came_to[0] is None and came_to[-1] is not None
    for fd in held:
        os.close(fd)
    assert len(engine.containers(all=True)) == 2 + sum(box is not None for box in came_to)
    assert len(os.listdir(os.path.join(sys.argv[1], "containers"))) == len(engine.containers(all=True))
    gc.collect()  # what was caught may hold something open
    open_now = len(os.listdir("/proc/self/fd"))
    start()
    assert len(os.listdir("/proc/self/fd")) == open_now
    """,
    )


def test_one_whose_working_directory_is_gone(engine: Engine) -> None:
    program(
        engine,
        """
    import tempfile
    gone = tempfile.mkdtemp()
    os.chdir(gone)
    os.rmdir(gone)
    all_of_it()
    """,
    )


@pytest.mark.parametrize("executable", ["''", "None", "wrapper"])
def test_one_that_is_not_python_itself(engine: Engine, tmp_path: Path, executable: str) -> None:
    """Programs that embed Python leave sys.executable empty, or name a script."""
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    said = repr(str(wrapper)) if executable == "wrapper" else executable
    program(engine, f"    sys.executable = {said}\n    all_of_it()\n")


def test_one_that_names_a_program_that_is_no_python(engine: Engine) -> None:
    said = program(
        engine,
        """
    sys.executable = "/bin/false"
    for _ in range(3):
        try:
            start()
        except Exception as error:
            print(error)
    """,
    )
    assert said.count("/bin/false ended with 1 instead of executing") == 3
    assert said.count("set sys.executable to the path of a Python") == 3


def test_one_that_has_lamina_in_an_archive_is_told_so(engine: Engine, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.pyz", "w") as archive:
        for path in Path(SOURCES, "lamina").rglob("*"):
            if path.suffix in (".py", ".json", ".txt"):
                archive.write(path, path.relative_to(SOURCES))
        script = "import sys\nfrom lamina import Engine\nEngine(sys.argv[1]).start('host', ['true'])\n"
        archive.writestr("__main__.py", script)
    argv = [sys.executable, "-I", "-S", str(tmp_path / "all.pyz"), os.fsdecode(engine.store.path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=200)
    assert "install Lamina as files: it is not executed from within an archive" in done.stderr
    assert engine.containers(all=True) == []


def test_one_that_is_isolated(engine: Engine) -> None:
    program(engine, "    all_of_it()\n", "-I", "-S", before=f"import sys\nsys.path.insert(0, {SOURCES!r})\n")


def test_one_in_development_mode_is_warned_of_nothing(engine: Engine) -> None:
    program(
        engine,
        """
    import gc
    all_of_it()
    nursery.let_go()
    all_of_it()
    gc.collect()
    """,
        "-X",
        "dev",
        "-W",
        "error",
    )


def test_one_whose_sockets_wait_but_a_moment(engine: Engine) -> None:
    """How long a program's own sockets wait, where nothing else is said, is not for ours."""
    program(
        engine,
        """
    import socket
    socket.setdefaulttimeout(0.001)
    all_of_it()
    nursery.let_go()
    all_of_it()
    """,
    )


def test_one_whose_thread_waits_for_any_child(engine: Engine) -> None:
    """It is told of children of ours; we of ours as well."""
    program(
        engine,
        """
    over = False
    def waits():
        while not over:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                time.sleep(0.0005)
    thread = threading.Thread(target=waits)
    thread.start()
    try:
        for _ in range(3):
            all_of_it()
            nursery.let_go()
    finally:
        over = True
        thread.join()
    """,
    )


# since Python 3.14 there is but its own way
WAYS = ["its own"] + [
    kind for kind in ("Threaded", "Pidfd", "Safe") if hasattr(asyncio, f"{kind}ChildWatcher")
]


@pytest.mark.parametrize("kind", WAYS)
def test_one_with_each_way_in_which_asyncio_waits_for_children(engine: Engine, kind: str) -> None:
    choose = f"asyncio.set_child_watcher(watcher := asyncio.{kind}ChildWatcher())"
    program(
        engine,
        f"""
    import asyncio, warnings
    from lamina import AsyncEngine
    warnings.simplefilter("ignore", DeprecationWarning)
    watcher = None
    {choose if kind != "its own" else ""}
    async def works():
        getattr(watcher, "attach_loop", id)(asyncio.get_running_loop())
        own = AsyncEngine(sys.argv[1])
        for number in range(3):
            box = await own.start("host", ["sleep", "1000"], stop_timeout=0)
            child = await asyncio.create_subprocess_exec("sh", "-c", "exit 5")
            waits = child.wait(), box.exec(["sh", "-c", "exit 3"]), own.run("host", ["sh", "-c", "exit 4"])
            found = await asyncio.gather(*waits)
            assert [getattr(one, "returncode", one) for one in found] == [5, 3, 4]
            await box.remove(force=True)
    asyncio.run(asyncio.wait_for(works(), 200))
    """,
    )


def test_one_that_is_about_to_end(engine: Engine) -> None:
    program(
        engine,
        """
    import atexit
    atexit.register(all_of_it)
    thread = threading.Thread(target=all_of_it)
    thread.start()
    """,
        "-X",
        "dev",
        "-W",
        "error",
    )


def test_one_with_two_stores(engine: Engine, tmp_path: Path) -> None:
    program(
        engine,
        f"""
    first, second = engine, Engine({str(tmp_path / "second")!r})
    boxes = []
    for _ in range(2):
        for engine in (first, second):
            boxes.append(start())
    assert parent(boxes[2]) == parent(boxes[3]) != 1
    assert [len(one.containers()) for one in (first, second)] == [2, 2]
    for box in boxes:
        box.remove(force=True)
    assert second.storage.check().findings == ()
    """,
    )


def test_a_child_that_has_the_same_root_at_another_place_is_not_served_by_its_parents(
    engine: Engine, tmp_path: Path
) -> None:
    """What is mounted in it is not what is mounted here."""
    root = tmp_path / "root"
    root.mkdir()

    def with_all_of_it_once_more() -> None:
        subprocess.run(["mount", "--rbind", "/", root], check=True)
        program(
            engine,
            f"""
    start(), start()
    own = parent(start())
    child = os.fork()
    if not child:
        os.chroot({str(root)!r})
        os.chdir("/")
        os._exit(0 if parent(start()) != own and parent(start()) != own else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert parent(start()) == own
    """,
        )
        for box in engine.containers():
            box.remove(force=True)

    # nobody else is to have these mounts, whose containers over this machine would have overlays of them, and whose
    # own mounts these would keep busy
    in_mount_namespace(with_all_of_it_once_more)
