"""A disk that is full, a limit of processes that is reached, at every moment: errors that say so, and nothing left."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from errno import ENOSPC
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.errors import KernelError, LaminaError
from lamina.store import trace
from support.groups import LAYOUT, Boxes
from support.leaks import Leaks
from support.lives import Command, remove_all, said, state_of, until
from support.namespaces import in_mount_namespace
from support.small_images import small_image
from support.terminal import lamina as words_of

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]
# by a verb that takes one container, by one that takes several
REFUSED = (125, 1)


# -- a disk


@pytest.mark.slow
@pytest.mark.parametrize("script", ["echo x", "echo x; exec sleep 1000", "echo x; exit 3"])
def test_a_supervisors_disk_is_full_from_any_step_on(
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    untouched_host: Leaks,
    tmp_path: Path,
    script: str,
) -> None:
    steps = tmp_path / "steps"
    policy = "on-failure:1" if "exit" in script else "no"

    def live(watch: str) -> Container:
        box = engine.create("host", ["sh", "-c", script], name="box", restart=policy)
        monkeypatch.setenv(trace.VARIABLE, watch)
        try:
            box.start()
        except KernelError as error:
            assert error.errno == ENOSPC, error
        except LaminaError as error:
            assert "supervisor ended" in error.message, error
        finally:
            monkeypatch.delenv(trace.VARIABLE)
        return box

    def settle(box: Container) -> None:
        """Until nobody looks after it any more, or it only sleeps; then the next command stops it."""
        until(lambda: not box._home.is_looked_after() or ("sleep" in script and box.state == "running"))
        engine.container("box").stop()

    settle(box := live(f"log:{steps}"))
    box.remove()
    for step in range(1, len(steps.read_text().splitlines()) + 1):
        box = live(f"fail:{step}+:{ENOSPC}")
        settle(box)
        assert box.state in ("created", "exited")
        box.start()
        until(lambda: b"x\n" in said(box))  # noqa: B023
        box.stop()
        box.remove()
        assert engine.containers(all=True) == []
    assert untouched_host.left() == []


def _fill(place: Path, leave: int) -> None:
    """Take all but so many KiB of the file system."""
    with open(place / "ballast", "ab", buffering=0) as file:
        while (free := os.statvfs(place).f_bavail * os.statvfs(place).f_frsize - leave * 1024) > 0:
            os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, min(free, 1 << 20))


def _run(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*words_of(), "--root", str(root), *words],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=200,
    )


@pytest.mark.parametrize("free", [0, 4, 12, 24, 40, 64, 96, 160])
def test_a_disk_that_is_full_in_earnest(tmp_path: Path, untouched_host: Leaks, free: int) -> None:
    """*free* KiB are left for the verbs; a container that runs already is stopped and removed also without any."""

    def on_a_small_disk() -> None:
        from lamina.linux.mount import mount

        place = tmp_path / "disk"
        place.mkdir()
        mount("tmpfs", place, "tmpfs", 0, "size=32m")
        root = place / "s"
        small_image(root)
        try:
            fill_and_live(place, root)
        finally:  # what lives would outlive this mount namespace
            (place / "ballast").unlink(missing_ok=True)
            for one in _run(root, "ps", "-aq").stdout.split():
                _run(root, "rm", "-f", one)

    def fill_and_live(place: Path, root: Path) -> None:
        before = [
            "run",
            "-d",
            "--name",
            "before",
            "tiny",
            "sh",
            "-c",
            "trap 'exit 5' TERM; echo up; sleep 1000 & wait",
        ]
        assert _run(root, *before).returncode == 0
        until(lambda: _run(root, "logs", "before").stdout == "up\n")
        assert _run(root, "run", "-d", "--name", "plain", "tiny", "sleep", "1000").returncode == 0
        _fill(place, free)
        for words in (
            ["run", "--rm", "tiny", "true"],
            ["run", "-d", "--name", "box", "tiny", "sh", "-c", "yes >/file; sleep 1000"],
            ["create", "--name", "made", "tiny", "true"],
            ["exec", "before", "sh", "-c", "echo x >/x"],
            ["rename", "before", "earlier"],
            ["rename", "earlier", "before"],
            ["update", "--pids-limit", "100", "before"],
            ["pause", "before"],
            ["unpause", "before"],
            ["volume", "create", "v"],
        ):
            done = _run(root, *words)
            assert done.returncode in (0, *REFUSED), done
            assert "Traceback" not in done.stderr, done
            assert (
                done.returncode == 0
                or words[0] == "exec"
                or "space" in done.stderr
                or (
                    "no such container" in done.stderr
                    or "not running" in done.stderr
                    or "not paused" in done.stderr
                )
            ), done
        (name,) = {"before", "earlier"} & set(_run(root, "ps", "-a", "--format", "{{.Names}}").stdout.split())
        _fill(place, free)
        for one in ("plain", name):  # the first is killed in its stop signal's stead, which is written down
            done = _run(root, "stop", one)
            assert done.returncode == 0, done
        for one in _run(root, "ps", "-aq").stdout.split():
            done = _run(root, "rm", "-f", one)
            assert done.returncode == 0, done
        assert [
            *(root / "containers").iterdir(),
            *(root / "names").iterdir(),
            *(root / "running").iterdir(),
        ] == []
        (place / "ballast").unlink()
        assert _run(root, "run", "--rm", "tiny", "echo", "again").stdout == "again\n"
        _run(root, "volume", "rm", "v")
        done = _run(root, "system", "check")
        assert done.returncode == 0, done

    in_mount_namespace(on_a_small_disk, timeout=300)


def test_a_disk_without_room_for_another_name(tmp_path: Path, untouched_host: Leaks) -> None:
    """What runs can be ended and removed, which is what makes room."""

    def on_a_small_disk() -> None:
        from lamina.linux.mount import mount

        place = tmp_path / "disk"
        place.mkdir()
        mount("tmpfs", place, "tmpfs", 0, "size=64m,nr_inodes=8000")
        root, many = place / "s", place / "many"
        small_image(root)
        try:
            for words in (("one",), ("two",), ("three",), ("four", "--restart", "always")):
                made = _run(root, "run", "-d", "--name", *words, "tiny", "sleep", "1000")
                assert made.returncode == 0, made
            many.mkdir()
            with pytest.raises(OSError, match="No space"):
                for number in range(10_000):
                    (many / str(number)).touch()
            for verb in (["stop", "one"], ["kill", "two"], ["kill", "-s", "INT", "three"]):
                done = _run(root, *verb)
                assert done.returncode == 0, done
            done = _run(root, "stop", "four")
            assert done.returncode == 1, done
            assert "No space" in done.stderr
            assert "containers/" in done.stderr
            done = _run(root, "rm", "-f", "one", "two", "three", "four")
            assert done.returncode == 0, done
        finally:  # what lives would outlive this mount namespace
            shutil.rmtree(many, ignore_errors=True)
            for one in _run(root, "ps", "-aq").stdout.split():
                _run(root, "rm", "-f", one)
        done = _run(root, "system", "check")
        assert done.returncode == 0, done

    in_mount_namespace(on_a_small_disk, timeout=300)


# -- processes


@pytest.fixture
def boxes(untouched_host: Leaks) -> Iterator[Boxes]:
    if not ("pids" in LAYOUT.v1 or "pids" in LAYOUT.v2_controllers):
        pytest.skip("there is no controller of processes")
    found = Boxes()
    yield found
    found.close()


@pytest.mark.parametrize("most", [1, 2, 3, 4, 5, 6, 8])
def test_a_limit_of_processes_that_is_reached(
    engine: Engine, boxes: Boxes, lamina: Command, tiny: None, most: int
) -> None:
    """Of whoever calls: each fork, thread and clone of ours may be the one too many."""
    there = engine.start("tiny", ["sleep", "1000"], name="there")
    group = boxes.make({"pids": {"limit": most}})
    for words in (
        "run --rm tiny echo hi", "run -d --name box tiny sleep 1000", "exec there echo hi", "exec -d there true",
        "stop -t 0 there", "start there", "restart -t 0 there", "create --name made tiny true", "ps -a",
        "run -dt tiny true",
    ):  # fmt: skip
        done = boxes.run(group, "exec " + " ".join(words_of(*words.split())))
        assert done.returncode in (0, *REFUSED), (words, done)
        assert "Traceback" not in done.stderr, (words, done)
        assert done.returncode == 0 or done.stderr.startswith("lamina: "), (words, done)
    assert there.state in ("running", "exited")
    remove_all(engine)
    assert lamina("run", "--rm", "tiny", "echo", "again").stdout == "again\n"


def test_a_container_whose_limit_is_reached_can_be_stopped(
    engine: Engine, tiny: None, lamina: Command
) -> None:
    script = "while :; do sleep 1000 & done 2>/dev/null; echo full; while :; do :; done"
    box = engine.start("tiny", ["sh", "-c", script], name="box", pids_limit=6)
    state_of(box)
    done = lamina("exec", "box", "true")
    assert done.returncode in (0, 125, 126), done
    assert "Traceback" not in done.stderr
    assert lamina("stop", "-t", "1", "box").returncode == 0
    assert box.state == "exited"
