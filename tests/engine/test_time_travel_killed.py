"""Whoever makes a snapshot, or goes back, is killed at every step, or the disk fails there: it has happened or it has
not, and whoever comes next goes on. Every third step, another third in each run; all of them with LAMINA_STRESS=full.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from errno import EINVAL, EIO, ENOSPC
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.engine import chains, half_replaced, replacing, restacking
from lamina.engine.stragglers import whereabouts
from lamina.errors import Conflict, KernelError, LaminaError, NotFound
from lamina.store import trace
from lamina.store.snapshots import all_of
from support.lives import place_of
from support.workers import FULL

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox"), pytest.mark.usefixtures("tiny")]

Verb = Callable[[Container], object]


def steps(seed: int) -> range:
    return range(1, 200) if FULL else range(1 + seed % 3, 200, 3)


@pytest.fixture(autouse=True)
def _unwatched() -> Iterator[None]:
    yield
    trace.hook = None


def killed(engine: Engine, verb: Verb, step: int) -> bool:
    """Whether the *step* was reached, at which the process is killed."""
    pid = os.fork()
    if not pid:
        try:
            box = Engine(os.fsdecode(engine.store.path)).container("box")
            trace.hook = trace.parse(f"kill:{step}")
            verb(box)
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return status != 0


def let_down(box: Container, verb: Verb, step: int) -> bool:
    """Whether the *step* was reached, which fails."""
    reached: list[str] = []
    fails = trace.parse(f"fail:{step}:{EIO}")

    def hook(name: str) -> None:
        reached.append(name)
        fails(name)

    trace.hook = hook
    try:
        verb(box)
    except LaminaError:
        pass
    finally:
        trace.hook = None
    return len(reached) >= step


def left(box: Container) -> list[str]:
    """What is in its directory that should not be there."""
    return [
        name
        for name in os.listdir(place_of(box))
        if name.startswith("freezing-") or name.endswith(".new") or name in box.record.get("left", ())
    ]


def test_the_next_upper_of_one_who_was_killed_is_not_taken_as_it_is(engine: Engine) -> None:
    """It looks as the root did when it was made."""
    box = engine.create("tiny", ["true"], name="box")
    (box.files / "n").write_text("1")
    pid = os.fork()
    if not pid:
        trace.hook = lambda step: os.kill(os.getpid(), signal.SIGKILL) if step == "record.rename" else None
        Engine(os.fsdecode(engine.store.path)).container("box").snapshot()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    upper = box.overlays()[0][1].upperdir
    assert upper is not None
    os.chmod(upper, 0o711)
    os.chown(upper, 7, 8)
    box.snapshot()
    new = box.overlays()[0][1].upperdir
    assert new not in (None, upper)
    found = os.stat(new or b"")
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o711, 7, 8)
    assert (box.files / "n").read_text() == "1"


@pytest.mark.parametrize("how", ["killed", "let down"])
def test_one_that_does_not_run(engine: Engine, how: str, seed: int) -> None:
    box = engine.create("tiny", ["true"], name="box")
    numbers = [0]
    last = box.snapshot().id

    def stopped(verb: Verb, step: int) -> bool:
        return killed(engine, verb, step) if how == "killed" else let_down(box, verb, step)

    for step in steps(seed):
        (box.files / "n").write_text(str(step))
        before = {one.id for one in box.snapshots()}
        if not stopped(lambda box: box.snapshot(), step):
            break
        assert (box.files / "n").read_text() == str(step), step
        new = [one for one in box.snapshots() if one.id not in before]
        after = box.snapshot()
        assert [*(one.parent for one in new), after.parent] == [last, *(one.id for one in new)], step
        last = after.id
        if new:
            (box.files / "n").write_text("other")
            box.rewind(new[0])
            last = new[0].id
            assert (box.files / "n").read_text() == str(step), step
        numbers.append(step)
    assert len(numbers) > 5
    (box.files / "n").write_text("first")
    first = box.snapshot("first")
    for step in steps(seed):
        box.rewind(first)
        (box.files / "n").write_text("later")
        if not stopped(lambda box: box.rewind("first"), step):
            break
        assert (box.files / "n").read_text() in ("first", "later"), step
    assert step > 5
    box.snapshot()
    engine.storage.collect()
    assert left(box) == []
    assert engine.storage.check().findings == ()
    box.rewind("first")
    assert (box.files / "n").read_text() == "first"


def test_one_that_runs(engine: Engine, seed: int) -> None:
    box = engine.start("tiny", ["sleep", "600"], name="box", init=True)

    def sh(script: str) -> str:
        done = box.exec(["sh", "-c", script], capture_output=True, text=True, timeout=200, check=True)
        return str(done.stdout)

    try:
        for step in steps(seed):
            sh(f"echo {step} >/n")
            before = {one.id for one in box.snapshots()}
            if not killed(engine, lambda box: box.snapshot(), step):
                break
            assert sh("cat /n") == f"{step}\n"
            sh("echo other >/n")
            for new in [one for one in box.snapshots() if one.id not in before]:
                box.rewind(new)
                assert sh("cat /n") == f"{step}\n"
        assert step > 15
        sh("echo first >/n")
        first = box.snapshot("first")
        for step in steps(seed):
            box.rewind(first)
            sh("echo later >/n")
            if not killed(engine, lambda box: box.rewind("first"), step):
                break
            assert sh("cat /n") in ("first\n", "later\n"), step
        assert step > 5
        assert box.state == "running"
        box.snapshot()
        assert left(box) == []
    finally:
        box.remove(force=True)
    engine.storage.collect()
    assert engine.storage.check().findings == ()


@pytest.mark.parametrize("verb", ["copy", "rewind"])
def test_one_that_goes_on_and_ends_before_anybody_comes(engine: Engine, verb: str, seed: int) -> None:
    """What it wrote after its snapshot, or its going back, was broken off is there when it is started again."""
    box = engine.start("tiny", ["sleep", "600"], name="box", init=True)

    def sh(script: str) -> str:
        done = box.exec(["sh", "-c", script], capture_output=True, text=True, timeout=200, check=True)
        return str(done.stdout)

    def work(box: Container) -> None:
        if verb == "copy":
            box.snapshot(consistency="copy")
        else:
            box.rewind("first")

    try:
        sh("echo 1 >/1; echo 2 >/2; mkdir /d; echo 3 >/d/3")
        box.snapshot("first")
        for step in steps(seed):
            sh("echo 4 >/4; echo 5 >/5")
            if not killed(engine, work, step):
                break
            sh(f"echo {step} >/after")
            before = sh("ls / /d")
            box.stop(timeout=0)
            box.start()
            assert sh("cat /after") == f"{step}\n", step
            assert sh("ls / /d") == before, step
        assert step > 5
    finally:
        box.remove(force=True)
    engine.storage.collect()
    assert engine.storage.check().findings == ()


def test_a_copy_that_fills_the_disk(engine: Engine) -> None:
    """Nothing can be written down then; what was copied so far makes room again, and is not what was written."""
    box = engine.start("tiny", ["sleep", "600"], name="box", init=True)
    full = False

    def hook(name: str) -> None:
        nonlocal full
        full = full or name == "state.rename-layer"
        if full:
            raise OSError(ENOSPC, os.strerror(ENOSPC))

    try:
        box.exec(["sh", "-c", "echo 1 >/1"], check=True)
        trace.hook = hook
        with pytest.raises(LaminaError, match="No space left"):
            box.snapshot(consistency="copy")
        assert not [name for name in os.listdir(place_of(box)) if name.startswith("freezing-")]
        trace.hook = None
        box.exec(["sh", "-c", "echo 2 >/2"], check=True)
        box.stop(timeout=0)
        box.start()
        assert box.exec(["cat", "/1", "/2"], capture_output=True, text=True).stdout == "1\n2\n"
    finally:
        trace.hook = None
        box.remove(force=True)


def test_removed_in_between(engine: Engine, tmp_path: Path) -> None:
    box = engine.create("tiny", ["true"], name="box")
    place = place_of(box)

    def hook(name: str) -> None:
        if name in ("state.rename-upper", "state.mkdir-upper") and os.path.exists(place):
            os.rename(place, tmp_path / "gone")

    def verbs() -> Iterator[Callable[[], object]]:
        yield box.snapshot
        yield lambda: box.rewind("first")

    (box.files / "n").write_text("first")
    box.snapshot("first")
    for verb in verbs():
        (box.files / "n").write_text("later")
        trace.hook = hook
        with pytest.raises(NotFound, match=box.short_id):
            verb()
        trace.hook = None
        os.rename(tmp_path / "gone", place)
    box.remove()


def test_a_process_that_is_just_ending_has_no_mounts(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the kernel says that its number is an invalid argument."""
    box = engine.start("tiny", ["sleep", "600"], name="box", init=True)

    def ending(pid: int) -> None:
        raise KernelError("read", EINVAL, f"/proc/{pid}/mountinfo")

    monkeypatch.setattr(half_replaced, "read_mountinfo", ending)
    assert restacking.swapped_to(box._home, [], ()) is None
    box.exec(["touch", "/f"], check=True)
    monkeypatch.setattr(replacing, "read_mountinfo", ending)
    with pytest.raises(Conflict, match="it has just ended"):
        box.snapshot()
    box.remove(force=True)


