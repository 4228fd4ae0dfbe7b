"""Containers over this machine have states like others: kept, forked, gone back in, and one of them applied."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from errno import EINVAL
from pathlib import Path

import pytest

from lamina import Engine
from lamina.engine import starting
from lamina.errors import HostChanged, StepFailed, Unsupported
from support.lives import until

pytestmark = pytest.mark.root
Lamina = Callable[..., "subprocess.CompletedProcess[str]"]


def test_the_states_of_a_try(engine: Engine, lamina: Lamina, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "version").write_text("1\n")

    def here() -> dict[str, str]:
        return {path.name: path.read_text() for path in work.iterdir()}

    script = f"echo 2 >{work}/version; echo new >{work}/new"
    done = lamina("try", "--keep", "--name", "tried", "--network", "none", "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    tried = engine.container("tried")
    first = tried.snapshot("first")
    assert {os.fsdecode(change.path) for change in first.changes([str(work)])} >= {
        f"{work}/version",
        f"{work}/new",
    }

    # a fork goes on where it is, and is reviewed with all that it stands on
    [child] = tried.fork(
        name="child", command=["sh", "-c", f"cat {work}/*; echo 3 >{work}/version; rm {work}/new"]
    )
    child.start()
    assert child.wait() == 0
    until(lambda: child.state == "exited")
    assert lamina("logs", "child").stdout == "new\n2\n"
    assert [
        (os.fsdecode(change.path), change.kind)
        for change in child.changes([str(work)])
        if not change.incidental
    ] == [(f"{work}/version", "changed")]
    child.snapshot("second")

    # the state that is chosen, and taken back
    assert here() == {"version": "1\n"}
    shown = lamina("apply", "--dry-run", "tried@first", work)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    done = lamina("apply", "tried@first", work)
    assert done.returncode == 0 and "lamina undo tried" in done.stdout, done.stderr
    assert here() == {"version": "2\n", "new": "new\n"}
    assert lamina("undo", "tried").returncode == 0
    assert here() == {"version": "1\n"}
    # what one container applied is this machine's own change to another one
    assert lamina("apply", "child@second", work).returncode == 125
    assert lamina("apply", "--force", "child@second", work).returncode == 0
    assert here() == {"version": "3\n"}
    assert lamina("undo", "child").returncode == 0
    assert here() == {"version": "1\n"}

    # gone back in: what was done since is not there any more
    child.start()
    child.wait()
    until(lambda: child.state == "exited")
    child.rewind("second")
    assert lamina("diff", "child", work).stdout.split()[:2] == ["C", f"{work}/version"]
    tried.remove()
    engine.storage.collect()

    # what this machine has changed since the first of them started stands against it
    (work / "version").write_text("mine\n")
    [late] = child.fork(name="late")
    with pytest.raises(HostChanged):
        late.apply([str(work)])
    assert here() == {"version": "mine\n"}
    late.apply([str(work)], force=True)
    assert here() == {"version": "3\n"}
    late.undo()
    assert here() == {"version": "mine\n"}


def test_a_fork_over_this_machine_that_runs_knows_its_name(engine: Engine, tmp_path: Path) -> None:
    box = engine.create("host", ["sleep", "1000"], stop_timeout=0)
    box.snapshot()
    [one, other] = box.fork(
        2, start=True, command=["sh", "-c", f"hostname >{tmp_path}/name; exec sleep 1000"]
    )
    until(lambda: all((child.files / f"{tmp_path}/name").exists() for child in (one, other)))
    assert not (tmp_path / "name").exists()
    for child in (one, other):
        child.kill()


def test_what_it_wrote_is_not_left_out_where_its_place_cannot_be_overlaid_any_more(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = engine.create("host", ["true"], name="box")
    place = {"at": "/elsewhere", "inode": 0, "lower": ["/elsewhere"], "upper": "upper-9", "work": "work-9"}
    asked = box._home.asked()
    asked["overlays"].append({**place, "userxattr": False, "frozen": ["x" + "0" * 63]})

    def refused(*_: object, **__: object) -> None:
        raise StepFailed("fsconfig", EINVAL, place=b"/elsewhere")

    monkeypatch.setattr(starting, "launch", refused)
    monkeypatch.setattr(starting.Start, "_prepare", lambda self, drawn: None)
    assert box._home.hold()
    try:
        with pytest.raises(Unsupported, match="what it wrote at /elsewhere cannot be shown") as raised:
            starting.Start(box._home, asked, (0, 1, 2), dependent=False)._launch()
        assert "lamina diff box" in raised.value.remedy
    finally:
        box._home.release()


def test_a_state_whose_layers_were_put_together_since(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    box = engine.create("host", ["sh", "-c", f"date +%N >>{tmp_path}/each; rm -f {tmp_path}/old"])
    for number in range(3):
        box.start()
        box.wait()
        until(lambda: box.state == "exited")
        snapshot = box.snapshot(f"state-{number}")
    before = [(change.path, change.kind) for change in snapshot.changes([str(tmp_path)])]
    box.squash()
    assert [(change.path, change.kind) for change in snapshot.changes([str(tmp_path)])] == before
    assert (os.fsencode(tmp_path / "old"), "deleted") in before
    snapshot.apply([str(tmp_path)])
    assert len((tmp_path / "each").read_text().split()) == 3 and not (tmp_path / "old").exists()
    box.undo()
    assert (tmp_path / "old").read_text() == "old" and not (tmp_path / "each").exists()