def test_a_copy_is_the_state_that_it_stands_on_or_nothing_is_settled(engine: Engine) -> None:
    box = engine.start("tiny", ["sleep", "600"], name="box", init=True)
    box.exec(["touch", "/f"], check=True)
    home = box._home
    for step in range(1, 200):
        before = {one.id for one in box.snapshots()}
        if not killed(engine, lambda box: box.snapshot(consistency="copy"), step):
            break
        asked = home.asked()
        new = {one.id for one in all_of(home)} - before
        assert chains.pending(asked) or not new or new == {str(asked.get("snapshot"))}, step
        box.exec(["true"], check=True)
    assert step > 5
    box.remove(force=True)


def test_where_a_directory_is_whose_file_system_was_replaced(tmp_path: Path) -> None:
    """Of several file systems nobody says which it was of: what could be in two of them is left where it is."""
    for name in ("work", "home/ann", "srv/work", "srv/data"):
        (tmp_path / name).mkdir(parents=True)
    root = os.open(tmp_path, os.O_PATH)
    try:
        assert whereabouts(root, b"/work", [b"/"]) == b"/work"
        assert whereabouts(root, b"/ann", [b"/", b"/home", b"/srv"]) == b"/home/ann"
        assert whereabouts(root, b"/work", [b"/", b"/srv"]) is None
        assert whereabouts(root, b"/gone", [b"/", b"/srv"]) is None
    finally:
        os.close(root)
